"""Runs a grid of computations: each program is compiled once, and finished parts are kept.

The axes of a grid are of two kinds. A structural axis changes the program (activation, depth,
width): each combination is a cell, compiled while the cell before it runs. A numeric axis is an
argument of the program (seed, learning rate, sigma_w): all its points run inside the cell's one
program, spread over the devices.

    >>> import jax, xarray as xr
    >>> from vanishing.sweep import Grid, once, run
    >>> def cell(function):
    ...     f = getattr(jax.numpy, function)
    ...     return once(lambda point, _: f(point["x"]), lambda y: xr.Dataset({"y": ("point", y)}))
    >>> grid = Grid(structural={"function": ("sin", "cos")}, numeric={"x": (0.0, 1.0)})
    >>> print(run(grid, cell).y.values.round(2))
    [[0.   0.84]
     [1.   0.54]]
"""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep import parallel, run_folder, storage
from vanishing.sweep.checkpoints import Checkpoints
from vanishing.sweep.grid import Cell, Grid, assemble
from vanishing.sweep.parallel import CompiledTask, Placed
from vanishing.sweep.run_folder import Folder

with needs("sweeps"):
    import xarray as xr

Item = TypeVar("Item")
# These end a cell and not the sweep: values that do not fit together, memory, and errors of XLA.
FAILURES = (ValueError, FloatingPointError, MemoryError, jax.errors.JaxRuntimeError)


@runtime_checkable
class Progress(Protocol):
    """Maps items to themselves, and may show how many are done, under a label."""

    def __call__(self, items: Iterable[Item], label: str) -> Iterable[Item]: ...


