"""Fleets: one computation at many points at once, dealt out to all devices of all processes.

A point is a tree of scalars (a seed, a learning rate, ...): what differs between the members of a
fleet that share one program.
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

from vanishing._types import PyTree

# Up to this size of the states that advance together, one vectorised program is faster on a core
# than one point after another, and beyond it slower: the states then leave the core's cache at
# every step. Measured at depth 50 on two cores, milliseconds a step and network: at width 16 (0.1
# MB a state) 0.23 one by one, 0.18 eight at a time, 0.21 thirty-two; at width 64 (1.6 MB) 0.83,
# 0.89 for two, 1.01 for eight; at widths 128 and 512 one by one is faster by 4 and by 14 %.
CORE_CACHE_BYTES = 2**20
MEMORY_SHARE = 0.8  # the rest is for the host's arrays, and for what the estimate leaves out


class Task(NamedTuple):
    """What is computed at a point, as pure functions of one point.

    `init(point, shared)` returns the state that the point starts from;
    `advance(state, point, shared)` returns the state a chunk of the work later, and the chunk's
    output. What takes much room, such as drawn weights, belongs into the state: its size decides
    how many points are worked on together. `shared` is the same for all points.
    """

    init: Callable[[Any, Any], PyTree]
    advance: Callable[[Any, Any, Any], tuple[PyTree, PyTree]]
    chunks: int = 1


class Fleet(NamedTuple):
    """A task compiled for so many points at once."""

    size: int  # points that are worked on together, a multiple of the number of devices
    mesh: Mesh
    specs: tuple[PyTree, PyTree]  # shapes of the state and of an output, for `size` points
    init: jax.stages.Compiled
    advance: jax.stages.Compiled


def build(task: Task, points: PyTree, shared: PyTree, memory: float = math.inf) -> Fleet:
    """Compile a task for as many of the points at once as the devices have memory for.

    Args:
      task: what is computed at every point.
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
    limit = min(memory, MEMORY_SHARE * device_memory(jax.local_devices()[0]))
    share = math.ceil(count / len(devices))
    while True:
        fleet, need, need_of_one_more = _compile(task, points, shared, mesh, share)
        if need <= limit:
            return fleet
        if share == 1:
            raise MemoryError(
                f"one point needs {need / 1e9:.3g} GB of memory on a device that has "
                f"{limit / 1e9:.3g} GB to give; make the network, the batch or its records smaller."
            )
        too_many = math.ceil((need - limit) / need_of_one_more)
        share = max(1, share - max(1, too_many))


class Placed(NamedTuple):
    """At most `Fleet.size` points, and what they share, on the devices."""

    points: PyTree
    shared: PyTree
    number: int  # of the points; the last one is repeated where some are missing


def place(fleet: Fleet, points: PyTree, shared: PyTree) -> Placed:
    """Put at most `fleet.size` points, and what they share, on the devices."""
    whole = NamedSharding(fleet.mesh, P())
    on_all = jax.tree.map(lambda leaf: _put(leaf, whole), shared)
    return Placed(_dealt_out(fleet, points), on_all, len(jax.tree.leaves(points)[0]))


def start(fleet: Fleet, placed: Placed) -> PyTree:
    """The states that the points start from, on the devices."""
    return fleet.init(placed.points, placed.shared)


def advance(fleet: Fleet, state: PyTree, placed: Placed) -> tuple[PyTree, PyTree]:
    """The states a chunk later, whose buffers are reused, and the points' outputs on the host."""
    state, output = fleet.advance(state, placed.points, placed.shared)
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
      task: what is computed at every point.
      points: a tree of arrays whose first axis is the points.
      shared: a tree of arrays that all points use.
      progress: maps the numbers of a batch's chunks to themselves, such as `tqdm.tqdm`.

    Returns:
      The tree of an output, whose leaves have the points as first axis; of more than one chunk,
      the chunks are joined along the axis after it.
    """
    count = len(jax.tree.leaves(points)[0])
    fleet = build(task, points, shared)
    batches = []
    for first in range(0, count, fleet.size):
        batch = jax.tree.map(lambda leaf, f=first: leaf[f : f + fleet.size], points)
        placed = place(fleet, batch, shared)
        state, outputs = start(fleet, placed), []
        for _ in progress(range(task.chunks)):
            state, output = advance(fleet, state, placed)
            outputs.append(output)
        batches.append(joined(outputs, axis=1))
    return joined(batches, axis=0)


def joined(trees: Sequence[PyTree], axis: int) -> PyTree:
    """Trees of the same structure as one, their leaves joined along an axis; one stays as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *trees)


