"""The algebra of gains, and the signal's own arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.meanfield.signals import Gain, elementwise_gain, identity_gain, signal


def gain(key, log_scale=0.0, log_variance=0.0):
    return Gain(jax.random.uniform(key, (4, 4)), jnp.array(log_scale), jnp.array(log_variance))


def matrix(g):
    return np.asarray(g.matrix, np.float64) * np.exp(float(g.log_scale))


def test_gains_compose_as_matrices_do(key):
    a, b, c = (gain(k, s) for k, s in zip(jax.random.split(key, 3), (3.0, -2.0, 1.0), strict=True))
    np.testing.assert_allclose(matrix(a.after(b)), matrix(a) @ matrix(b), rtol=1e-5)
    np.testing.assert_allclose(matrix(a.after(b).after(c)), matrix(a.after(b.after(c))), rtol=1e-5)
    np.testing.assert_allclose(matrix(a.plus(b)), matrix(a) + matrix(b), rtol=1e-5)
    np.testing.assert_allclose(matrix(a.times(0.25)), matrix(a) / 4, rtol=1e-5)
    identity = identity_gain(jnp.zeros(()))
    np.testing.assert_allclose(matrix(identity.after(a)), matrix(a), rtol=1e-6)


def test_no_depth_underflows_and_zero_is_minus_infinity():
    tenth = elementwise_gain(0.1, 0.1, 0.1, 0.1)
    deep = identity_gain(jnp.zeros(()))
    for _ in range(1000):
        deep = deep.after(tenth)
    gradient = jnp.array([1.0, 0.0, 0.0, 0.0])
    assert float(deep.log_of(gradient)) == pytest.approx(1000 * np.log(0.1), rel=1e-5)
    zero_gain = elementwise_gain(0.0, 0.0, 0.0, 0.0)
    assert float(deep.after(zero_gain).log_of(gradient)) == -np.inf


def test_variances_add_along_a_path_and_weigh_by_their_share_across_paths():
    noisy, quiet = elementwise_gain(1, 1, 0, 0, 0.3), elementwise_gain(3, 3, 0, 0, 0.1)
    assert float(noisy.after(quiet).log_variance) == pytest.approx(0.4)
    # d log(X + Y) = (X d log X + Y d log Y) / (X + Y), with X : Y = 1 : 3
    expected = 0.25**2 * 0.3 + 0.75**2 * 0.1
    assert float(noisy.plus(quiet).log_variance) == pytest.approx(expected)


def test_a_signal_knows_its_covariance_and_correlation():
    s = signal(2.0, 0.25, shape=(3, 4))
    assert (float(s.covariance), float(s.correlation), s.size) == (0.5, 0.25, 12)
    assert float(signal(0.0).correlation) == 1.0
