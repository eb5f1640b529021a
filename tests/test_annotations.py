"""What annotations say of values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int, PRNGKeyArray, jaxtyped

from vanishing import _annotations, initializers, layers
from vanishing._types import Scalar, Spec

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (float, [1, 2.0, np.float32(1), jnp.ones(())], [True, "1", None, jnp.ones(2), 1j]),
        (Scalar, [1, 2.0, jnp.ones(())], [True, "1", np.ones((1,))]),
        (int, [3, np.int64(3)], [3.0, True, "3", np.float64(3)]),
        (bool, [True, np.True_], [1, None]),
        (str | None, ["a", None], [1, b"a"]),
        (Callable, [len, jnp.tanh], ["tanh", 1]),
        (Sequence[int], [(1, 2), [3], np.array([1])], [1, "12", (1.0,)]),
        (Sequence[str], [["a"]], ["a", [1]]),
        (Mapping[str, Any], [{}], [[], 1]),
        (Float[Array, "batch n"], [np.ones((2, 3)), jnp.ones((1, 1))], [1.0, np.ones(2)]),
        (Int[Array, "..."], [np.ones(2, int)], [np.ones(2), 1]),
        (PRNGKeyArray, [KEY, jax.random.PRNGKey(0)], [0, jnp.ones(2)]),
        (Spec, [np.ones(2), jax.ShapeDtypeStruct((2,), float)], [[1.0], 1]),
        (layers.Layer, [layers.dense(2)], ["dense", (1, 2)]),
        (initializers.Initializer, [initializers.he_normal()], ["he_normal"]),
        (Any, [object()], []),
    ],
    ids=lambda value: str(value) if not isinstance(value, list) else "",
)
def test_what_fits_and_what_does_not(hint, good, bad):
    assert [value for value in good if not _annotations.fits(value, hint)] == []
    assert [value for value in bad if _annotations.fits(value, hint)] == []
    assert "typing" not in _annotations.words(hint)


def test_traced_values_fit_as_known_ones_do():
    def traced(number, array):
        assert _annotations.fits(number, float)
        assert _annotations.fits(array, Float[Array, "n"])
        assert not _annotations.fits(array, float)
        return number

    assert jax.jit(traced)(1.0, jnp.ones(3)) == 1


def test_axes_of_one_name_have_one_length():
    hint = Float[Array, "batch n"]
    with jaxtyped("context"):
        assert _annotations.fits(np.ones((2, 3)), hint)
        assert not _annotations.fits(np.ones((2, 4)), hint)
    assert _annotations.fits(np.ones((2, 4)), hint)


def test_words_say_what_is_asked_for():
    hint = Float[Array, "batch n"] | Float[np.ndarray, "batch n"] | None
    assert _annotations.words(hint) == (
        "an array of floating-point numbers with the axes (batch, n), or None"
    )
    assert _annotations.words(PRNGKeyArray) == "a key, as `jax.random.key(0)` is one"
    assert _annotations.words(Scalar) == "a number, or a whole number"
