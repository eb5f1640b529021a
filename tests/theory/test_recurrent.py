"""Recurrent gains against products of Jacobians, and against sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import theory


@pytest.mark.parametrize(("name", "sigma_w", "sigma_x"), [("tanh", 1.5, 0.5), ("relu", 1.2, 1.0)])
def test_chi_is_the_gain_of_a_step_of_a_wide_rnn(name, sigma_w, sigma_x, key):
    units, steps, warm_up = 1000, 10, 10
    keys = jax.random.split(key, 4)
    kernel = sigma_w / units**0.5 * jax.random.normal(keys[0], (units, units))
    inputs = sigma_x * jax.random.normal(keys[1], (warm_up + steps, units))
    function = {"tanh": jnp.tanh, "relu": jax.nn.relu}[name]

    def run(h, inputs):
        return jax.lax.scan(lambda h, x: (function(h @ kernel + x), None), h, inputs)[0]

    h = run(jnp.zeros(units), inputs[:warm_up])
    cotangent = jax.random.normal(keys[2], (units,))
    _, pullback = jax.vjp(lambda h: run(h, inputs[warm_up:]), h)
    measured = (jnp.sum(pullback(cotangent)[0] ** 2) / jnp.sum(cotangent**2)) ** (1 / steps)
    predicted = float(theory.rnn_chi(name, sigma_w, sigma_x=sigma_x))
    assert float(measured) == pytest.approx(predicted, rel=0.05)


def test_no_step_exceeds_its_bound(key):
    kernel = jax.random.normal(key, (30, 30)) / 30**0.5
    bound = theory.rnn_bound("sigmoid", 3 * kernel)
    h = jax.random.normal(key, (200, 30))

    def jacobian(h):
        return jax.jacobian(lambda h: jax.nn.sigmoid(h @ (3 * kernel)))(h)

    norms = jnp.linalg.norm(jax.vmap(jacobian)(h), 2, axis=(1, 2))
    assert float(jnp.max(norms)) <= float(bound.largest)
    # a linear network grows by its spectral radius in the long run
    linear = theory.rnn_bound("identity", kernel)
    power = jnp.linalg.norm(jnp.linalg.matrix_power(kernel, 200), 2) ** (1 / 200)
    assert float(power) == pytest.approx(float(linear.in_the_long_run), rel=0.02)
    assert float(linear.in_the_long_run) <= float(linear.largest)


def test_gates_forget_as_a_sample_of_gates_does(key):
    n, steps, bias, sigma = 20_000, 8, 1.0, 0.7
    gates = jax.nn.sigmoid(bias + sigma * jax.random.normal(key, (n, steps)))
    products = jnp.prod(gates, axis=1)
    error = float(jnp.std(products)) / n**0.5
    gain = float(theory.gate_gain(steps, bias, sigma))
    assert abs(gain - float(jnp.mean(products))) < 5 * error


def test_chrono_gates_forget_as_a_sample_of_units_does(key):
    n, steps, longest = 100_000, 50, 400
    bias = jnp.log(jax.random.uniform(key, (n,), minval=1.0, maxval=longest - 1.0))
    products = jax.nn.sigmoid(bias) ** steps
    error = float(jnp.std(products)) / n**0.5
    assert abs(float(theory.chrono_gain(steps, longest)) - float(jnp.mean(products))) < 5 * error
    assert float(theory.gate_gain(50, 1.0)) < 1e-6 < float(theory.chrono_gain(50, 400))
    assert np.isfinite(float(theory.chrono_gain(10_000, 400)))
