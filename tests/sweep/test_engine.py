import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from tests.helpers import assert_refuses
from tests.sweep.test_parallel import walk
from vanishing import sweep
from vanishing.sweep import parallel, storage
from vanishing.sweep.grid import Cell, Grid
from vanishing.sweep.run_folder import Folder

GRID = Grid(
    structural={"size": (2, 3), "kind": ("a", "b")},
    numeric={"x": (0.5, 1.0), "seed": range(3)},
)


def walks(size, kind, chunks=4):
    def label(place):
        steps = {"step": np.arange(place.shape[1])}
        return xr.Dataset({"place": (("point", "step"), place + (kind == "b"))}, steps)

    return Cell(walk(size=size, chunks=chunks), label)


def in_chunks(chunks, label):
    """A progress that asks to stop, as Ctrl-C does, in the third chunk of the second cell."""
    for chunk in chunks:
        if label == "2, b" and chunk == 2:
            raise KeyboardInterrupt
        yield chunk


@pytest.fixture(scope="module")
def uninterrupted():
    return sweep.run(GRID, walks, shared=jnp.float32(1.0))


def test_every_value_lands_in_its_place(uninterrupted):
    dataset = uninterrupted
    assert dataset.place.dims == ("size", "kind", "x", "seed", "step")
    assert dataset.kind.values.tolist() == ["a", "b"]
    for size, kind, x, seed in ((2, "b", 0.5, 2), (3, "a", 1.0, 0)):
        alone = parallel.gather(
            walk(size=size, chunks=4),
            {"x": np.array([x], np.float32), "seed": np.array([seed])},
            jnp.float32(1.0),
        )
        result = dataset.place.sel(size=size, kind=kind, x=x, seed=seed)
        np.testing.assert_allclose(result, alone[0] + (kind == "b"), rtol=1e-5)


def test_each_cell_is_compiled_once_and_the_next_one_while_it_runs(monkeypatch):
    build, threads, second = parallel.build, [], threading.Event()

    def counted(*arguments):
        threads.append(threading.get_ident())
        if len(threads) == 2:
            second.set()
        return build(*arguments)

    def progress(chunks, label):
        if label == "2, a":
            assert second.wait(60), "the second cell is not compiled while the first one runs"
        return chunks

    monkeypatch.setattr(parallel, "build", counted)
    sweep.run(GRID, walks, shared=jnp.float32(1.0), progress=progress)
    assert len(threads) == 4
    assert threading.get_ident() not in threads


