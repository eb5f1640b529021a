import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import assert_refuses, real_data
from vanishing import data
from vanishing.data import readers
from vanishing.data.readers import read_bytes

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
IDX = b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x03\0\0\0\x04" + bytes(range(24))  # by the format's page


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def refuses(read, path, *fragments):
    assert_refuses(lambda: read(path), str(path), *fragments)


def test_idx_plain_and_compressed(tmp_path):
    plain = written(tmp_path, "images", IDX)
    gzipped = written(tmp_path, "images.gz", gzip.compress(IDX))
    for path in (plain, gzipped):
        images = data.read_idx(path, axes=3)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, IMAGES)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (IDX[:-1], "holds 23 bytes after its header, but its shape (2, 3, 4) takes 24"),
        (IDX + b"x", "holds more bytes after its header, but its shape (2, 3, 4) takes 24"),
        (IDX[:9], "ends within its header: 9 of 16 bytes"),
        (b"", "begins with bytes none"),
        (b"\0\0\x08\x01" + IDX[4:], "begins with bytes 00 00 08 01, but an IDX file"),
        (b"\0\0\x0d\x03" + IDX[4:], "begins with bytes 00 00 0d 03"),
        (b"<html>404</html>", "begins with bytes 3c 68 74 6d"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "no published file has over 2147483647"),
        (b"\0\0\x08\x03" + b"\0\1\0\0" * 3, "which takes 281474976710656 bytes"),
        (b"\0\0\x08\x03" + b"\0\0\1\0" * 3, "holds 0 bytes after its header"),
    ],
    ids=[
        "short",
        "long",
        "header",
        "empty",
        "labels",
        "floats",
        "page",
        "huge",
        "large",
        "no data",
    ],
)
def test_idx_refuses(tmp_path, content, fragment):
    refuses(lambda p: data.read_idx(p, 3), written(tmp_path, "images", content), fragment)


@pytest.mark.parametrize("cut", [5, 20, -1])
def test_a_cut_gzip_file_is_refused(tmp_path, cut):
    path = written(tmp_path, "images.gz", gzip.compress(IDX)[:cut])
    refuses(lambda p: data.read_idx(p, 3), path, "truncated or no gzip file")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    content = bytearray(gzip.compress(IDX))
    content[-6] ^= 1  # its checksum
    path = written(tmp_path, "images.gz", bytes(content))
    refuses(read, path, "truncated or no gzip file")
    refuses(read, written(tmp_path, "plain.gz", IDX), "truncated or no gzip file")


def test_missing_and_unreadable_files_are_refused(tmp_path):
    refuses(read, tmp_path / "absent", "is missing")
    refuses(read, tmp_path, "cannot be read: it is no regular file")


def read(path):
    return read_bytes(path, 1000)


def read_images(path):
    return data.read_idx(path, 3)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_no_more_of_a_file_is_taken_than_its_header_allows(tmp_path, name):
    """Of a file that goes on, one byte more is read, which shows that there is more."""
    long = IDX + bytes(100_000)
    path = written(tmp_path, name, gzip.compress(long) if name.endswith("gz") else long)
    assert read_bytes(path, 50) == long[:50]
    refuses(lambda p: data.read_idx(p, 3), path, "holds more bytes after its header")


def test_only_regular_files_are_read_and_links_to_them(tmp_path):
    path = written(tmp_path, "images", IDX)
    (tmp_path / "link").symlink_to(path)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "link", 3), IMAGES)
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to: to open it would wait
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path / "to_pipe", Path("/dev/zero"), tmp_path):
        for reader in (
            lambda p: data.read_idx(p, 3),
            data.read_cifar_binary,
            data.read_cifar_pickle,
        ):
            refuses(reader, place, "cannot be read: it is no regular file")


def test_a_batch_of_more_than_a_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_MOST_IMAGES", 1)
    monkeypatch.setattr(readers, "_MOST_PICKLED", 1000)
    _, content = cifar_records()
    refuses(data.read_cifar_binary, written(tmp_path, "a", content), "holds over 1 records")
    planes, _ = cifar_records()
    path = written(tmp_path, "b", python2_pickle(planes, [7, 3]))
    refuses(data.read_cifar_pickle, path, "holds over 1000 bytes")


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint16, "S3", bool])
def test_a_pickled_array_of_another_type_is_refused(tmp_path, dtype):
    batch = {b"data": np.zeros((2, 3072), dtype), b"labels": [1, 2]}
    path = written(tmp_path, "data_batch_1", pickle.dumps(batch, 2))
    refuses(data.read_cifar_pickle, path, "is not loaded: it holds an array of", "unsigned bytes")


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((2, 3), b""),
        ((2, 3), bytes(5)),
        ((2, 3), None),
        ((2, 3), [1, 2, 3, 4, 5, 6]),
        ((2**40, 2**40), bytes(6)),
        ((-2, -3), bytes(6)),
        ((2.0, 3), bytes(6)),
        (6, bytes(6)),
    ],
    ids=["none", "short", "absent", "list", "overflow", "negative", "floats", "number"],
)
def test_an_array_is_as_large_as_its_data(shape, content):
    """The stand-in for NumPy's class gets what a file says of shape and data."""
    one_byte = readers._dtype("u1", False, True)
    whole = readers._reconstruct(readers._Bytes, (0,), b"b")
    whole.__setstate__((1, (2, 3), one_byte, False, bytes(range(6))))
    assert whole.array.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(data.DataError, match="is not loaded: it holds an array"):
        readers._Bytes().__setstate__((1, shape, one_byte, False, content))
    with pytest.raises(data.DataError, match="a kind of array other than numpy"):
        readers._reconstruct(np.ndarray, (2, 3), b"b")
    assert readers._Bytes().array is None  # an array that never gets its data is no image