def agreed(value: Any) -> np.ndarray:
    """The value that the first process has, on all of them."""
    if jax.process_count() == 1:
        return np.asarray(value)
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def everywhere(holds: bool) -> bool:
    """Whether something holds on every process."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.asarray(holds)).all())


def wait_for_all() -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("vanishing")


def to_host(tree: PyTree) -> PyTree:
    """NumPy arrays of a tree of device arrays, whole on every process; keys as their data."""
    tree = jax.tree.map(plain, tree)
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def plain(leaf: jax.Array) -> jax.Array:
    """An array as it is, and random keys as the numbers that they are made of."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def to_devices(fleet: Fleet, state: PyTree) -> PyTree:
    """States from their arrays on the host (as `to_host` gives them), for at most `fleet.size`."""

    def typed(leaf, spec):
        return jax.random.wrap_key_data(leaf, impl=_impl(spec)) if _is_key(spec) else leaf

    return jax.tree.map(typed, _dealt_out(fleet, state), fleet.specs[0])


def device_memory(device: Any) -> float:
    """Bytes of memory of a device: its own, or its share of the host's."""
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


def _compile(task: Task, points, shared, mesh: Mesh, share: int):
    """The fleet of `share` points a device, the bytes each device needs, and of one point more."""
    split, whole = NamedSharding(mesh, P("points")), NamedSharding(mesh, P())
    size = share * mesh.size

    def specs(tree, sharding, leading=None):
        def spec(leaf):
            shape = leaf.shape if leading is None else (leading, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, _dtype(leaf), sharding=sharding)

        return jax.tree.map(spec, tree)

    points, shared = specs(points, split, size), specs(shared, whole)
    state = specs(jax.eval_shape(jax.vmap(task.init, (0, None)), points, shared), split)
    platform = mesh.devices.flat[0].platform
    at_once, drawn_at_once = share, share
    if platform == "cpu":
        at_once = min(share, max(1, CORE_CACHE_BYTES * size // max(1, _bytes(state))))
        drawn_at_once = 1  # vectorised random draws take more than twice as long to compile
    init = _side_by_side(task.init, 1, mesh, drawn_at_once).lower(points, shared)
    lowered = _side_by_side(task.advance, 2, mesh, at_once).lower(state, points, shared)
    output = lowered.out_info[1]
    fleet = Fleet(size, mesh, (state, output), init.compile(), lowered.compile())
    analyses = [program.memory_analysis() for program in (fleet.init, fleet.advance)]
    drawing, working = (found.temp_size_in_bytes if found else 0 for found in analyses)
    each_output = _bytes(output) / size
    if platform == "cpu":
        each_output *= task.chunks  # the host keeps them all, in the same memory
    each = (_bytes(state) + _bytes(points)) / size + each_output
    need = _bytes(shared) + share * each + max(drawing, working)
    return fleet, need, each + (working / share if at_once == share else 0)


def _side_by_side(function: Callable, split: int, mesh: Mesh, at_once: int):
    """A function of one point, jitted over the points that its first `split` arguments hold."""

    def on_one_device(*args):
        ours, shared = args[:split], args[split]
        if 1 < at_once == len(jax.tree.leaves(ours)[0]):
            return jax.vmap(lambda *one: function(*one, shared))(*ours)
        together = at_once if at_once > 1 else None
        return jax.lax.map(lambda one: function(*one, shared), ours, batch_size=together)

    mapped = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(*(P("points"),) * split, P()),
        out_specs=P("points"),
        check_vma=False,  # nothing is exchanged between points
    )
    return jax.jit(mapped, donate_argnums=0 if split == 2 else ())


def _dealt_out(fleet: Fleet, tree: PyTree) -> PyTree:
    """At most `fleet.size` rows on the devices; the last one is repeated where rows are missing."""
    split = NamedSharding(fleet.mesh, P("points"))

    def deal(leaf):
        return _put(leaf[np.minimum(np.arange(fleet.size), len(leaf) - 1)], split)

    return jax.tree.map(deal, tree)


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


def _impl(spec: jax.ShapeDtypeStruct) -> str:
    """How the random numbers of keys are made, told from their shape and dtype alone."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), spec)
    return found[0]


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
