import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from tests.helpers import assert_refuses
from vanishing import _arguments, data
from vanishing._types import Scalar


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


@_arguments.checked(gain=_arguments.FRACTION, anything=None)
def example(
    width: int,
    sigma_w: Scalar = 1.0,
    *,
    gain: float = 0.5,
    x: Float[Array, "batch n"] | None = None,
    y: Float[Array, "batch n"] | None = None,
    anything: int = 0,
):
    return width


def test_a_checked_function_refuses_by_annotation_and_by_the_range_of_the_name():
    ones = np.ones((2, 3), np.float32)
    assert example(4, 2.0, gain=1, x=ones, y=jnp.ones((2, 3)), anything="text") == 4
    assert example(width=np.int64(1)) == 1
    for call, message in (
        (lambda: example(0), "width is 0; it must be at least 1 and finite."),
        (lambda: example(2.0), "width is 2.0; it must be a whole number."),
        (lambda: example(True), "width is True; it must be a whole number."),
        (lambda: example(2**31), "width is 2147483648; it must be at most 2147483647 in size."),
        (lambda: example(1, np.float32("nan")), "sigma_w is nan; it must be at least 0 and fin"),
        (lambda: example(1, 2**63), "it must be at most 2147483647 in size or a float."),
        (lambda: example(1, -0.1), "sigma_w is -0.1; it must be at least 0 and finite."),
        (lambda: example(1, gain=1.1), "gain is 1.1; it must be at least 0 and at most 1."),
        (lambda: example(1, x=[1.0]), "x is [1.0]; it must be an array of floating-point"),
        (lambda: example(1, x=ones[0]), "x is float32[3]; it must be an array of floating"),
        (lambda: example(1, x=ones[:0]), "x is float32[0,3]; it must have elements."),
        (lambda: example(1, x=ones, y=ones.T), "that the others have: x float32[2,3]."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match="width"):
        example()


def test_a_checked_function_takes_traced_numbers_and_keeps_its_name():
    traced = jax.jit(lambda s: example(3, s, gain=s) * s)
    assert traced(-1.0) == -3
    assert example.__name__ == "example"


def test_what_no_machine_holds_is_refused_before_it_is_made():
    _arguments.fits_in_memory("examples", 1000, 8)
    assert_refuses(
        lambda: _arguments.fits_in_memory("examples", 10**12, 10**6),
        "examples is 1000000000000",
        "GB",
    )
    for make in (data.adding, data.copy_memory, data.temporal_order):
        assert_refuses(
            lambda make=make: make(jax.random.key(0), 10**9, 10**6), "examples is 1000000000"
        )
    assert_refuses(
        lambda: data.synthetic(10**9, 10**6), "examples is 1000000000; they take 8e+06 GB"
    )
