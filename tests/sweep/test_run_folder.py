import dataclasses
import importlib.metadata
import os

import jax
import numpy as np
import pytest
import xarray as xr

from tests.helpers import assert_refuses
from vanishing.sweep import run_folder, storage
from vanishing.sweep.run_folder import CodeVersion, Folder

CODE = CodeVersion(
    modules={"experiments.x": "abc", "vanishing.train.run": "def", "vanishing": "012"},
    libraries={"jax": "0.10.2"},
)


def changed(**modules):
    return CODE._replace(modules={**CODE.modules, **modules})


def claim(path, config=None, code=CODE, **more):
    with run_folder.claimed(path, config or {"depths": (2, 3)}, code, **more) as store:
        return store


def part(value):
    return xr.Dataset({"y": ("point", np.full(2, value))})


def test_the_same_configuration_finds_what_it_left(tmp_path):
    claim(tmp_path / "new").save_part("cell", range(0, 2), part(1.0))
    parts = claim(tmp_path / "new").parts("cell")
    assert list(parts) == [range(0, 2)]
    xr.testing.assert_identical(storage.load(parts[range(0, 2)]), part(1.0))


def test_parts_come_in_order_of_their_points(tmp_path):
    for start in (100, 0, 20):
        Folder(tmp_path).save_part("cell", range(start, start + 2), part(start))
    assert [span.start for span in Folder(tmp_path).parts("cell")] == [0, 20, 100]
    whole = next((tmp_path / "cells" / "cell").glob("20-*.nc"))
    for name in (f"{storage.DRAFT}{whole.name}", "20-22 (copy).nc", f"{whole.name}.nc", "20-22.nc"):
        (whole.parent / name).write_bytes(whole.read_bytes())
    assert [span.start for span in Folder(tmp_path).parts("cell")] == [0, 20, 100]


def damage(path, at=0.5):
    contents = bytearray(path.read_bytes())
    contents[int(at * (len(contents) - 1))] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize("at", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_part_with_a_single_wrong_bit_is_named_and_removed(at, tmp_path, caplog):
    store = claim(tmp_path)
    for start in (0, 2):
        store.save_part("cell", range(start, start + 2), part(start))
    path = store.parts("cell")[range(0, 2)]
    damage(path, at)
    assert_refuses(lambda: store.load_part("cell", range(0, 2)), f"{path} is damaged; the same")
    assert store.whole_parts("cell") == [range(2, 4)]
    assert f"{path} is damaged; it is computed again." in caplog.text
    assert not path.exists()


def test_parts_of_another_owner_or_grid_are_none(tmp_path, caplog):
    store = claim(tmp_path)
    store.save_part("cell", range(0, 2), part(1.0))
    assert not run_folder.of(tmp_path, {"depths": (2,)}, CODE).whole_parts("cell")
    assert not caplog.text
    assert store.whole_parts("cell") == [range(0, 2)]
    assert not dataclasses.replace(store, sweep="another grid").whole_parts("cell")


def test_a_dataset_without_its_checksum_was_being_written(tmp_path, caplog):
    store = claim(tmp_path)
    store.save_part("cell", range(0, 2), part(1.0))
    store.finish(part(1.0), complete=False)
    assert store.is_finished()
    (tmp_path / "data.sha256").unlink()
    assert not store.is_finished()
    assert not caplog.text
    store.clear("cells")
    assert not store.is_finished()
    assert f"{store.data} is damaged; it is computed again." in caplog.text
    caplog.clear()
    store.finish(part(1.0), complete=True)
    damage(store.data)
    assert not store.is_finished()
    assert f"{store.data} is damaged; it is computed again." in caplog.text


def test_a_wrong_bit_in_the_config_is_no_other_configuration(tmp_path, caplog):
    claim(tmp_path).save_part("cell", range(0, 2), part(1.0))
    path = tmp_path / "config.json"
    text = path.read_text()
    path.write_text(text.replace("2", "3", 1))
    assert claim(tmp_path).whole_parts("cell") == [range(0, 2)]
    assert f"{path} is damaged; it is written anew." in caplog.text
    assert path.read_text() == text
    path.write_text("[]")
    message = f"{path} is damaged, and {tmp_path / 'cells'}"
    assert_refuses(lambda: claim(tmp_path, {"depths": (4,)}), message, "may be of another run; giv")
    assert not claim(tmp_path, {"depths": (4,)}, overwrite=True).parts("cell")


def test_a_refusal_leaves_what_there_was(tmp_path):
    def refused(path):
        with run_folder.claimed(path, {}, CODE) as store:
            (store.path / "cache").mkdir(exist_ok=True)
            raise ValueError("no such data")

    (tmp_path / "mine" / "cache").mkdir(parents=True)
    (tmp_path / "mine" / "notes.txt").touch()
    for path in (tmp_path / "a" / "b", tmp_path / "mine"):
        assert_refuses(lambda path=path: refused(path), "no such data")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "mine", "notes.txt"]
    (tmp_path / "mine" / "data.nc").touch()
    assert_refuses(lambda: claim(tmp_path / "mine"), "data.nc was not written by an experiment")
    assert not (tmp_path / "mine" / ".lock").exists()


