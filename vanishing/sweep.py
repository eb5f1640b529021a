"""Sweeps: a computation over a grid, each program compiled once, and nothing finished ever lost.

The axes of a grid are of two kinds. A structural axis changes the program (activation, depth,
width): each combination is a cell, compiled while the cell before it runs. A numeric axis is an
argument of the program (seed, learning rate, sigma_w): all its points run inside the cell's one
program, dealt out to the devices.

    >>> import jax, xarray as xr
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
import functools
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
import xarray as xr

from vanishing import fleet, folder, record
from vanishing.fleet import Fleet, Task
from vanishing.folder import Checkpoints, Folder
from vanishing.layers.base import PyTree

Item = TypeVar("Item")
# What ends a cell and not the sweep: values that do not fit together, memory, and what XLA reports.
FAILURES = (ValueError, FloatingPointError, MemoryError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The axes of a sweep, by name; the order is that of the dataset's dimensions.

    Raises:
      ValueError: an axis is empty, or both kinds have one of the same name.
    """

    structural: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    numeric: Mapping[str, Sequence | np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in (*self.structural.items(), *self.numeric.items()):
            if not len(values):
                raise ValueError(f"axis {name} is empty; it takes at least one value.")
        both = set(self.structural) & set(self.numeric)
        if both:
            raise ValueError(f"axis {min(both)} is both structural and numeric; name it once.")

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the structural axes."""
        combinations = itertools.product(*self.structural.values())
        return [dict(zip(self.structural, values, strict=True)) for values in combinations]

    def points(self) -> dict[str, np.ndarray]:
        """Every combination of the numeric axes, as an array for each; the last varies fastest."""
        axes = [np.asarray(values) for values in self.numeric.values()]
        axes = [axis.astype(jax.dtypes.canonicalize_dtype(axis.dtype)) for axis in axes]
        meshes = np.meshgrid(*axes, indexing="ij") if axes else []
        points = {name: mesh.ravel() for name, mesh in zip(self.numeric, meshes, strict=True)}
        return points or {"point": np.zeros(1, np.int32)}


class Cell(NamedTuple):
    """What is done in one cell of a grid.

    `label(output)` maps the outputs at some points, the points being the first axis and the chunks
    joined along the next, to a dataset with the dimension `point`; `inspect(output)` looks at those
    of each chunk, and may end the cell with a FloatingPointError that says why.
    """

    task: Task
    label: Callable[[Any], xr.Dataset]
    inspect: Callable[[Any], None] = lambda output: None


@runtime_checkable
class Progress(Protocol):
    """Maps items to themselves, and may show how far they are, under a label."""

    def __call__(self, items: Iterable[Item], label: str) -> Iterable[Item]: ...


def once(function: Callable[[Any, Any], PyTree], label: Callable[[Any], xr.Dataset]) -> Cell:
    """A cell that calls `function(point, shared)` once at every point."""
    return Cell(
        Task(lambda point, shared: (), lambda s, p, shared: (s, function(p, shared))), label
    )


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

    With a folder, what was finished there is not done again, whatever ended the process: a cell's
    points are kept as soon as they are done, and a long cell takes its last checkpoint up again.
    Under `jax.distributed`, all processes call this alike and get the same dataset; the folder must
    be one that they all see.

    Args:
      grid: the axes.
      cell: maps the values of the structural axes, by name, to what is done.
      shared: a tree of arrays that all points of all cells use, such as the data.
      store: the folder to keep finished parts in; a temporary one if None.
      name: sets this sweep's parts apart from those of another in the same folder.
      memory: bytes that one device may use, if less than what it has.
      checkpoint_every: seconds after which a cell in flight keeps a checkpoint; inf for never.
      progress: sees the chunks of each batch of points, and what to call it.

    Returns:
      The dataset. If cells failed, their values are nan, and the variable `failure` gives the
      reasons (empty where there is none).

    Raises:
      ValueError: every cell failed, or there is no folder under several processes.
    """
    points, cells = grid.points(), grid.cells()
    count = len(next(iter(points.values())))
    names = [folder.cell_name(axes, name) for axes in cells]
    reasons = [""] * len(cells)
    if store is None and jax.process_count() > 1:
        raise ValueError("store is None; several processes need a folder that all of them see.")
    with contextlib.nullcontext(store) if store else folder.temporary() as store:
        done = fleet.agreed([_done(store, name) for name in names])

        def prepare(i: int) -> tuple[Cell, Fleet]:
            made = cell(**cells[i])
            return made, fleet.build(made.task, points, shared, memory)

        unfinished = [i for i in range(len(cells)) if done[i] < count]
        with contextlib.closing(_ahead(prepare, unfinished)) as prepared:
            for i, future in prepared:
                label = ", ".join(map(str, cells[i].values()))
                failed = future.exception()
                if failed and not isinstance(failed, FAILURES):
                    raise failed
                if not fleet.everywhere(failed is None):
                    reasons[i] = _reason(failed) if failed else "it failed on another process."
                    continue
                made, built = future.result()
                try:
                    for start in range(done[i], count, built.size):
                        part = range(start, min(start + built.size, count))
                        here = {
                            axis: values[part.start : part.stop] for axis, values in points.items()
                        }
                        checkpoints = store.checkpoints(names[i], part)
                        chunks = functools.partial(progress, label=label)
                        output = _work(
                            made, built, here, shared, checkpoints, checkpoint_every, chunks
                        )
                        if jax.process_index() == 0:
                            store.save_part(names[i], part, made.label(output))
                except FAILURES as error:
                    if jax.process_count() > 1 and not isinstance(error, FloatingPointError):
                        raise  # the other processes may be waiting for this one
                    reasons[i] = _reason(error)
        fleet.wait_for_all()
        found = [
            None if reason else _load(store, name)
            for name, reason in zip(names, reasons, strict=True)
        ]
        fleet.wait_for_all()  # before the first process goes on to remove the parts
    if all(reasons):
        raise ValueError(f"every cell failed, the first because {reasons[0]}")
    return _assembled(grid, found, reasons)


def _work(
    made: Cell,
    built: Fleet,
    points: PyTree,
    shared: PyTree,
    checkpoints: Checkpoints,
    every: float,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> PyTree:
    """The outputs of a part, from its last checkpoint on."""
    task, count = made.task, len(next(iter(points.values())))
    done = int(fleet.agreed(checkpoints.latest()))
    placed = fleet.place(built, points, shared)
    if done:
        state, output = checkpoints.restore(done, _specs(built, count, done))
        state, history = fleet.to_devices(built, state), [output]
    else:
        state, history = fleet.start(built, placed), []
    kept = time.monotonic()
    for chunk in progress(range(done, task.chunks)):
        state, output = fleet.advance(built, state, placed)
        made.inspect(output)
        history.append(output)
        if chunk + 1 < task.chunks and fleet.agreed(time.monotonic() - kept >= every):
            history = [fleet.joined(history, axis=1)]
            ours = jax.tree.map(lambda leaf: leaf[:count], fleet.to_host(state))
            checkpoints.save(chunk + 1, (ours, history[0]))
            kept = time.monotonic()
    return fleet.joined(history, axis=1)


def _specs(built: Fleet, count: int, chunks: int) -> tuple[PyTree, PyTree]:
    """Shapes of what a checkpoint holds: the state of so many points, and the outputs so far."""
    state, output = jax.eval_shape(lambda tree: jax.tree.map(fleet.plain, tree), built.specs)

    def spec(leaf, chunks=1):
        after = leaf.shape[1:] if chunks == 1 else (chunks * leaf.shape[1], *leaf.shape[2:])
        return jax.ShapeDtypeStruct((count, *after), leaf.dtype)

    return jax.tree.map(spec, state), jax.tree.map(lambda leaf: spec(leaf, chunks), output)


def _ahead(function: Callable[[int], Any], items: Sequence[int]) -> Generator[tuple[int, Future]]:
    """Each item and what the function makes of it, the next one's being made meanwhile."""
    names = ("jax_enable_x64", "jax_default_matmul_precision")
    x64, precision = (getattr(jax.config, name) for name in names)

    def in_our_context(item):  # JAX keeps these for each thread apart
        with jax.enable_x64(x64), jax.default_matmul_precision(precision):
            return function(item)

    with ThreadPoolExecutor(max_workers=1) as executor:
        futures = collections.deque(executor.submit(in_our_context, item) for item in items[:1])
        for i, item in enumerate(items):
            futures.extend(executor.submit(in_our_context, item) for item in items[i + 1 : i + 2])
            yield item, futures.popleft()


def _done(store: Folder, name: str) -> int:
    """How many of a cell's points are finished: parts are, one after another."""
    done = 0
    for part in store.parts(name):
        done = part.stop if part.start == done else done
    return done


def _load(store: Folder, name: str) -> xr.Dataset:
    parts = [record.load(path) for path in store.parts(name).values()]
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, "point", data_vars="minimal", coords="minimal", compat="override")


def _assembled(
    grid: Grid, found: Sequence[xr.Dataset | None], reasons: Sequence[str]
) -> xr.Dataset:
    """The cells' datasets as one, with nothing but nan where one is missing."""
    whole = [None if cell is None else record.spread(cell, grid.numeric) for cell in found]
    some = next(cell for cell in whole if cell is not None)
    missing = xr.merge(
        some[[name]].where(False, "" if some[name].dtype == object else np.nan) for name in some
    )
    dataset = _along(list(grid.structural.items()), [missing if c is None else c for c in whole])
    if any(reasons):
        sizes = [len(values) for values in grid.structural.values()]
        table = np.array(reasons, dtype=object).reshape(sizes)
        dataset["failure"] = (tuple(grid.structural), table, {"long_name": "why the cell failed"})
    return dataset


def _along(axes: Sequence[tuple[str, Sequence]], cells: Sequence[xr.Dataset]) -> xr.Dataset:
    if not axes:
        return cells[0]
    (name, values), *inner = axes
    each = len(cells) // len(values)
    rows = [_along(inner, cells[i : i + each]) for i in range(0, len(cells), each)]
    return xr.concat(rows, xr.Variable(name, list(values)), join="outer")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
