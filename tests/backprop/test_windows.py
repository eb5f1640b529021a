import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import assert_refuses
from vanishing.backprop.windows import padded, paddings, unpadded, windows


def test_padding_is_as_xla_has_it_and_a_wrong_one_is_refused():
    for places, size, strides in (
        ((28, 28), (3, 5), (2, 3)),
        ((7,), (2,), (1,)),
        ((4,), (1,), (3,)),
    ):
        xla_paddings = jax.lax.padtype_to_pads(places, size, strides, "SAME")
        assert paddings("SAME", places, size, strides) == [tuple(pair) for pair in xla_paddings]
    assert_refuses(lambda: paddings("FULL", (4,), (3,), (1,)), "padding is 'FULL'", "CIRCULAR")
    assert_refuses(lambda: paddings([(1, 1)], (4, 4), (3, 3), (1, 1)), "[(1, 1)]", "2 axes")
    for size, strides in (((3,), (1, 1)), ((3, 3), (1, 0)), ((0, 3), (1, 1))):
        assert_refuses(lambda s=size, t=strides: paddings("SAME", (4, 4), s, t), "at least 1")
    assert_refuses(lambda: windows(jnp.ones((1, 3, 1)), (5,), (1,)), "larger than the (3,) places")


def test_windows_are_those_of_plain_slicing():
    x = jnp.arange(2 * 5 * 6 * 2.0).reshape(2, 5, 6, 2)
    patches = windows(x, (2, 3), (3, 2))
    assert patches.shape == (2, 2, 2, 6, 2)
    for i in range(2):
        for j in range(2):
            window = x[:, 3 * i : 3 * i + 2, 2 * j : 2 * j + 3].reshape(2, 6, 2)
            np.testing.assert_array_equal(patches[:, i, j], window)


def test_unpadded_is_padded_the_other_way_round(x64, key):
    x = jax.random.normal(key, (1, 4, 3, 2))
    for padding in ("SAME", "VALID", "CIRCULAR", [(2, 1), (0, 3)]):
        size, strides = (3, 2), (2, 1)
        padded_x = padded(x, size, strides, padding)
        back = jax.random.normal(key, padded_x.shape)
        pads = paddings(padding, (4, 3), size, strides)
        # <P x, y> = <x, P^T y>
        np.testing.assert_allclose(
            jnp.vdot(padded_x, back), jnp.vdot(x, unpadded(back, (4, 3), pads, padding)), rtol=1e-12
        )
