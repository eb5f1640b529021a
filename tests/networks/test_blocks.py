"""Every kind of block against its formula in NumPy, with parameters moved off their start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import layers, networks

WIDTH = 5


def block_of(kind, blocks=4, **options):
    return networks.block(
        kind, lambda weights: layers.dense(WIDTH, *weights), blocks=blocks, **options
    )


def relu(x):
    return np.maximum(x, 0)


def affine(params, x):
    return x @ params["kernel"] + params["bias"]


def two(params, x):
    """f(W2 f(W1 x))."""
    return relu(affine(params["second"]["weight"], relu(affine(params["first"]["weight"], x))))


def two_open(params, x):
    """W2 f(W1 x)."""
    return affine(params["second"]["weight"], relu(affine(params["first"]["weight"], x)))


def fixup(params, x):
    first, second = params["first"], params["second"]
    h = affine(first["weight"], x + first["shift_in"]["bias"]) + first["shift_out"]["bias"]
    h = affine(second["weight"], relu(h) + second["shift_in"]["bias"])
    return h * second["multiplier"]["scale"] + second["shift_out"]["bias"]


def highway(params, x):
    gate = 1 / (1 + np.exp(-affine(params["gate"]["weight"], x)))
    return gate * relu(affine(params["branch"]["weight"], x)) + (1 - gate) * x


FORMULAS = {
    "plain": two,
    "post_activation": lambda p, x: relu(x + two_open(p["sum"], x)),
    "pre_activation": lambda p, x: x + two_open(p, relu(x)),
    "scaled": lambda p, x: x + two_open(p, relu(x)) / 4**0.5,
    "rezero": lambda p, x: x + p["multiplier"]["scale"] * two(p, x),
    "skipinit": lambda p, x: x + p["multiplier"]["scale"] * two_open(p, relu(x)),
    "fixup": lambda p, x: relu(x + fixup(p["sum"], x)),
    "highway": highway,
}


def test_there_is_a_formula_for_every_kind():
    assert set(FORMULAS) == set(networks.BLOCKS)


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_block_equals_its_formula(x64, key, kind):
    block, x = block_of(kind), jax.random.normal(key, (3, WIDTH))
    params, state = block.init(key, x)
    params = jax.tree.map(
        lambda p: np.asarray(p) + 0.1 * np.cos(np.arange(p.size)).reshape(p.shape), params
    )
    output = block.apply(params, state, x).output
    np.testing.assert_allclose(output, FORMULAS[kind](params, np.asarray(x)), rtol=1e-10)


@pytest.mark.parametrize("kind", ["rezero", "skipinit", "fixup"])
def test_gated_blocks_start_as_the_identity_of_what_is_positive(key, kind):
    x = jnp.abs(jax.random.normal(key, (3, WIDTH)))
    params, state = block_of(kind).init(key, x)
    np.testing.assert_array_equal(block_of(kind).apply(params, state, x).output, x)


def test_fixup_scales_the_first_layer_of_a_branch_by_the_number_of_blocks(key):
    """blocks^(-1 / (2 m - 2)) with m = 2 layers (Zhang et al., ICLR 2019, sec. 3, rule 2)."""
    x = jnp.ones((1, 512))
    few, many = (
        networks.block("fixup", lambda w: layers.dense(512, *w), blocks=blocks).init(key, x).params
        for blocks in (1, 16)
    )
    kernels = [np.asarray(p["sum"]["first"]["weight"]["kernel"]) for p in (few, many)]
    np.testing.assert_allclose(kernels[1], kernels[0] / 4, rtol=1e-5)
    # He: a mean square of 2 / fan_in, within five standard errors
    assert np.mean(kernels[0] ** 2) * 512 == pytest.approx(2, rel=5 * (2 / 512**2) ** 0.5)


def test_a_norm_stands_where_the_kind_has_it(key):
    norm = layers.layer_norm()
    of = lambda kind: block_of(kind, norm=norm).init(key, jnp.ones((1, WIDTH))).params  # noqa: E731
    assert list(of("plain")["second"]) == ["weight", "norm", "activation"]
    assert list(of("post_activation")["sum"]["second"]) == ["weight", "norm"]
    assert list(of("pre_activation")["first"]) == ["norm", "activation", "weight"]
    assert list(of("highway")["branch"]) == ["weight", "norm", "activation"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: block_of("dense"), "kind is 'dense'; it must be one of plain, post_activation"),
        (lambda: block_of("plain", blocks=0), "blocks 0; it must be at least 1"),
        (lambda: block_of("fixup", norm=layers.batch_norm()), "fixup replaces; leave it out"),
        (lambda: block_of("plain", shortcut=layers.dense(4)), "'plain' with a shortcut"),
    ],
    ids=["kind", "blocks", "fixup", "shortcut"],
)
def test_blocks_refuse(make, message):
    assert_refuses(make, message)
