"""A learnt factor and a learnt term, against their definitions and in residual branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import initializers, layers
from vanishing.layers import dense, multiplier, residual, serial, shift
from vanishing.meanfield import signal


def test_their_gradients_are_sums_over_all_numbers(x64, key):
    x = jax.random.normal(key, (3, 4))
    weights = jnp.cos(jnp.arange(12.0)).reshape(3, 4)

    def gradient(layer):
        params, state = layer.init(key, x)
        return jax.grad(lambda p: jnp.sum(weights * layer.apply(p, state, x).output))(params)

    np.testing.assert_allclose(gradient(multiplier(0.3))["scale"], (weights * x).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient(shift())["bias"], weights.sum(), rtol=1e-12)


def test_a_branch_multiplied_by_zero_leaves_its_input_and_learns_only_its_factor(key):
    x = jax.random.normal(key, (3, 4))
    block = residual(serial(dense=dense(4), gate=multiplier(0.0)))
    params, state = block.init(key, x)
    np.testing.assert_array_equal(block.apply(params, state, x).output, x)
    grads = jax.grad(lambda p: jnp.sum(block.apply(p, state, x).output ** 2))(params)
    assert not grads["dense"]["kernel"].any()
    assert grads["gate"]["scale"] != 0


@pytest.mark.parametrize("initial", [0.0, 0.1])
def test_theory_sees_a_multiplied_branch_as_a_scaled_one(initial):
    branch = dense(64, *initializers.scaled(1.5))
    start = signal(2.0, 0.3, shape=(64,))
    learnt = layers.propagate(residual(serial(branch, multiplier(initial))), start)
    constant = layers.propagate(residual(branch, branch_scale=initial), start)
    gradient = jnp.array([1.0, 0.5, 0.0, 0.0])
    for name in ("q", "difference", "mean"):
        assert float(getattr(learnt, name)) == pytest.approx(
            float(getattr(constant, name)), rel=1e-6
        )
    gains = [float(after.gain.log_of(gradient)) for after in (learnt, constant)]
    assert gains[0] == pytest.approx(gains[1], rel=1e-6)
    assert float(learnt.q) == pytest.approx(2.0 * (1 + 1.5**2 * initial**2), rel=1e-6)


def test_theory_follows_a_shift_from_its_usual_start_only():
    start = signal(2.0)
    assert layers.propagate(shift(), start) is start
    assert_refuses(lambda: layers.propagate(shift(0.5), start), "starts at 0, not at 0.5")
