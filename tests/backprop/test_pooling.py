import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes
from tests.backprop.test_convolution import axes, geometry, triples
from tests.helpers import assert_refuses, unchecked
from vanishing import backprop, layers


def padded_less_than_the_window(size, padding):
    """Explicit padding must be under the window, or a window could hold nothing at all."""
    if isinstance(padding, str):
        return padding
    return [
        (min(before, k - 1), min(after, k - 1))
        for (before, after), k in zip(padding, size, strict=True)
    ]


def pooled(layer, x):
    return layer.apply({}, {}, x).output


@over_random_shapes(
    examples=20,
    axes=axes,
    size=triples,
    strides=triples,
    extra=triples,
    padding=st.sampled_from(["SAME", "VALID", "pairs"]),
)
def test_pooling_and_its_gradients_equal_grad_of_the_layers(
    rng, axes, size, strides, extra, padding
):
    size, strides, places, padding = geometry(axes, size, strides, extra, padding)
    padding = padded_less_than_the_window(size, padding)
    x = jnp.array(rng.normal(size=(2, *places, 2)))

    maxima = layers.max_pool(size, strides=strides, padding=padding)
    means = layers.avg_pool(size, strides=strides, padding=padding)

    @jax.jit
    def automatic(x, delta):
        (largest, mean), pull = jax.vjp(lambda x: (pooled(maxima, x), pooled(means, x)), x)
        zeros = jnp.zeros_like(delta)
        return largest, mean, *pull((delta, zeros)), *pull((zeros, delta))

    @jax.jit
    def by_hand(x, delta):
        return (
            backprop.max_pool(x, size, strides, padding),
            backprop.avg_pool(x, size, strides, padding),
            backprop.max_pool_gradient(x, delta, size, strides, padding),
            backprop.avg_pool_gradient(delta, places, size, strides, padding),
        )

    delta = jnp.array(rng.normal(size=jax.eval_shape(lambda x: pooled(maxima, x), x).shape))
    assert_equal(by_hand(x, delta), automatic(x, delta))


def test_of_equal_numbers_the_first_takes_it_all_as_in_xla(x64):
    x = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(-1.0)
    layer = layers.max_pool((2, 2))
    _, pull = jax.vjp(lambda x: layer.apply({}, {}, x).output, x)
    delta = jnp.ones((1, 1, 1, 1))
    by_hand = backprop.max_pool_gradient(x, delta, (2, 2), (2, 2))
    assert_equal(by_hand, pull(delta)[0])
    assert np.argmax(by_hand) == 0


def test_padding_no_window_could_fill_and_another_delta_are_refused():
    x, two = jnp.ones((1, 4, 1)), ((2,), (2,))
    assert_refuses(
        lambda: unchecked(backprop.max_pool)(x, *two, [(2, 0)]), "padding is [(2, 0)]", "(2,)"
    )
    assert_refuses(
        lambda: unchecked(backprop.avg_pool)(x, *two, "CIRCULAR"), "padding is 'CIRCULAR'"
    )
    one = jnp.ones((1, 1, 1))
    for call in (
        lambda: unchecked(backprop.max_pool_gradient)(x, one, *two),
        lambda: unchecked(backprop.avg_pool_gradient)(one, (4,), *two),
    ):
        assert_refuses(call, "delta has shape (1, 1, 1); it must be (1, 2, 1).")
