import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes, small
from tests.helpers import assert_refuses, unchecked
from vanishing import backprop, layers

axes = st.integers(1, 3)
triples = st.tuples(small, small, small)
pads = st.sampled_from(["SAME", "VALID", "pairs", "CIRCULAR"])


def geometry(axes, size, strides, extra, padding):
    """Kernel, strides, padding and places, the last large enough for the kernel."""
    size, strides = size[:axes], strides[:axes]
    places = tuple(k + more - 1 for k, more in zip(size, extra[:axes], strict=True))
    if padding == "pairs":
        padding = [((k + 1) % 3, k % 2) for k in size]
    return size, strides, places, padding


@over_random_shapes(
    examples=25, axes=axes, size=triples, strides=triples, extra=triples, padding=pads
)
def test_convolution_and_its_gradients_equal_grad_of_the_layer(
    rng, axes, size, strides, extra, padding
):
    size, strides, places, padding = geometry(axes, size, strides, extra, padding)
    batch, channels, features = rng.integers(1, 4, 3)
    layer = layers.conv(int(features), size, strides=strides, padding=padding)
    x = jnp.array(rng.normal(size=(batch, *places, channels)))
    params = {
        "kernel": jnp.array(rng.normal(size=(*size, channels, features))),
        "bias": jnp.array(rng.normal(size=features)),
    }

    @jax.jit
    def automatic(params, x, delta):
        z, pull = jax.vjp(lambda params, x: layer.apply(params, {}, x).output, params, x)
        to_params, to_x = pull(delta)
        return z, to_params["bias"], to_params["kernel"], to_x

    @jax.jit
    def by_hand(params, x, delta):
        kernel = params["kernel"]
        return (
            backprop.conv(x, kernel, params["bias"], strides, padding),
            backprop.conv_bias_gradient(delta),
            backprop.conv_kernel_gradient(x, delta, size, strides, padding),
            backprop.conv_input_gradient(delta, kernel, places, strides, padding),
        )

    output = jax.eval_shape(lambda params, x: layer.apply(params, {}, x).output, params, x)
    delta = jnp.array(rng.normal(size=output.shape))
    assert_equal(by_hand(params, x, delta), automatic(params, x, delta))


def test_a_kernel_of_one_place_is_a_dense_layer_at_every_place(x64):
    rng = np.random.default_rng(0)
    x, kernel = jnp.array(rng.normal(size=(2, 5, 3))), jnp.array(rng.normal(size=(1, 3, 4)))
    delta = jnp.array(rng.normal(size=(2, 5, 4)))
    by_places = backprop.weight_gradient(x.reshape(10, 3), delta.reshape(10, 4))
    assert_equal(backprop.conv_kernel_gradient(x, delta, (1,), (1,), "VALID")[0], by_places)
    to_x = delta.reshape(10, 4) @ kernel[0].T
    assert_equal(
        backprop.conv_input_gradient(delta, kernel, (5,), (1,), "VALID").reshape(10, 3), to_x
    )


def test_shapes_that_do_not_go_together_are_refused():
    x, kernel, bias = jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 3, 1)), jnp.ones(1)
    one = (1, 1)
    assert_refuses(
        lambda: unchecked(backprop.conv)(x, kernel, bias, one, "VALID"),
        "x has shape (1, 3, 3, 1); it must be (1, 3, 3, 3).",
    )
    assert_refuses(
        lambda: unchecked(backprop.conv_kernel_gradient)(
            x, jnp.ones((1, 4, 1, 1)), (2, 2), one, "VALID"
        ),
        "delta has shape (1, 4, 1, 1); it must be (1, 2, 2, 1).",
    )
    assert_refuses(
        lambda: unchecked(backprop.conv_input_gradient)(
            jnp.ones((1, 1, 2, 1)), kernel, (3, 3), one, "VALID"
        ),
        "delta has shape (1, 1, 2, 1); it must be (1, 2, 2, 1).",
    )