def test_a_pickle_takes_no_memory_by_a_number_alone(tmp_path):
    far = b"\x80\x02}r\xff\xff\x00\x00."  # memo entry 65,535 of a file of 9 bytes
    refuses(
        data.read_cifar_pickle, written(tmp_path, "x", far), "no batch of images needs LONG_BINPUT"
    )
    array = pickle.dumps(bytearray(3), 5)
    refuses(data.read_cifar_pickle, written(tmp_path, "y", array), "needs BYTEARRAY8")


def cifar_records():
    """Two records: label, then a red, a green and a blue plane, row by row."""
    planes = np.random.default_rng(0).integers(256, size=(2, 3, 32, 32), dtype=np.uint8)
    content = b"".join(
        bytes([label]) + image.tobytes() for label, image in zip((7, 3), planes, strict=True)
    )
    return planes, content


def test_cifar_binary(tmp_path):
    planes, content = cifar_records()
    images, labels = data.read_cifar_binary(written(tmp_path, "data_batch_1.bin", content))
    assert labels.tolist() == [7, 3]
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], planes[:, channel])


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
def test_cifar_binary_refuses_a_broken_record(tmp_path, content):
    path = written(tmp_path, "data_batch_1.bin", content)
    refuses(data.read_cifar_binary, path, f"has {len(content)} bytes", "3073")


def python2_pickle(planes, labels):
    """A batch as Python 2 and NumPy 1 pickled it, opcode by opcode."""
    pixels = planes.reshape(len(planes), -1)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        + b"(K\x01K"
        + bytes([len(pixels)])
        + b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + pixels.size.to_bytes(4, "little")
        + pixels.tobytes()
        + b"tb"
    )
    label_list = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + label_list + b"u."


def test_cifar_pickle_as_published(tmp_path):
    planes, _ = cifar_records()
    path = written(tmp_path, "data_batch_1", python2_pickle(planes, [7, 3]))
    images, labels = data.read_cifar_pickle(path)
    assert labels.tolist() == [7, 3]
    np.testing.assert_array_equal(images, planes.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("protocol", range(2, 5))
def test_cifar_pickle_as_python_3_writes_it(tmp_path, protocol):
    planes, _ = cifar_records()
    batch = {b"data": planes.reshape(2, -1), b"labels": [7, 3]}
    path = written(tmp_path, "data_batch_1", pickle.dumps(batch, protocol))
    images, _ = data.read_cifar_pickle(path)
    np.testing.assert_array_equal(images, planes.transpose(0, 2, 3, 1))


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    for attack in (Attack(open, str(trace), "w"), Attack(exec, f"open({str(trace)!r}, 'w')")):
        path = written(tmp_path, "data_batch_1", pickle.dumps({b"data": attack}, protocol))
        refuses(data.read_cifar_pickle, path, "is not loaded: it asks for ")
        assert not trace.exists()


def test_a_pickle_may_not_decode_anything_but_latin1(tmp_path):
    import _codecs

    path = written(tmp_path, "x", pickle.dumps(Attack(_codecs.encode, "x", "rot13"), 2))
    refuses(data.read_cifar_pickle, path, "codec 'rot13'")


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 256]},
    ],
    ids=["list", "no labels", "one label", "narrow", "label 256"],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, batch):
    path = written(tmp_path, "data_batch_1", pickle.dumps(batch))
    refuses(data.read_cifar_pickle, path, "is no CIFAR-10 batch")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({b"data": 1})[:-3]])
def test_a_broken_pickle_is_refused(tmp_path, content):
    path = written(tmp_path, "data_batch_1", content)
    refuses(data.read_cifar_pickle, path, "truncated or no pickle")


def test_published_mnist_files():
    folder = real_data("mnist")
    assert (
        hashlib.md5((folder / "train-images-idx3-ubyte.gz").read_bytes()).hexdigest()
        == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    )
    images = data.read_idx(folder / "train-images-idx3-ubyte.gz", 3)
    labels = data.read_idx(folder / "train-labels-idx1-ubyte.gz", 1)
    assert images.shape == (60_000, 28, 28)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # the mean and standard deviation of pixels that every MNIST tutorial normalises with
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_published_cifar_records():
    path = real_data("cifar-10-batches-bin") / "data_batch_1.bin"
    assert hashlib.md5(path.read_bytes()).hexdigest() == "ca2bcb0da4ab6f9730956cc181ca73ad"
    images, labels = data.read_cifar_binary(path)
    assert images.shape == (9_980, 32, 32, 3)
    assert labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert images[0, 0, 0].tolist() == [59, 62, 63]  # the frog's first pixel
