"""One computation at many points at once, spread over all devices of all processes.

A point is a tree of scalars (a seed, a learning rate, ...): the arguments of one program that all
points share.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vanishing import _held
from vanishing._types import PyTree

# Up to this size of the states that advance together, one vectorised program is faster on a core
# than one point after another, and beyond it slower: the states then leave the core's cache at
# every step. Measured at depth 50 on two cores, milliseconds a step and network: at width 16 (0.1
# MB a state) 0.23 one by one, 0.18 eight at a time, 0.21 thirty-two; at width 64 (1.6 MB) 0.83,
# 0.89 for two, 1.01 for eight; at widths 128 and 512 one by one is faster by 4 and by 14 %.
CORE_CACHE_BYTES = 2**20
MEMORY_FRACTION = 0.8  # the rest is for the host's arrays, and for what the estimate leaves out


class Task(NamedTuple):
    """The computation at one point, as pure functions.

    `init(point, shared)` returns the state that the point starts from;
    `advance(state, point, shared)` returns the state a chunk of the work later, and the chunk's
    output. Large arrays, such as drawn weights, belong in the state: its size decides how many
    points are worked on together. `shared` is the same for all points.
    """

    init: Callable[[Any, Any], PyTree]
    advance: Callable[[Any, Any, Any], tuple[PyTree, PyTree]]
    chunks: int = 1


class CompiledTask(NamedTuple):
    """A task compiled for `size` points at once."""

    size: int  # points that are worked on together, a multiple of the number of devices
    mesh: Mesh
    specs: tuple[PyTree, PyTree]  # shapes of the state and of an output, for `size` points
    init: jax.stages.Compiled
    advance: jax.stages.Compiled


def build(task: Task, points: PyTree, shared: PyTree, memory: float = math.inf) -> CompiledTask:
    """Compile a task for as many of the points at once as the devices have memory for.

    Args:
      task: the computation at every point.
      points: a tree of arrays whose first axis is the points.
      shared: a tree of arrays that all points use.
      memory: bytes that one device may use, if less than what it has.

    Raises:
      MemoryError: a single point needs more than a device has, by XLA's own estimate.
    """
    count = len(jax.tree.leaves(points)[0])
    devices = jax.devices()[:count] if jax.process_count() == 1 else jax.devices()
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("points",), axis_types=auto, devices=devices)
    limit = min(memory, MEMORY_FRACTION * device_memory(jax.local_devices()[0]))
    per_device = math.ceil(count / len(devices))
    while True:
        attempt = _compile(task, points, shared, mesh, per_device)
        if attempt.bytes_needed <= limit:
            return attempt.compiled
        if per_device == 1:
            raise MemoryError(
                f"one point needs {attempt.bytes_needed / 1e9:.3g} GB of memory on a device that "
                f"has {limit / 1e9:.3g} GB to give; make the network, the batch or its records "
                "smaller."
            )
        too_many = math.ceil((attempt.bytes_needed - limit) / attempt.bytes_per_point)
        per_device = max(1, per_device - max(1, too_many))


class Placed(NamedTuple):
    """At most `CompiledTask.size` points, and the arrays that they share, on the devices."""

    points: PyTree
    shared: PyTree
    number: int  # of points; the last one is repeated to fill up the devices


def place(compiled: CompiledTask, points: PyTree, shared: PyTree) -> Placed:
    """Put at most `compiled.size` points, and the arrays that they share, on the devices."""
    replicated = NamedSharding(compiled.mesh, P())
    on_all = jax.tree.map(lambda leaf: _put(leaf, replicated), shared)
    return Placed(
        points=_split(compiled, points), shared=on_all, number=len(jax.tree.leaves(points)[0])
    )


def start(compiled: CompiledTask, placed: Placed) -> PyTree:
    """The states that the points start from, on the devices."""
    return compiled.init(placed.points, placed.shared)


def advance(compiled: CompiledTask, state: PyTree, placed: Placed) -> tuple[PyTree, PyTree]:
    """The states a chunk later, whose buffers are reused, and the points' outputs on the host."""
    state, output = compiled.advance(state, placed.points, placed.shared)
    return state, jax.tree.map(lambda leaf: leaf[: placed.number], to_host(output))


