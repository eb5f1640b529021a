import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes, small
from tests.helpers import assert_refuses, unchecked
from vanishing import backprop, layers, losses


def sigmoid_then_quadratic(logits, targets):
    return losses.quadratic(jax.nn.sigmoid(logits), targets)


@over_random_shapes(batch=small, classes=small, scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_errors_of_the_costs_equal_grad_of_optax_s(rng, batch, classes, scale):
    logits = jnp.array(rng.normal(scale=scale, size=(batch, classes)))
    labels = jnp.array(rng.integers(0, classes, batch))
    targets = jnp.array(rng.uniform(size=logits.shape))
    cases = [
        (backprop.softmax_cross_entropy, losses.softmax_cross_entropy, labels),
        (backprop.binary_cross_entropy, losses.binary_cross_entropy, targets),
        (backprop.sigmoid_quadratic, sigmoid_then_quadratic, targets),
    ]
    errors = [
        backprop.softmax_cross_entropy_error,
        backprop.binary_cross_entropy_error,
        backprop.sigmoid_quadratic_error,
    ]
    for (cost, reference, answer), error in zip(cases, errors, strict=True):
        automatic = jax.jit(jax.value_and_grad(reference))(logits, answer)
        by_hand = jax.jit(lambda z, t, cost=cost, error=error: (cost(z, t), error(z, t)))
        # a probability within 1e-9 of 1 has lost nine digits of what it lacks: hence the atol
        assert_equal(by_hand(logits, answer), automatic, atol=1e-14)


def test_far_from_zero_nothing_overflows():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    with jax.debug_nans(True):
        assert backprop.softmax_cross_entropy(logits, jnp.array([1])) == 2e4
        np.testing.assert_array_equal(backprop.softmax(logits), [[1.0, 0.0, 0.0]])
        assert backprop.binary_cross_entropy(logits, jnp.array([[0.0, 0.0, 0.0]])) > 9e3


@over_random_shapes(rows=small, columns=small)
def test_penalties_equal_grad(rng, rows, columns):
    kernel = jnp.array(rng.normal(size=(rows, columns)))
    for by_hand, penalty in (
        (backprop.l1_gradient, losses.l1),
        (backprop.l2_gradient, losses.l2),
    ):
        automatic = jax.jit(jax.grad(lambda kernel, penalty=penalty: penalty({"kernel": kernel})))
        assert_equal(by_hand(kernel), automatic(kernel))


def test_what_would_broadcast_to_a_wrong_answer_is_refused():
    logits = jnp.ones((3, 1))
    for function in (
        backprop.binary_cross_entropy,
        backprop.binary_cross_entropy_error,
        backprop.sigmoid_quadratic,
        backprop.sigmoid_quadratic_error,
    ):
        assert_refuses(
            lambda function=function: unchecked(function)(logits, logits[:, 0]),
            "targets has shape (3,); it must be (3, 1).",
        )
    for function in (backprop.softmax_cross_entropy, backprop.softmax_cross_entropy_error):
        assert_refuses(
            lambda function=function: unchecked(function)(logits, jnp.array([0])),
            "labels has shape (1,); it must be (3,).",
        )
    halves = jnp.array([0.5, 0.5, 0.5])
    for function in (backprop.softmax_cross_entropy, backprop.softmax_cross_entropy_error):
        assert_refuses(
            lambda function=function: unchecked(function)(logits, halves), "labels are float32"
        )
    assert jnp.isnan(backprop.softmax_cross_entropy(jnp.zeros((1, 2)), jnp.array([2])))
    keep = jnp.ones(3, bool)
    assert_refuses(lambda: backprop.dropout(jnp.ones(3), keep, 1.0), "rate is 1.0", "under 1")


@over_random_shapes(batch=small, features=small, rate=st.sampled_from([0.0, 0.25, 0.9]))
def test_dropout_equals_grad_of_the_layer_with_the_mask_that_it_drew(rng, batch, features, rate):
    x = jnp.array(rng.normal(size=(batch, features)))
    key = jax.random.key(int(rng.integers(2**31)))
    layer = layers.dropout(rate)
    y, pull = jax.vjp(lambda x: layer.apply({}, {}, x, key, train=True).output, x)
    keep = layer.apply({}, {}, jnp.ones_like(x), key, train=True).output > 0
    delta = jnp.array(rng.normal(size=x.shape))
    assert_equal(backprop.dropout(x, keep, rate), y)
    assert_equal(backprop.dropout_gradient(delta, keep, rate), pull(delta)[0])
