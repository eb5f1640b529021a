import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing.sweep import parallel
from vanishing.sweep.parallel import Task


def walk(steps=4, size=3, chunks=3):
    """Random walks that start from the point's x, in chunks of so many steps."""

    def init(point, shared):
        return jnp.full(size, point["x"]) + shared, jax.random.key(point["seed"])

    def advance(state, point, shared):
        def step(state, _):
            place, key = state
            key, own = jax.random.split(key)
            place = place + point["x"] * jax.random.normal(own, place.shape)
            return (place, key), place.sum()

        return jax.lax.scan(step, state, length=steps)

    return Task(init, advance, chunks)


def points(count):
    return {"x": np.linspace(0.1, 1, count, dtype=np.float32), "seed": np.arange(count)}


def one_by_one(task, points, shared):
    """The same, each point alone and without the code under test."""
    init, advance = jax.jit(task.init), jax.jit(task.advance)
    outputs = []
    for x, seed in zip(points["x"], points["seed"], strict=True):
        point = {"x": x, "seed": seed}
        state, parts = init(point, shared), []
        for _ in range(task.chunks):
            state, part = advance(state, point, shared)
            parts.append(part)
        outputs.append(np.concatenate(parts))
    return np.stack(outputs)


def test_points_together_give_what_each_gives_alone():
    task, shared = walk(), jnp.float32(2.0)
    together = parallel.gather(task, points(7), shared)
    np.testing.assert_allclose(together, one_by_one(task, points(7), shared), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 3000], ids=["many at once", "a few"])
def test_batches_that_fit_in_memory_lose_nothing_and_double_nothing(size, monkeypatch):
    monkeypatch.setattr(parallel, "CORE_CACHE_BYTES", 20_000)
    task, shared = walk(size=size), jnp.float32(2.0)
    full_task = parallel.build(task, points(7), shared)
    assert full_task.size == 7
    needed_by_all = 7 * (4 * size + 40) + full_task.advance.memory_analysis().temp_size_in_bytes
    limit = 0.75 * needed_by_all
    small_task = parallel.build(task, points(7), shared, memory=limit)
    assert 1 <= small_task.size < 7
    assert small_task.size * 4 * size < limit
    monkeypatch.setattr(parallel, "device_memory", lambda device: limit / parallel.MEMORY_FRACTION)
    sizes = []

    def progress(chunks):
        sizes.append(len(chunks))
        return chunks

    in_batches = parallel.gather(task, points(7), shared, progress=progress)
    assert sizes == [3] * -(-7 // small_task.size)
    np.testing.assert_allclose(in_batches, one_by_one(task, points(7), shared), rtol=2e-5)


def test_a_point_too_large_for_the_device_is_refused_with_its_size():
    with pytest.raises(MemoryError, match=r"needs 0\.\d+ GB .* has 0\.01 GB to give; make the"):
        parallel.build(walk(size=10**7), points(2), jnp.float32(0), memory=1e7)


def test_the_estimate_holds_what_xla_reports():
    """The working space grows with what a step makes, which the state alone does not tell."""

    def init(point, shared):
        return point["x"] * jnp.ones(10)

    def advance(state, point, shared):
        square = jnp.outer(jnp.repeat(state, 50), jnp.repeat(state, 50))
        return state, jax.lax.fori_loop(0, 3, lambda _, m: jnp.sin(m @ m), square)[0, 0]

    with pytest.raises(MemoryError, match="one point needs"):
        parallel.build(Task(init, advance), {"x": np.ones(3, np.float32)}, (), memory=1e5)


def test_states_come_back_from_the_host_as_they_were():
    def init(point, shared):
        return {
            "key": jax.random.key(point["seed"], impl="rbg"),
            "half": jnp.bfloat16(point["seed"]),
            "nothing": jnp.zeros((0, 2)),
        }

    task = Task(init, lambda state, point, shared: (state, jax.random.bits(state["key"])))
    compiled = parallel.build(task, points(3), ())
    placed = parallel.place(compiled, points(3), ())
    state = parallel.start(compiled, placed)
    on_host = parallel.to_host(state)
    back = parallel.to_devices(compiled, jax.tree.map(lambda leaf: leaf[:3], on_host))
    assert jax.random.key_impl(back["key"]) == jax.random.key_impl(state["key"])
    chex.assert_trees_all_equal(parallel.to_host(back), on_host)
    expected = parallel.gather(task, points(3), ())
    np.testing.assert_array_equal(parallel.advance(compiled, back, placed)[1], expected)


def test_a_device_has_its_share_of_the_machine_and_no_more():
    machine_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < parallel.device_memory(jax.devices()[0]) <= machine_memory / jax.local_device_count()


def test_points_that_jax_would_change_are_refused():
    square = parallel.Task(lambda point, _: (), lambda state, point, _: (state, point["x"] ** 2))
    points = {"x": np.array([5, 2**32 + 5])}
    assert_refuses(
        lambda: parallel.gather(square, points, ()),
        "points['x'] has 4294967301, which JAX holds as 5; integers of int32",
    )
