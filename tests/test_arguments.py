import jax
import jax.numpy as jnp

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