def run(
    grid: Grid,
    cell: Callable[..., Cell],
    *,
    shared: PyTree = (),
    store: Folder | None = None,
    name: str = "",
    memory: float = math.inf,
    checkpoint_every: float = 60.0,
    progress: Progress = lambda items, label: items,
) -> xr.Dataset:
    """Every cell of a grid at all its points, as one labelled dataset.

    Each cell is compiled while the one before it runs. Its points run in batches as large as the
    memory allows, and a batch is kept in the folder as soon as it is finished; a long one keeps
    checkpoints on its way. A cell that fails is recorded with its reason, and the others go on.
    Whatever ended the process, a second call with the same folder does only what is missing, or is
    damaged, which it names. What the folder holds of another grid's points is no part of this one.

    Under `jax.distributed`, all processes call this alike and get the same dataset; the folder must
    be one that they all see.

    Args:
      grid: the axes.
      cell: maps the values of the structural axes, by name, to the cell's computation.
      shared: a tree of arrays that all points of all cells use, such as the data.
      store: the folder to keep finished parts in; a temporary one if None.
      name: distinguishes this sweep's parts from those of another in the same folder.
      memory: bytes that one device may use, if less than what it has.
      checkpoint_every: seconds after which a running cell keeps a checkpoint; inf for never.
      progress: called with the chunks of each batch of points and a label for them.

    Returns:
      The dataset. If cells failed, their values are nan, and the variable `failure` gives the
      reasons (empty where there is none).

    Raises:
      ValueError: every cell failed, or there is no folder under several processes.
    """
    if store is None and jax.process_count() > 1:
        raise ValueError("store is None; several processes need a folder that all of them see.")
    with contextlib.nullcontext(store) if store else run_folder.temporary() as folder:
        sweep = _Sweep(
            cell=cell,
            points=grid.points(),
            shared=shared,
            folder=dataclasses.replace(folder, sweep=_of_points(grid)),
            memory=memory,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
        places = _places(grid, name, sweep)
        missing = [place for place in places if place.missing]
        reasons = {}
        with contextlib.closing(_ahead(sweep.prepare, missing)) as prepared:
            for place, future in prepared:
                reasons[place.name] = _run_cell(sweep, place, future)
        datasets, failures = _collect(sweep, places, reasons)
    if all(failures):
        raise ValueError(f"every cell failed, the first because {failures[0]}")
    return assemble(grid, datasets, failures)


class _Place(NamedTuple):
    """A cell's place in the grid and in the folder."""

    axes: Mapping[str, Any]  # the values of the structural axes
    name: str  # of its folder
    missing: Sequence[range]  # points whose results the folder does not hold yet


class _Prepared(NamedTuple):
    """A cell, and its task compiled for as many points as fit into memory."""

    cell: Cell
    compiled: CompiledTask


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """The arguments of `run` that all cells share."""

    cell: Callable[..., Cell]
    points: Mapping[str, np.ndarray]
    shared: PyTree
    folder: Folder
    memory: float
    checkpoint_every: float
    progress: Progress

    @property
    def count(self) -> int:
        """The number of points."""
        return len(next(iter(self.points.values())))

    def folder_of(self, axes: Mapping[str, Any]) -> Folder:
        """The folder as a cell sees it, to which parts of another grid are no parts of its own."""
        values = {n: v.item() if isinstance(v, np.generic) else v for n, v in axes.items()}
        return dataclasses.replace(self.folder, sweep=f"{self.folder.sweep} {values}")

    def prepare(self, place: _Place) -> _Prepared:
        """Build the cell of a place and compile its task."""
        cell = self.cell(**place.axes)
        return _Prepared(cell, parallel.build(cell.task, self.points, self.shared, self.memory))


def _of_points(grid: Grid) -> str:
    """A hash of the numeric axes, by which parts of another grid are told apart."""
    axes = (
        (name, str(p.dtype), storage.checksum(p.tobytes())) for name, p in grid.points().items()
    )
    return storage.checksum(repr(list(axes)).encode())


def _places(grid: Grid, name: str, sweep: _Sweep) -> list[_Place]:
    """The cells of a grid, with the progress of each as the first process sees it."""
    cells = grid.cells()
    names = [run_folder.cell_name(axes, name) for axes in cells]
    finished = np.zeros((len(cells), sweep.count), bool)
    if jax.process_index() == 0:
        for axes, cell, points in zip(cells, names, finished, strict=True):
            for part in _side_by_side(sweep.folder_of(axes).whole_parts(cell)):
                points[part.start : part.stop] = True
    return [
        _Place(axes, cell, _gaps(points))
        for axes, cell, points in zip(
            cells, names, parallel.broadcast_from_first(finished), strict=True
        )
    ]


def _side_by_side(parts: Iterable[range]) -> list[range]:
    """Parts of which none begins before the one before it ends."""
    chosen = []
    for part in parts:
        if not chosen or part.start >= chosen[-1].stop:
            chosen.append(part)
    return chosen


def _gaps(finished: np.ndarray) -> list[range]:
    """The ranges of points that are not finished."""
    ends = np.flatnonzero(np.diff(np.concatenate([[True], finished, [True]]).astype(np.int8)))
    return [range(*pair) for pair in ends.reshape(-1, 2).tolist()]


def _ahead(
    function: Callable[[_Place], _Prepared], places: Sequence[_Place]
) -> Generator[tuple[_Place, Future]]:
    """Each place with the function's result, while that of the next place is computed."""
    names = ("jax_enable_x64", "jax_default_matmul_precision")
    x64, precision = (getattr(jax.config, name) for name in names)

    def in_callers_context(place):  # JAX keeps these settings for each thread separately
        with jax.enable_x64(x64), jax.default_matmul_precision(precision):
            return function(place)

    with ThreadPoolExecutor(max_workers=1) as executor:
        futures = collections.deque(executor.submit(in_callers_context, p) for p in places[:1])
        for i, place in enumerate(places):
            futures.extend(executor.submit(in_callers_context, p) for p in places[i + 1 : i + 2])
            yield place, futures.popleft()


def _run_cell(sweep: _Sweep, place: _Place, future: Future[_Prepared]) -> str:
    """Run a cell's missing points and keep their results; the reason if it failed, else "".

    An error that is not one of `FAILURES`, or that leaves other processes waiting, is raised.
    """
    error = future.exception()
    if error and not isinstance(error, FAILURES):
        raise error
    if not parallel.all_processes(error is None):
        return _reason(error) if error else "it failed on another process."
    prepared = future.result()
    size = prepared.compiled.size
    try:
        for part in (gap[i : i + size] for gap in place.missing for i in range(0, len(gap), size)):
            output = _run_part(sweep, place, prepared, part)
            if jax.process_index() == 0:
                folder = sweep.folder_of(place.axes)
                folder.save_part(place.name, part, prepared.cell.label(output))
    except FAILURES as error:
        if jax.process_count() > 1 and not isinstance(error, FloatingPointError):
            raise  # the other processes may be waiting for this one
        return _reason(error)
    return ""


def _run_part(sweep: _Sweep, place: _Place, prepared: _Prepared, part: range) -> PyTree:
    """The outputs at a range of points, from their last checkpoint on."""
    cell, compiled = prepared
    points = {axis: values[part.start : part.stop] for axis, values in sweep.points.items()}
    placed = parallel.place(compiled, points, sweep.shared)
    checkpoints = sweep.folder_of(place.axes).checkpoints(place.name, part)
    state, outputs, finished = _start_or_resume(compiled, placed, checkpoints)
    label = ", ".join(map(str, place.axes.values()))
    last_kept = time.monotonic()
    for chunk in sweep.progress(range(finished, cell.task.chunks), label=label):
        state, output = parallel.advance(compiled, state, placed)
        cell.inspect(output)
        outputs.append(output)
        due = time.monotonic() - last_kept >= sweep.checkpoint_every
        if chunk + 1 < cell.task.chunks and parallel.broadcast_from_first(due):
            outputs = [parallel.concatenate(outputs, axis=1)]
            host_state = jax.tree.map(lambda leaf: leaf[: len(part)], parallel.to_host(state))
            checkpoints.save(chunk + 1, (host_state, outputs[0]))
            last_kept = time.monotonic()
    return parallel.concatenate(outputs, axis=1)


class _InProgress(NamedTuple):
    """How far the computation at some points is."""

    state: PyTree  # on the devices
    outputs: list[PyTree]  # of the chunks so far
    chunks: int  # that are finished


def _start_or_resume(
    compiled: CompiledTask, placed: Placed, checkpoints: Checkpoints
) -> _InProgress:
    """The beginning of the computation, or the last checkpoint of it that the folder holds."""
    chunks = 0
    if jax.process_index() == 0:
        chunks = checkpoints.latest()
        checkpoints.keep_only(chunks)  # of the others a killed process has left some
    chunks = int(parallel.broadcast_from_first(chunks))
    if not chunks:
        return _InProgress(parallel.start(compiled, placed), outputs=[], chunks=0)
    state, output = checkpoints.restore(chunks, _checkpoint_specs(compiled, placed.number, chunks))
    return _InProgress(parallel.to_devices(compiled, state), [output], chunks)


def _checkpoint_specs(compiled: CompiledTask, count: int, chunks: int) -> tuple[PyTree, PyTree]:
    """Shapes of a checkpoint: the state of `count` points, and their outputs of `chunks` chunks."""

    def without_keys(tree):
        return jax.tree.map(parallel.without_keys, tree)

    def spec(leaf, chunks=1):
        shape = leaf.shape[1:] if chunks == 1 else (chunks * leaf.shape[1], *leaf.shape[2:])
        return jax.ShapeDtypeStruct((count, *shape), leaf.dtype)

    state, output = jax.eval_shape(without_keys, compiled.specs)
    return jax.tree.map(spec, state), jax.tree.map(lambda leaf: spec(leaf, chunks), output)


def _collect(
    sweep: _Sweep, places: Sequence[_Place], reasons: Mapping[str, str]
) -> tuple[list[xr.Dataset | None], list[str]]:
    """The dataset of each cell, None if it failed, and the reason, "" if it did not."""
    failures = [reasons.get(place.name, "") for place in places]
    parallel.wait_for_all()  # until the first process has written all parts
    datasets = [
        None if reason else _load(sweep.folder_of(place.axes), place.name)
        for place, reason in zip(places, failures, strict=True)
    ]
    parallel.wait_for_all()  # before the first process goes on to remove the parts
    return datasets, failures


def _load(folder: Folder, name: str) -> xr.Dataset:
    """The parts of a finished cell as one dataset."""
    parts = [folder.load_part(name, part) for part in _side_by_side(folder.parts(name))]
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, "point", data_vars="minimal", coords="minimal", compat="override")


def _reason(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
