"""Prediction beside measurement, on a network whose gradient is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import initializers, layers, networks, probe, theory
from vanishing.comparison import compare, measure, measure_drawn, slope

SCALE = 0.8


@pytest.fixture(scope="module")
def linear():
    """Orthogonal linear layers: every gradient is exactly 0.8 of the one above."""
    weights = initializers.by_name("orthogonal", initializers.Scales(scale=SCALE))
    net = networks.mlp(16, depth=6, width=16, activation=lambda x: 1.0 * x, weights=weights)
    x = jax.random.normal(jax.random.key(1), (4, 16))
    return compare(theory.predict(net, x), measure_drawn(net, x, jax.random.key(0), networks=3))


def test_rows_join_and_agree_where_theory_is_exact(linear):
    assert linear.row.values[0] == "first.dense"
    np.testing.assert_allclose(
        linear.log_backward_measured,
        linear.log_backward_predicted.expand_dims(batch_0=3),
        atol=1e-4,
    )
    assert np.isfinite(linear.correlation_measured).all()
    np.testing.assert_allclose(
        linear.q_measured, linear.q_predicted.expand_dims(batch_0=3), rtol=1e-4
    )


def test_slopes_are_fitted_per_network_and_judged(linear):
    result = slope(linear, r"hidden\[\d+\]\.dense", skip=1)
    assert result.predicted == pytest.approx(2 * np.log(SCALE), rel=1e-4)
    assert result.measured == pytest.approx(2 * np.log(SCALE), rel=1e-4)
    assert result.agrees
    assert not result._replace(measured=result.measured - 0.03).agrees
    for value in (float("inf"), float("nan")):
        for name in ("predicted", "measured"):
            changed = result._replace(**{name: value})
            assert not changed.agrees
            assert changed.verdict == "not finite"
    assert_refuses(lambda: slope(linear, "nowhere"), "0 rows match 'nowhere'")


def test_networks_that_differ_are_refused(linear):
    net = layers.serial(other=layers.dense(3))
    x = jnp.ones((2, 3))
    params, state = net.init(jax.random.key(0), x)
    trace = probe(lambda p: jnp.sum(net.apply(p, state, x).output))(params).trace
    prediction = theory.predict(networks.mlp(3, depth=1, width=3), x)
    assert_refuses(lambda: compare(prediction, trace), "they must be of the same network")


def test_a_loss_and_summaries_may_be_given():
    net = layers.serial(layers.dense(4))
    x = jax.random.normal(jax.random.key(0), (8, 3))
    variables = net.init(jax.random.key(1), x)
    trace = measure(net, variables, x, jax.random.key(2), loss=jnp.sum, summaries="size")
    np.testing.assert_array_equal(trace.backward.rms, 1.0)
    assert np.isnan(trace.forward.similarity).all()
