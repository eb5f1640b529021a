import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import slow
from vanishing import probe
from vanishing.probing import groups, rows

X = jax.random.normal(jax.random.key(0), (8, 16))


def layers(depth, width=16):
    return [jax.random.normal(jax.random.key(i), (width, width)) / 4 for i in range(depth)]


def loss(params, x):
    for i, w in enumerate(params):
        x = jax.nn.relu(x @ w) if i % 2 else jnp.tanh(x @ w)
    return jnp.mean(x**2)


def equations(program):
    """How many equations a program has, those of each call of a jitted function included."""
    return sum(
        1
        + sum(
            equations(inner)
            for parameter in eqn.params.values()
            for inner in jax.tree.leaves(parameter, is_leaf=lambda x: hasattr(x, "jaxpr"))
            for inner in [getattr(inner, "jaxpr", inner)]
            if hasattr(inner, "eqns")
        )
        for eqn in program.eqns
    )


def instructions(function, *args):
    """The compiled program's instructions, without their names and metadata."""
    text = jax.jit(function).lower(*args).compile().as_text()
    text = re.sub(
        r"(, )?metadata=\{[^}]*\}|%?[\w.-]*\.\d+|FileNames.*|\d+ \"[^\"]*\"|\d+ \{.*", "", text
    )
    return sorted(line.strip() for line in text.splitlines() if " = " in line)


def test_without_rows_and_params_the_compiled_program_is_the_plain_one():
    params = layers(3)
    silent = probe(loss, where=lambda site: False, params=False)
    probed = lambda p, x: silent(p, x)[:2]  # noqa: E731
    assert instructions(probed, params, X) == instructions(jax.value_and_grad(loss), params, X)
    assert instructions(probe(loss), params, X) != instructions(probed, params, X)
    trace = silent(params, X).trace
    assert len(trace) == 0
    assert np.isnan(trace.params.weight).tolist() == [True] * 3


def test_summaries_do_not_depend_on_how_rows_are_put_in_groups(monkeypatch):
    params = layers(6)
    together = probe(loss)(params, X).trace
    monkeypatch.setattr(rows, "LIMIT", 1)
    separate = probe(loss)(params, X).trace
    for leaf, reference in zip(jax.tree.leaves(together), jax.tree.leaves(separate), strict=True):
        np.testing.assert_allclose(leaf, reference, rtol=2e-6)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(1, 32, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(32, 128, rngs=rngs), nnx.Linear(128, 32, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


@pytest.mark.slow
def test_the_program_of_a_probed_transformer_block_is_short():
    """At most three times the plain program: few equations are traced and compiled quickly."""
    graph, params = nnx.split(Block(nnx.Rngs(0)))

    def block_loss(params, x):
        return jnp.mean(nnx.merge(graph, params)(x) ** 2)

    x = jnp.ones((2, 6, 32))
    plain = equations(jax.make_jaxpr(jax.value_and_grad(block_loss))(params, x).jaxpr)
    probed = equations(jax.make_jaxpr(probe(block_loss))(params, x).jaxpr)
    assert 150 < plain < 300
    assert probed <= 675


def test_each_further_layer_adds_few_equations():
    """The first call grows linearly with the number of rows, and slowly."""
    counts = [equations(jax.make_jaxpr(probe(loss))(layers(n), X).jaxpr) for n in (10, 20, 30)]
    plain = [
        equations(jax.make_jaxpr(jax.value_and_grad(loss))(layers(n), X).jaxpr)
        for n in (10, 20, 30)
    ]
    assert counts[2] - counts[1] == counts[1] - counts[0]
    assert counts[2] - counts[1] <= 3 * (plain[2] - plain[1])


@pytest.mark.slow
def test_stacks_take_a_bounded_share_of_memory():
    """Rows of 256 KB each, of which a stack of all would take 20 MB, backward as much."""
    params, x = layers(40, 256), jnp.ones((256, 256))
    temporary = [
        jax.jit(function).lower(params, x).compile().memory_analysis().temp_size_in_bytes
        for function in (jax.value_and_grad(loss), probe(loss))
    ]
    assert temporary[1] - temporary[0] <= 8 * groups.LIMIT


@pytest.mark.parametrize("argument", ["trace", *slow("value")])
def test_a_probe_can_be_differentiated_through(argument):
    """The summaries are constants to the derivative; value and gradients are what they are."""
    params = layers(2)

    def outer(p):
        probed = probe(loss)(p, X)
        return (
            probed.value if argument == "value" else probed.value + probed.trace.forward.rms.sum()
        )

    expected = jax.grad(loss)(params, X)
    for gradient, reference in zip(jax.grad(outer)(params), expected, strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-6)


def test_norms_of_large_parameters_need_no_copy_of_them():
    """XLA sums plain squares as it reads them."""
    w = jnp.ones((8, 512, 512))

    def loss(w):
        return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jnp.ones((4, 512)), w)[0])

    with_norms, without = (
        jax.jit(probe(loss, params=params)).lower(w).compile().memory_analysis()
        for params in (True, False)
    )
    assert with_norms.temp_size_in_bytes < without.temp_size_in_bytes + 0.5 * w.nbytes


def overflowing(params, x):
    for w in params:
        x = jnp.exp(x @ w)
    return jnp.mean(x)


def counts(probed):
    return [np.asarray(way.non_finite) for way in (probed.trace.forward, probed.trace.backward)]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_of_a_finite_loss_nothing_is_counted_and_of_another_all_that_is_not(transform):
    params, finite = layers(4), transform(probe(overflowing, summaries="finite"))
    probed, plain = finite(params, 100 * X), probe(overflowing)(params, 100 * X)
    assert plain.trace.forward.non_finite.any()
    for a, b in zip(counts(probed), counts(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    healthy = finite([0.1 * w for w in params], X)
    assert [x.any() for x in counts(healthy)] == [False, False]
    assert np.isnan(healthy.trace.forward.rms).all()
    value, grads = jax.value_and_grad(overflowing)([0.1 * w for w in params], X)
    np.testing.assert_allclose(healthy.value, value, rtol=1e-6)
    for a, b in zip(healthy.grads, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_gradient_alone_that_is_not_finite_is_counted():
    loss = lambda w, x: jnp.sum(jnp.sqrt(x @ w))  # noqa: E731
    probed = probe(loss, summaries="finite")(jnp.ones((3, 2)), jnp.zeros((4, 3)))
    assert jnp.isfinite(probed.value)
    assert [x.any() for x in counts(probed)] == [False, True]


def test_of_a_batch_of_losses_those_that_are_not_finite_are_counted():
    params, finite = layers(4), probe(overflowing, summaries="finite")
    traces = jax.vmap(lambda x: finite(params, x).trace)(jnp.stack([0 * X, 100 * X]))
    assert traces.forward.non_finite.any(1).tolist() == [False, True]
