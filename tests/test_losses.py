import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from tests.helpers import assert_refuses, gradient_by_differences, unchecked
from vanishing import layers, losses

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 4))
LABELS = RNG.integers(4, size=6)
ONE_HOT = np.eye(4)[LABELS]

BY_HAND = {
    "softmax_cross_entropy": -np.mean(log_softmax(Z, axis=1)[np.arange(6), LABELS]),
    "binary_cross_entropy": -np.mean(
        np.sum(ONE_HOT * np.log(expit(Z)) + (1 - ONE_HOT) * np.log(1 - expit(Z)), axis=1)
    ),
    "mean_squared_error": np.mean((Z - ONE_HOT) ** 2),
    "quadratic": np.mean(np.sum((Z - ONE_HOT) ** 2, axis=1)) / 2,
}


@pytest.mark.parametrize("name", losses.LOSSES)
def test_values_equal_the_formula(x64, name):
    value = losses.LOSSES[name](jnp.asarray(Z), jnp.asarray(LABELS))
    assert float(value) == pytest.approx(BY_HAND[name], rel=1e-12)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_gradients_equal_finite_differences(x64, name):
    def loss(z):
        return losses.LOSSES[name](z, jnp.asarray(LABELS))

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(Z))
    np.testing.assert_allclose(gradient, gradient_by_differences(loss, Z), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_sure_logits_lose_no_gradient_to_rounding(name):
    z = jnp.array([[0.0, 200.0]])  # sure and wrong: the error is -1 at the label, 1 beside it
    value, gradient = jax.jit(jax.value_and_grad(losses.LOSSES[name]))(z, jnp.array([0]))
    assert np.isfinite(value)
    assert value > 100
    assert gradient[0, 1] == pytest.approx(1, rel=1e-6)


def test_penalties_are_over_the_weights_only(key):
    net = layers.serial(
        a=layers.dense(3, bias_init=jax.nn.initializers.ones),
        act=layers.activation("prelu"),
        hidden=layers.repeat(layers.dense(3, bias_init=jax.nn.initializers.ones), 2),
    )
    params, _ = net.init(key, jnp.ones((1, 2)))
    kernels = [params["a"]["kernel"], params["hidden"][0]["kernel"], params["hidden"][1]["kernel"]]
    flat = np.concatenate([np.ravel(kernel) for kernel in kernels]).astype(np.float64)
    assert float(losses.l1(params)) == pytest.approx(np.abs(flat).sum(), rel=1e-6)
    assert float(losses.l2(params)) == pytest.approx((flat**2).sum() / 2, rel=1e-6)

    gradient = jax.jit(jax.grad(losses.l2))(params)
    np.testing.assert_array_equal(gradient["a"]["kernel"], params["a"]["kernel"])
    assert not gradient["a"]["bias"].any()
    assert not gradient["act"]["negative_slope"].any()
    assert not gradient["hidden"].layers["bias"].any()


def test_weights_are_told_by_their_axes_whatever_they_are_called():
    w, other = jnp.full((2, 3), 2.0), jnp.ones((2, 2, 1, 4))
    assert float(losses.l2({"w": w, "b": jnp.ones(3)})) == 12
    assert float(losses.l1([{"embedding": w}, (other, jnp.ones(4))])) == 28
    assert float(losses.l2(w)) == 12
    scanned = {"layers": {"kernel": jnp.ones((5, 2, 3)), "bias": jnp.ones((5, 3))}}  # as by Linen
    assert float(losses.l1(scanned)) == 30


def test_parameters_without_weights_are_refused_and_no_parameters_cost_nothing():
    assert float(losses.l1({})) == 0
    for penalty in (losses.l1, losses.l2):
        for params in ({"w": jnp.ones(3)}, jnp.ones(3), {"bias": jnp.ones((2, 3))}):
            assert_refuses(lambda p=params, f=penalty: f(p), "params has 1 arrays, and none of")


def test_nan_is_no_right_answer_at_any_label():
    outputs = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [jnp.nan, jnp.nan], [0.0, 1.0]])
    for labels in ([0, 1, 0, 1], [1, 0, 1, 1]):
        assert float(losses.accuracy(outputs, jnp.array(labels))) == 0.25
    assert float(losses.accuracy(jnp.array([[0.0, jnp.inf]]), jnp.array([1]))) == 1


def test_accuracy_counts_the_largest_outputs_along_all_axes_but_the_last(x64):
    expected = np.mean(np.argmax(Z, 1) == LABELS)
    assert float(losses.accuracy(Z, LABELS)) == pytest.approx(expected)
    at_each_time = losses.accuracy(Z.reshape(2, 3, 4), LABELS.reshape(2, 3))
    assert float(at_each_time) == pytest.approx(expected)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_labels_that_would_broadcast_are_refused(name):
    for loss in (losses.LOSSES[name], losses.accuracy):
        assert_refuses(
            lambda loss=loss: unchecked(loss)(jnp.ones((4, 3)), jnp.zeros((4, 1), int)),
            "labels has shape (4, 1); it must be (4,)",
        )


@pytest.mark.parametrize(
    "loss", [losses.mean_squared_error, losses.quadratic, losses.binary_cross_entropy]
)
def test_targets_that_would_broadcast_are_refused(loss):
    assert_refuses(
        lambda: unchecked(loss)(jnp.ones((4, 1)), jnp.ones(4)),
        "targets has shape (4,); it must be (4, 1)",
    )
