import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import _arguments


def test_a_bad_value_is_named_with_what_is_allowed():
    assert_refuses(
        lambda: _arguments.shape("x", jnp.ones((2, 1)), (2,)), "x has shape (2, 1)", "(2,)"
    )
    assert_refuses(lambda: _arguments.between("rate", 1.0, 0.0, 1.0), "rate is 1.0", "under 1.0")
    assert_refuses(
        lambda: _arguments.between("rate", 2, 0, 1, owner="dropout"),
        "dropout has rate 2; it must be at least 0 and under 1.",
    )
    names = {"a": 1, "b": 2}
    assert_refuses(
        lambda: _arguments.one_of("kind", "c", names), "kind is 'c'; it must be one of a, b."
    )
    assert_refuses(
        lambda: _arguments.one_of("kind", "c", names, ", or a function"),
        "kind is 'c'; it must be one of a, b, or a function.",
    )
    assert_refuses(
        lambda: _arguments.at_least("depth", 0, 1, owner="mlp", note=": one hidden layer"),
        "mlp has depth 0; it must be at least 1: one hidden layer.",
    )
    assert_refuses(lambda: _arguments.over("slope", 1.0, 1), "slope is 1.0; it must be over 1.")
    nan = float("nan")
    assert_refuses(lambda: _arguments.at_least("q", nan, 0), "q is nan")
    assert_refuses(lambda: _arguments.over("q", nan, 0), "q is nan")
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        assert_refuses(
            lambda wrong=wrong: _arguments.positive("epsilon", wrong), f"epsilon is {wrong}"
        )


def test_what_is_allowed_passes_and_so_does_what_is_traced():
    _arguments.shape("x", jnp.ones((2, 1)), (2, 1))
    _arguments.between("rate", 0.0, 0.0, 1.0)
    _arguments.positive("epsilon", 1e-30)
    _arguments.at_least("depth", 1, 1)
    _arguments.over("epsilon", 1e-30, 0)
    _arguments.one_of("kind", "a", ("a", "b"))

    def traced(value):
        _arguments.between("rate", value, 0.0, 1.0)
        _arguments.positive("epsilon", value)
        _arguments.at_least("epsilon", value, 0)
        _arguments.over("epsilon", value, 0)
        return value

    assert jax.jit(traced)(-1.0) == -1.0


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
    assert_refuses(lambda: _arguments.held("seed", values), fragment)


def test_numbers_that_jax_holds_come_back_as_it_holds_them():
    assert _arguments.held("x", 0.1).dtype == np.float32
    assert _arguments.held("x", [2**31 - 1]).dtype == np.int32
    assert np.isnan(_arguments.held("x", np.nan))
    assert _arguments.held("x", [np.inf, -np.inf, 0.0]).tolist() == [np.inf, -np.inf, 0.0]
    assert _arguments.held("x", jnp.ones(2, jnp.bfloat16)).tolist() == [1.0, 1.0]
    assert _arguments.held("x", True).dtype == bool
    with jax.enable_x64(True):
        assert _arguments.held("x", [2**40]).tolist() == [2**40]
