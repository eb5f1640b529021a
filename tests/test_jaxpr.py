import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.zoo import ZOO
from vanishing import jaxpr
from vanishing.jaxpr import Taps

NO_TAPS = Taps(lambda number, x, slot, local: (x, x), {})


def read(function, *args):
    program, _ = jaxpr.read(function, *args)
    return program


def nodes(frame):
    for node in frame.nodes:
        yield node
        for inner in node.frames:
            yield from nodes(inner)


@pytest.mark.parametrize("name", ["nested scans", "branching", "equinox lstm", "own mlp"])
def test_a_replay_without_taps_is_the_function(x64, name):
    with jax.numpy_rank_promotion("allow"):
        model = ZOO[name]()
        args = (model.params, *model.args)
        program = read(lambda *args: model.loss(*args), *args)
        (value, *_), measured = jaxpr.replay(program.frame, jax.tree.leaves(args), NO_TAPS, {})
        np.testing.assert_allclose(value, model.loss(*args), rtol=1e-12)
    assert measured == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_taps_in_a_scan_see_every_iteration_at_its_own_index(reverse):
    def function(xs):
        step = lambda total, x: (total + x, jnp.sin(x))  # noqa: E731
        return jax.lax.scan(step, 0.0, xs, reverse=reverse)

    xs = jnp.arange(5.0)
    program = read(function, xs)
    (sine,) = (node.outputs[0] for node in nodes(program.frame) if node.primitive == "sin")
    doubled = Taps(lambda number, x, slot, local: (2 * x + slot, x), {})
    slots = {sine: 100 * xs}
    (total, ys), measured = jaxpr.replay(program.frame, [xs], doubled, slots)
    assert float(total) == 10
    np.testing.assert_allclose(measured[sine], np.sin(xs), rtol=1e-6)
    np.testing.assert_allclose(ys, 2 * np.sin(xs) + 100 * xs, rtol=1e-6)


def test_a_node_knows_its_own_line_also_where_a_jitted_function_was_traced_before():
    x = jnp.ones(3)
    jax.nn.silu(x)  # traced first from here
    jax.make_jaxpr(jax.nn.silu)(x)
    line = inspect.currentframe().f_lineno + 1
    function = lambda x: jax.nn.silu(x)  # noqa: E731
    for node in nodes(read(function, x).frame):
        file, found = node.source
        assert file == __file__
        assert found == line


def test_a_split_is_replayed_as_slices(x64):
    def function(x):
        a, b, c = jnp.split(x, [1, 3], axis=1)
        return a.sum() + 2 * b.sum() + 3 * c.sum()

    x = jnp.arange(12.0).reshape(2, 6)
    program = read(function, x)
    replayed = lambda x: jaxpr.replay(program.frame, [x], NO_TAPS, {})[0][0]  # noqa: E731
    np.testing.assert_array_equal(replayed(x), function(x))
    np.testing.assert_array_equal(jax.grad(replayed)(x), jax.grad(function)(x))