def test_an_error_after_a_part_and_an_interruption_leave_the_folder(tmp_path):
    def full():
        with run_folder.claimed(tmp_path / "a", {"a": 1}, CODE) as store:
            store.save_part("cell", range(0, 2), part(1.0))
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        full()
    with pytest.raises(KeyboardInterrupt), run_folder.claimed(tmp_path / "b", {}, CODE):
        raise KeyboardInterrupt
    assert claim(tmp_path / "a", {"a": 1}).whole_parts("cell") == [range(0, 2)]
    assert (tmp_path / "b" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": {"depths": (2,)}}, "with depths=[2, 3], not [2]; give another --out, or --ov"),
        ({"config": {"depths": (2, 3), "seeds": 1}}, "holds a run with seeds=None, not 1;"),
        ({"code": CODE._replace(libraries={"jax": "0.12.0"})}, "with jax=0.10.2, not 0.12.0;"),
        (
            {"code": changed(**{"vanishing": "1", "vanishing.train.run": "2"})},
            "vanishing.train.run has changed since",
        ),
        (
            {"code": changed(**{"vanishing.data": "3"})},
            "vanishing.data is imported now, and was not",
        ),
        (
            {"code": CODE._replace(modules={"experiments.x": "abc", "vanishing": "012"})},
            "vanishing.train.run is not imported any more",
        ),
    ],
)
def test_another_configuration_or_code_version_is_not_mixed_in(tmp_path, arguments, message):
    claim(tmp_path).save_part("cell", range(0, 2), part(1.0))
    assert_refuses(
        lambda: claim(tmp_path, **arguments),
        message,
        str(tmp_path),
        "; give another --out, or --overw",
    )
    assert claim(tmp_path).parts("cell")
    claim(tmp_path, **arguments, overwrite=True)
    assert not claim(tmp_path, **arguments).parts("cell")


def test_a_new_release_of_the_same_code_goes_on(tmp_path, monkeypatch):
    claim(tmp_path).save_part("cell", range(0, 2), part(1.0))
    monkeypatch.setattr(storage, "version", lambda package: "0.2.0")
    assert claim(tmp_path).parts("cell")


def test_two_processes_do_not_share_a_folder(tmp_path):
    with run_folder.claimed(tmp_path, {}, CODE):  # the lock tells open files apart, not processes
        assert_refuses(
            lambda: claim(tmp_path), f"{tmp_path} is in use by another process; wait for it to end"
        )
    claim(tmp_path, {"depths": (2, 3)}, overwrite=True)


def test_a_file_or_a_strangers_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refuses(lambda: claim(tmp_path / "file"), "which is a file; name a folder")
    storage.save(part(1.0), tmp_path / "data.nc")
    assert_refuses(lambda: claim(tmp_path), "data.nc was not written by an experiment")
    strangers = tmp_path / "project" / "checkpoints"
    strangers.mkdir(parents=True)
    assert_refuses(lambda: claim(tmp_path / "project"), "checkpoints was not written by an exp")
    assert strangers.exists()