def gather(
    task: Task,
    points: PyTree,
    shared: PyTree,
    *,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> PyTree:
    """The outputs of a task at all points, as NumPy arrays in memory.

    Args:
      task: the computation at every point.
      points: a tree of arrays whose first axis is the points.
      shared: a tree of arrays that all points use.
      progress: maps the numbers of a batch's chunks to themselves, such as `tqdm.tqdm`.

    Returns:
      The tree of an output, whose leaves have the points as first axis; of more than one chunk,
      the chunks are concatenated along the axis after it.

    Raises:
      MemoryError: a single point needs more than a device has.
      ValueError: JAX's precision makes another number of a point's, as of a seed of 2**32.

    >>> square = Task(lambda point, _: (), lambda state, point, _: (state, point["x"] ** 2))
    >>> gather(square, {"x": np.arange(4)}, ()).tolist()
    [0, 1, 4, 9]
    """
    points = jax.tree_util.tree_map_with_path(_as_held, points)
    count = len(jax.tree.leaves(points)[0])
    compiled = build(task, points, shared)
    batches = []
    for first in range(0, count, compiled.size):
        batch = jax.tree.map(lambda leaf, i=first: leaf[i : i + compiled.size], points)
        placed = place(compiled, batch, shared)
        state, outputs = start(compiled, placed), []
        for _ in progress(range(task.chunks)):
            state, output = advance(compiled, state, placed)
            outputs.append(output)
        batches.append(concatenate(outputs, axis=1))
    return concatenate(batches, axis=0)


def _as_held(path: tuple, leaf: Any) -> Any:
    """An array as JAX holds it, if that is what was given."""
    name = f"points{jax.tree_util.keystr(path)}"
    return leaf if isinstance(leaf, jax.Array) else _held.held(name, leaf)


def concatenate(trees: Sequence[PyTree], axis: int) -> PyTree:
    """Trees of one structure as one tree, each leaf concatenated along an axis."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *trees)


def broadcast_from_first(value: Any) -> np.ndarray:
    """The value that the first process has, on all of them."""
    if jax.process_count() == 1:
        return np.asarray(value)
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_processes(holds: bool) -> bool:
    """Whether something holds on every process."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.asarray(holds)).all())


def wait_for_all() -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("vanishing")


def to_host(tree: PyTree) -> PyTree:
    """NumPy arrays of a tree of device arrays, complete on every process; keys as their data."""
    tree = jax.tree.map(without_keys, tree)
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def without_keys(leaf: jax.Array) -> jax.Array:
    """An array as it is, or the integers that an array of random keys consists of."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def to_devices(compiled: CompiledTask, state: PyTree) -> PyTree:
    """Device arrays of at most `compiled.size` states, from what `to_host` gave of them."""

    def with_keys(leaf, spec):
        return jax.random.wrap_key_data(leaf, impl=_key_impl(spec)) if _is_key(spec) else leaf

    return jax.tree.map(with_keys, _split(compiled, state), compiled.specs[0])


def device_memory(device: Any) -> float:
    """Bytes of memory of a device: its own, or its part of the host's."""
    own = (device.memory_stats() or {}).get("bytes_limit")
    if own:
        return own
    if device.platform != "cpu":
        return math.inf
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, versions 2 and 1
        path = Path("/sys/fs/cgroup", limit)
        if path.exists() and path.read_text().strip().isdecimal():
            host = min(host, int(path.read_text()))
    return host / jax.local_device_count()


class _Attempt(NamedTuple):
    """A compiled task, and XLA's estimate of the memory that each device needs for it."""

    compiled: CompiledTask
    bytes_needed: float
    bytes_per_point: float  # that one point more, or less, would change it by


def _compile(task: Task, points, shared, mesh: Mesh, per_device: int) -> _Attempt:
    """A task compiled for `per_device` points on each device of the mesh."""
    size = per_device * mesh.size
    split, replicated = NamedSharding(mesh, P("points")), NamedSharding(mesh, P())

    def specs(tree, sharding, leading=None):
        def spec(leaf):
            shape = leaf.shape if leading is None else (leading, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, _dtype(leaf), sharding=sharding)

        return jax.tree.map(spec, tree)

    points, shared = specs(points, split, size), specs(shared, replicated)
    state = specs(jax.eval_shape(jax.vmap(task.init, (0, None)), points, shared), split)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    at_once, drawn_at_once = per_device, per_device
    if on_cpu:
        at_once = min(per_device, max(1, CORE_CACHE_BYTES * size // max(1, _bytes(state))))
        drawn_at_once = 1  # vectorised random draws take more than twice as long to compile
    init = _side_by_side(task.init, 1, mesh, drawn_at_once).lower(points, shared)
    lowered = _side_by_side(task.advance, 2, mesh, at_once).lower(state, points, shared)
    output = lowered.out_info[1]
    compiled = CompiledTask(
        size=size,
        mesh=mesh,
        specs=(state, output),
        init=init.compile(),
        advance=lowered.compile(),
    )
    # On a CPU the host keeps the outputs of all chunks in the same memory.
    output_bytes = _bytes(output) * (task.chunks if on_cpu else 1)
    bytes_per_point = (_bytes(state) + _bytes(points) + output_bytes) / size
    drawing, working = map(_working_bytes, (compiled.init, compiled.advance))
    return _Attempt(
        compiled=compiled,
        bytes_needed=_bytes(shared) + per_device * bytes_per_point + max(drawing, working),
        bytes_per_point=bytes_per_point + (working / per_device if at_once == per_device else 0),
    )


def _working_bytes(program: jax.stages.Compiled) -> int:
    """Bytes that a program needs while it runs, besides arguments and results; 0 if unknown."""
    analysis = program.memory_analysis()
    return analysis.temp_size_in_bytes if analysis else 0


def _side_by_side(function: Callable, split: int, mesh: Mesh, at_once: int):
    """A function of one point, jitted over the points in its first `split` arguments."""

    def on_one_device(*args):
        per_point, shared = args[:split], args[split]
        if 1 < at_once == len(jax.tree.leaves(per_point)[0]):
            return jax.vmap(lambda *point: function(*point, shared))(*per_point)
        batch_size = at_once if at_once > 1 else None
        return jax.lax.map(lambda point: function(*point, shared), per_point, batch_size=batch_size)

    mapped = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(*(P("points"),) * split, P()),
        out_specs=P("points"),
        check_vma=False,  # nothing is exchanged between points
    )
    return jax.jit(mapped, donate_argnums=0 if split == 2 else ())


def _split(compiled: CompiledTask, tree: PyTree) -> PyTree:
    """At most `compiled.size` rows over the devices; the last one is repeated to fill them up."""
    sharding = NamedSharding(compiled.mesh, P("points"))

    def put(leaf):
        return _put(leaf[np.minimum(np.arange(compiled.size), len(leaf) - 1)], sharding)

    return jax.tree.map(put, tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # device_put would compare the processes' values, for which nan differs from nan
    values = np.asarray(leaf, _dtype(leaf))
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _dtype(leaf: Any) -> Any:
    """The dtype that JAX gives an array: NumPy's integers have 64 bits, JAX's by default 32."""
    return leaf.dtype if _is_key(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(spec: jax.ShapeDtypeStruct) -> str:
    """The random number generator of keys, from their shape and dtype alone."""
    implementations = []
    jax.eval_shape(lambda key: implementations.append(jax.random.key_impl(key)), spec)
    return implementations[0]


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
