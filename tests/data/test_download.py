import functools
import gc
import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from vanishing import data
from vanishing.data import download

# A failed download leaves a socket for the garbage collector, inside the libraries below us.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()


@pytest.fixture
def requests(tmp_path, monkeypatch):
    """A server on this machine that publishes two small files and an archive."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "a.gz").write_bytes(b"first")
    (folder / "b.gz").write_bytes(b"second")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("data_batch_1", "test_batch"):
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = 4
            archive.addfile(info, io.BytesIO(b"data"))
    (folder / "c.tar.gz").write_bytes(buffer.getvalue())

    def md5(name):
        return f"md5:{hashlib.md5((folder / name).read_bytes()).hexdigest()}"

    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    sources = {
        "pair": (url, {name: md5(name) for name in ("a.gz", "b.gz")}),
        "archive": (url, {"c.tar.gz": md5("c.tar.gz")}),
        "other": (url, {"a.gz": "md5:" + "0" * 32}),
        "absent": (url, {"nothing.gz": "md5:" + "0" * 32}),
    }
    monkeypatch.setattr(download, "_SOURCES", sources)
    yield requests
    server.shutdown()
    server.server_close()


def test_files_are_downloaded_once(requests, tmp_path):
    for _ in range(2):
        folder = data.fetch("pair", cache=tmp_path)
        assert (folder / "a.gz").read_bytes() == b"first"
        assert (folder / "b.gz").read_bytes() == b"second"
    assert requests == ["/a.gz", "/b.gz"]


def test_an_archive_is_unpacked(requests, tmp_path):
    folder = data.fetch("archive", cache=tmp_path)
    assert (folder / "cifar-10-batches-py" / "data_batch_1").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["other", "absent"])
def test_a_wrong_or_absent_file_is_refused_and_not_kept(requests, tmp_path, name):
    with pytest.raises(data.DataError) as caught:
        data.fetch(name, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert f"{name} cannot be downloaded" in str(caught.value)
    assert "--data_dir" in str(caught.value)
    assert not [path for path in (tmp_path / name).rglob("*") if path.is_file()]


def test_no_network_gives_one_line(tmp_path):
    with pytest.raises(data.DataError) as caught:
        data.fetch("mnist", base_url="http://127.0.0.1:1/", cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert "mnist cannot be downloaded: train-images-idx3-ubyte.gz" in str(caught.value)
