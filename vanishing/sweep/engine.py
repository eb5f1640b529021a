"""Sweeps: a computation over a grid, each program compiled once, and nothing finished ever lost.

The axes of a grid are of two kinds. A structural axis changes the program (activation, depth,
width): each combination is a cell, compiled while the cell before it runs. A numeric axis is an
argument of the program (seed, learning rate, sigma_w): all its points run inside the cell's one
program, dealt out to the devices.

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
import functools
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep import parallel, run_folder, storage
from vanishing.sweep.grid import Cell, Grid, assembled
from vanishing.sweep.parallel import Fleet
from vanishing.sweep.run_folder import Checkpoints, Folder

with needs("sweeps"):
    import xarray as xr

Item = TypeVar("Item")
# What ends a cell and not the sweep: values that do not fit together, memory, and what XLA reports.
FAILURES = (ValueError, FloatingPointError, MemoryError, jax.errors.JaxRuntimeError)


@runtime_checkable
class Progress(Protocol):
    """Maps items to themselves, and may show how far they are, under a label."""

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
    names = [run_folder.cell_name(axes, name) for axes in cells]
    reasons = [""] * len(cells)
    if store is None and jax.process_count() > 1:
        raise ValueError("store is None; several processes need a folder that all of them see.")
    with contextlib.nullcontext(store) if store else run_folder.temporary() as store:
        done = parallel.agreed([_done(store, name) for name in names])

        def prepare(i: int) -> tuple[Cell, Fleet]:
            made = cell(**cells[i])
            return made, parallel.build(made.task, points, shared, memory)

        unfinished = [i for i in range(len(cells)) if done[i] < count]
        with contextlib.closing(_ahead(prepare, unfinished)) as prepared:
            for i, future in prepared:
                label = ", ".join(map(str, cells[i].values()))
                failed = future.exception()
                if failed and not isinstance(failed, FAILURES):
                    raise failed
                if not parallel.everywhere(failed is None):
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
        parallel.wait_for_all()
        found = [
            None if reason else _load(store, name)
            for name, reason in zip(names, reasons, strict=True)
        ]
        parallel.wait_for_all()  # before the first process goes on to remove the parts
    if all(reasons):
        raise ValueError(f"every cell failed, the first because {reasons[0]}")
    return assembled(grid, found, reasons)


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
    done = int(parallel.agreed(checkpoints.latest()))
    placed = parallel.place(built, points, shared)
    if done:
        state, output = checkpoints.restore(done, _specs(built, count, done))
        state, history = parallel.to_devices(built, state), [output]
    else:
        state, history = parallel.start(built, placed), []
    kept = time.monotonic()
    for chunk in progress(range(done, task.chunks)):
        state, output = parallel.advance(built, state, placed)
        made.inspect(output)
        history.append(output)
        if chunk + 1 < task.chunks and parallel.agreed(time.monotonic() - kept >= every):
            history = [parallel.joined(history, axis=1)]
            ours = jax.tree.map(lambda leaf: leaf[:count], parallel.to_host(state))
            checkpoints.save(chunk + 1, (ours, history[0]))
            kept = time.monotonic()
    return parallel.joined(history, axis=1)


def _specs(built: Fleet, count: int, chunks: int) -> tuple[PyTree, PyTree]:
    """Shapes of what a checkpoint holds: the state of so many points, and the outputs so far."""
    state, output = jax.eval_shape(lambda tree: jax.tree.map(parallel.plain, tree), built.specs)

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
    parts = [storage.load(path) for path in store.parts(name).values()]
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, "point", data_vars="minimal", coords="minimal", compat="override")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