def test_what_is_overwritten_is_what_was_finished(tmp_path):
    """The same command with --overwrite, killed and started again, goes on and not over again."""
    store = claim(tmp_path, overwrite=True)
    store.save_part("cell", range(0, 2), part(1.0))
    assert claim(tmp_path, overwrite=True).parts("cell")
    store.finish(part(1.0), complete=False)
    assert not claim(tmp_path, overwrite=True).parts("cell")
    assert not store.data.exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    with run_folder.claimed(tmp_path, {"depths": (2, 3)}, CODE) as store:
        store.save_part("cell", range(0, 2), part(1.0))
    drafts = (
        tmp_path / "cells" / "cell" / f"{storage.DRAFT}abc.nc",
        tmp_path / "cache" / "3-cache",
    )
    (tmp_path / "cache").mkdir()
    for age in range(4):
        path = tmp_path / "cache" / f"{age}-cache"
        path.write_text("program")
        os.utime(path, (1000 + age, 1000 + age))
    drafts[0].write_text("half")
    strangers = tmp_path / "notes" / f"{storage.DRAFT}of mine.txt"
    strangers.parent.mkdir()
    strangers.write_text("a stranger's")
    claim(tmp_path)
    assert all(path.exists() for path in drafts), "nobody was killed"
    (tmp_path / ".running").touch()  # as a process leaves it that is killed
    assert list(claim(tmp_path).parts("cell")) == [range(0, 2)]
    assert not any(path.exists() for path in drafts)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"0-cache", "1-cache"}
    assert strangers.exists()
    assert not (tmp_path / ".running").exists()


def test_a_finished_dataset_replaces_its_parts_unless_some_are_missing(tmp_path):
    store = claim(tmp_path)
    store.save_part("cell", range(0, 2), part(1.0))
    store.finish(part(1.0), complete=False)
    assert store.parts("cell")
    store.finish(part(1.0), complete=True)
    assert not store.parts("cell")
    xr.testing.assert_identical(storage.load(store.data), part(1.0))


def test_the_code_version_is_that_of_the_modules_and_the_libraries():
    code = run_folder.code_version(["vanishing.sweep.storage"])
    assert code == run_folder.code_version(["vanishing.sweep.storage"])
    assert next(iter(code.modules)) == "vanishing.sweep.storage"
    assert code.libraries["jax"] == jax.__version__
    assert code.libraries["backend"] == jax.default_backend()
    attributes = code.attributes()
    assert attributes["code"].startswith("0.1.0+")
    assert attributes["jaxlib"] == code.libraries["jaxlib"]
    edited_code = code._replace(modules={**code.modules, "vanishing.sweep.storage": "changed"})
    assert edited_code.attributes()["code"] != attributes["code"]


def test_the_version_of_a_tree_that_is_not_installed_is_unknown(monkeypatch):
    real_version = importlib.metadata.version

    def version(package):
        if package == "vanishing":
            raise importlib.metadata.PackageNotFoundError(package)
        return real_version(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code = run_folder.code_version(["vanishing.sweep.storage"])
    assert code.attributes()["code"].startswith("unknown+")


def test_a_cell_is_a_folder_of_its_own_whatever_its_values():
    assert run_folder.cell_name({"activation": "tanh", "depth": 30}) == "activation=tanh,depth=30"
    assert run_folder.cell_name({}) == "all"
    assert run_folder.cell_name({"model": "../a/b"}, "map") == "map/model=..%2Fa%2Fb"
    others = [
        *({"a": "1,b=2", "b": "3"}, {"a": "1", "b": "2,b=3"}),  # commas of their own
        *({"a": "relu"}, {"a": "ReLU"}, {"a": "RELU"}),  # file systems that ignore capitals
        *({"a": "x" * 300 + "1"}, {"a": "x" * 300 + "2"}),  # too long for a folder's name
        *({"a": "é"}, {"a": "e\u0301"}),  # file systems that make these one
    ]
    names = [run_folder.cell_name(axes).lower() for axes in others]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 250
    assert not run_folder.cell_name({}, "..").startswith("../")
