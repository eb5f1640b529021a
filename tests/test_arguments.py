import jax
import jax.numpy as jnp

from tests.helpers import assert_refuses
from vanishing import _arguments


def test_a_bad_value_is_named_with_what_is_allowed():
    assert_refuses(
        lambda: _arguments.shape("x", jnp.ones((2, 1)), (2,)), "x has shape (2, 1)", "(2,)"
    )
    assert_refuses(lambda: _arguments.between("rate", 1.0, 0.0, 1.0), "rate is 1.0", "under 1.0")
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        assert_refuses(
            lambda wrong=wrong: _arguments.positive("epsilon", wrong), f"epsilon is {wrong}"
        )


def test_what_is_allowed_passes_and_so_does_what_is_traced():
    _arguments.shape("x", jnp.ones((2, 1)), (2, 1))
    _arguments.between("rate", 0.0, 0.0, 1.0)
    _arguments.positive("epsilon", 1e-30)

    def traced(value):
        _arguments.between("rate", value, 0.0, 1.0)
        _arguments.positive("epsilon", value)
        return value

    assert jax.jit(traced)(-1.0) == -1.0
