import jax.numpy as jnp
import numpy as np
import pytest

from vanishing._numerics import norm

SIZES = [1e-34, 1e-30, 1e-5, 1.0, 1e15, 1e30, 8e37]


@pytest.mark.parametrize("size", [1e-42, *SIZES[:-1], 1e37])
def test_norm_is_exact_wherever_the_numbers_are(size):
    x = np.float32(size) * np.array([[3, 4], [0, 12]], np.float32)
    expected = np.linalg.norm(x.astype(np.float64))
    if size == 1e-42:  # denormal: XLA's CPU flushes these to zero, and the norm says so
        expected = float(norm(jnp.asarray(x)))
        assert expected in (0.0, pytest.approx(13e-42, rel=1e-2))
        return
    assert float(norm(jnp.asarray(x))) == pytest.approx(expected, rel=1e-6)
    over_rows = np.linalg.norm(x.astype(np.float64), axis=0)
    np.testing.assert_allclose(norm(jnp.asarray(x), 0), over_rows, rtol=1e-6)


def test_norm_of_nothing_infinity_and_nan():
    assert float(norm(jnp.zeros(3))) == 0
    assert float(norm(jnp.array([1.0, jnp.inf]))) == np.inf
    assert np.isnan(norm(jnp.array([1.0, jnp.nan])))
    assert norm(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32
