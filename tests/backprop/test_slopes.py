import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import backprop, layers


@pytest.mark.parametrize("name", backprop.SLOPES)
def test_each_slope_is_the_derivative_of_its_activation(name, x64):
    # off the kinks at 0, 1 and 3, where the two sides differ
    z = jnp.linspace(-6.0, 6.0, 1201) + 0.0037
    automatic = jax.vmap(jax.grad(layers.ACTIVATIONS[name].function))(z)
    np.testing.assert_allclose(backprop.slope_of(name)(z), automatic, rtol=1e-10, atol=1e-13)


def test_every_activation_has_one_and_an_unknown_one_is_refused():
    learnt = {"prelu"}  # a parameter, not a number
    assert set(backprop.SLOPES) == set(layers.ACTIVATIONS) - learnt
    assert_refuses(lambda: backprop.slope_of("sigmoyd"), "activation is 'sigmoyd'", "softsign")


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "hard_sigmoid", "elu"])
def test_at_their_kinks_slopes_are_what_jax_takes_there(name, x64):
    z = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    automatic = jax.vmap(jax.grad(layers.ACTIVATIONS[name].function))(z)
    np.testing.assert_allclose(backprop.slope_of(name)(z), automatic, rtol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_in_their_tails_slopes_do_not_cancel(name):
    z = np.array([15.0, 30.0, 40.0])
    for side in (z, -z):
        result = backprop.slope_of(name)(jnp.array(side, jnp.float32))
        tail = np.exp(-z) if name == "sigmoid" else 4 * np.exp(-2 * z)
        np.testing.assert_allclose(result, tail, rtol=1e-5)