def test_an_interrupted_sweep_goes_on_where_it_was_and_ends_the_same(tmp_path, uninterrupted):
    options = {"shared": jnp.float32(1.0), "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        sweep.run(GRID, walks, store=Folder(tmp_path), progress=in_chunks, **options)
    calls = []

    def progress(chunks, label):
        calls.append((label, list(chunks)))
        return chunks

    results = sweep.run(GRID, walks, store=Folder(tmp_path), progress=progress, **options)
    every = [0, 1, 2, 3]
    assert calls == [("2, b", [2, 3]), ("3, a", every), ("3, b", every)]
    xr.testing.assert_identical(results, uninterrupted)
    again = sweep.run(GRID, walks, store=Folder(tmp_path), progress=progress, **options)
    assert len(calls) == 3, "nothing finished is done again"
    xr.testing.assert_identical(again, uninterrupted)


@pytest.mark.slow
def test_batches_are_kept_one_by_one(tmp_path, monkeypatch, uninterrupted):
    build = parallel.build
    monkeypatch.setattr(
        parallel,
        "build",
        lambda task, points, shared, memory: build(
            task, jax.tree.map(lambda leaf: leaf[:4], points), shared, memory
        ),
    )
    save, parts = Folder.save_part, []

    def save_part(self, cell, points, dataset):
        if len(parts) == 3:
            raise OSError(28, "No space left on device")
        parts.append((cell, points))
        save(self, cell, points, dataset)

    monkeypatch.setattr(Folder, "save_part", save_part)
    with pytest.raises(OSError, match="No space left"):
        sweep.run(GRID, walks, shared=jnp.float32(1.0), store=Folder(tmp_path))
    first, second = "size=2,kind=a", "size=2,kind=b"
    assert parts == [(first, range(0, 4)), (first, range(4, 6)), (second, range(0, 4))]
    monkeypatch.setattr(Folder, "save_part", save)
    labels = []
    results = sweep.run(
        GRID,
        walks,
        shared=jnp.float32(1.0),
        store=Folder(tmp_path),
        progress=lambda chunks, label: labels.append(label) or chunks,
    )
    assert labels == ["2, b", "3, a", "3, a", "3, b", "3, b"]
    xr.testing.assert_allclose(results, uninterrupted, rtol=1e-6)


def test_a_failed_cell_is_recorded_and_tried_again_and_the_others_go_on(tmp_path, uninterrupted):
    faulty = True

    def cell(size, kind):
        if faulty and (size, kind) == (2, "b"):
            raise ValueError("b is too small\nfor 2")
        walk_cell = walks(size, kind)
        if faulty and (size, kind) == (3, "a"):
            return walk_cell._replace(inspect=_refuse)
        return walk_cell

    def _refuse(output):
        raise FloatingPointError("it exploded.")

    dataset = sweep.run(GRID, cell, shared=jnp.float32(1.0), store=Folder(tmp_path))
    assert dataset.failure.values.tolist() == [["", "b is too small"], ["it exploded.", ""]]
    np.testing.assert_array_equal(
        dataset.place.isnull().any(("x", "seed", "step")), [[0, 1], [1, 0]]
    )
    xr.testing.assert_equal(
        dataset.place.sel(size=2, kind="a"), uninterrupted.place.sel(size=2, kind="a")
    )
    storage.save(dataset, tmp_path / "data.nc")
    xr.testing.assert_identical(storage.load(tmp_path / "data.nc"), dataset)
    faulty = False
    results = sweep.run(GRID, cell, shared=jnp.float32(1.0), store=Folder(tmp_path))
    xr.testing.assert_identical(results, uninterrupted)


def test_a_sweep_whose_cells_all_fail_raises_the_first_reason():
    def cell(size, kind):
        raise ValueError(f"{size} is too small.")

    assert_refuses(lambda: sweep.run(GRID, cell), "every cell failed, the first because 2 is too")


def test_a_mistake_in_the_code_of_a_cell_ends_the_sweep():
    def cell(size, kind):
        raise TypeError("no such thing")

    with pytest.raises(TypeError, match="no such thing"):
        sweep.run(GRID, cell)


def test_compiling_ahead_keeps_the_callers_precision():
    cell = sweep.once(lambda p, _: p["x"] / 3, lambda y: xr.Dataset({"y": ("point", y)}))
    with jax.enable_x64(True):
        dataset = sweep.run(Grid(numeric={"x": (1.0, 2.0)}), lambda: cell)
    np.testing.assert_array_equal(dataset.y, [1 / 3, 2 / 3])  # not the float32 next to it


def test_two_sweeps_in_one_folder_keep_apart(tmp_path):
    def cell(sign):
        return lambda: sweep.once(
            lambda p, _: sign * p["x"], lambda y: xr.Dataset({"y": ("point", y)})
        )

    grid = Grid(numeric={"x": (1.0,)})
    for _ in range(2):
        for name, sign in (("up", 1), ("down", -1)):
            dataset = sweep.run(grid, cell(sign), store=Folder(tmp_path), name=name)
            assert dataset.y.item() == sign


def in_batches_of(size, monkeypatch):
    build = parallel.build

    def smaller(task, points, shared, memory):
        return build(task, jax.tree.map(lambda leaf: leaf[:size], points), shared, memory)

    monkeypatch.setattr(parallel, "build", smaller)


def test_a_damaged_part_alone_is_computed_again(tmp_path, monkeypatch, caplog, uninterrupted):
    in_batches_of(2, monkeypatch)
    options = {"shared": jnp.float32(1.0), "store": Folder(tmp_path)}
    sweep.run(GRID, walks, **options)
    parts = sorted((tmp_path / "cells" / "size=2,kind=b").iterdir())
    assert [path.name.split(".")[0] for path in parts] == ["0-2", "2-4", "4-6"]
    contents = bytearray(parts[1].read_bytes())
    contents[len(contents) // 2] ^= 8
    parts[1].write_bytes(contents)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.nc")}
    labels = []
    again = sweep.run(GRID, walks, progress=lambda c, label: labels.append(label) or c, **options)
    assert labels == ["2, b"]
    assert f"{parts[1]} is damaged; it is computed again." in caplog.text
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.nc")}
    assert {path for path in before if before[path] != after[path]} == {parts[1]}
    xr.testing.assert_allclose(again, uninterrupted, rtol=1e-6)


def test_a_gap_is_filled_whatever_the_size_of_batches(tmp_path, monkeypatch, uninterrupted):
    options = {"shared": jnp.float32(1.0), "store": Folder(tmp_path)}
    with monkeypatch.context() as patch:
        in_batches_of(2, patch)
        sweep.run(GRID, walks, **options)
    for path in (tmp_path / "cells").rglob("[02]-*.nc"):
        path.unlink()
    again = sweep.run(GRID, walks, **options)
    names = {path.name.split(".")[0] for path in (tmp_path / "cells").rglob("*.nc")}
    assert names == {"0-4", "4-6"}
    xr.testing.assert_allclose(again, uninterrupted, rtol=1e-6)


def test_the_parts_of_another_grid_are_not_taken_for_its_own(tmp_path):
    def cell(kind="a"):
        return sweep.once(lambda p, _: p["x"] + 0.0, lambda y: xr.Dataset({"y": ("point", y)}))

    for grid in (
        Grid(numeric={"x": (1.0, 2.0)}),
        Grid(numeric={"x": (3.0, 4.0)}),
        Grid(numeric={"x": (1, 2)}),
        Grid({"kind": ("1",)}, {"x": (5.0,)}),
        Grid({"kind": (1,)}, {"x": (6.0,)}),
    ):
        results = sweep.run(grid, cell, store=Folder(tmp_path))
        assert results.y.values.ravel().tolist() == list(grid.numeric["x"])
