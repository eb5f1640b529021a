import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import _held


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        (2**31, "seed has 2147483648, which JAX holds as -2147483648; integers of int32"),
        ([1, -(2**40)], "seed has -1099511627776, which JAX holds as 0;"),
        (1e-46, "seed has 1e-46, which JAX holds as 0.0; sizes of float32 go from 1.2e-38 to"),
        ([1.0, -1e300], "seed has -1e+300, which JAX holds as -inf;"),
        (
            np.float16(6e-8),
            "seed has 5.960464477539063e-08, which JAX holds as 0.0; sizes of float16",
        ),
        ("5", "seed has '5'; it must be numbers that JAX can hold."),
        (2**200, "it must be numbers that JAX can hold."),
        ([[1, 2], [3]], "seed has [[1, 2], [3]]; it must be numbers that JAX can hold."),
    ],
)
def test_numbers_that_jax_would_change_are_refused(values, fragment):
    assert_refuses(lambda: _held.held("seed", values), fragment)


def test_numbers_that_jax_holds_come_back_as_it_holds_them():
    assert _held.held("x", 0.1).dtype == np.float32
    assert _held.held("x", [2**31 - 1]).dtype == np.int32
    assert np.isnan(_held.held("x", np.nan))
    assert _held.held("x", [np.inf, -np.inf, 0.0]).tolist() == [np.inf, -np.inf, 0.0]
    assert _held.held("x", jnp.ones(2, jnp.bfloat16)).tolist() == [1.0, 1.0]
    assert _held.held("x", True).dtype == bool
    with jax.enable_x64(True):
        assert _held.held("x", [2**40]).tolist() == [2**40]
