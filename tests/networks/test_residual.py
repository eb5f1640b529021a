"""Residual perceptrons: what surrounds the blocks, and theory's word on their depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import initializers, layers, networks, theory


@pytest.mark.parametrize("kind", [*slow("plain"), "pre_activation", "fixup"])
def test_a_residual_mlp_is_its_parts(x64, key, kind):
    x = jax.random.normal(key, (3, 2, 4))
    net = networks.residual_mlp(2, kind=kind, blocks=2, width=16)
    params, state = net.init(key, x)
    block = networks.block(kind, lambda weights: layers.dense(16, *weights), blocks=2)

    def affine(p, x):
        return x @ p["dense"]["kernel"] + jnp.broadcast_to(
            p["dense"]["bias"], (3, len(p["dense"]["bias"]))
        )

    h = affine(params["first"], x.reshape(3, 8))
    h = h if kind == "pre_activation" else jax.nn.relu(h)
    for i in range(2):
        h = block.apply(params["hidden"][i], state["hidden"][i], h).output
    h = jax.nn.relu(h) if kind == "pre_activation" else h
    output = net.apply(params, state, x).output
    np.testing.assert_allclose(output, affine(params["output"], h), rtol=1e-12)
    assert bool(output.any()) == (kind != "fixup")  # its read-out starts at zero


@pytest.mark.parametrize(
    ("kind", "growth"), [*slow(("pre_activation", 2.0)), ("scaled", 1 + 1 / 20)]
)
def test_theory_says_how_the_signal_grows_from_block_to_block(kind, growth):
    """Each adds a branch of the same mean square, or of that over the number of blocks."""
    weights = initializers.scaled(1.0)
    net = networks.residual_mlp(
        10, kind=kind, blocks=20, width=64, activation="identity", weights=weights
    )
    prediction = theory.predict(net, jax.ShapeDtypeStruct((8, 64), jnp.float32))
    q = dict(zip(prediction.names, np.asarray(prediction.q), strict=True))
    assert q["hidden[19]/add"] / q["hidden[18]/add"] == pytest.approx(growth, rel=1e-5)


def test_a_width_of_0_is_refused():
    assert_refuses(
        lambda: networks.residual_mlp(10, kind="plain", blocks=2, width=0),
        "residual_mlp has width 0",
    )
