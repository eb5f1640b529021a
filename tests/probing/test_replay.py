import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from tests.probing.test_jaxpr import nodes, read
from tests.zoo import ZOO
from vanishing.probing.replay import Callbacks, replay

NO_CALLBACKS = Callbacks(lambda number, x, slot, local: (x, x), {})


@pytest.mark.parametrize("name", ["nested scans", "branching", *slow("equinox lstm", "own mlp")])
def test_a_replay_without_taps_is_the_function(x64, name):
    with jax.numpy_rank_promotion("allow"):
        model = ZOO[name]()
        args = (model.params, *model.args)
        program = read(lambda *args: model.loss(*args), *args)
        (value, *_), measured = replay(program.frame, jax.tree.leaves(args), NO_CALLBACKS, {})
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
    callbacks = Callbacks(lambda number, x, slot, local: (2 * x + slot, x), {})
    slots = {sine: 100 * xs}
    (total, ys), measured = replay(program.frame, [xs], callbacks, slots)
    assert float(total) == 10
    np.testing.assert_allclose(measured[sine], np.sin(xs), rtol=1e-6)
    np.testing.assert_allclose(ys, 2 * np.sin(xs) + 100 * xs, rtol=1e-6)
