import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vanishing.diagnosis import diagnose, remedies

WIDTH = 32
X = jax.random.normal(jax.random.key(1), (64, WIDTH))
W, V, OUT = jax.random.normal(jax.random.key(0), (3, WIDTH, WIDTH)) / WIDTH**0.5
LABELS = jnp.arange(64) % WIDTH


def two(params, x):
    return jnp.mean((jnp.tanh(jnp.tanh(x @ params[0]) @ params[1]) @ params[2]) ** 2)


def found(loss, params, *args):
    return {f.kind: f for f in diagnose(loss)(params, *args).findings}


def test_large_weights_and_large_inputs_are_told_apart():
    weights = found(two, [30 * W, V, OUT], X)["saturated"]
    inputs = found(two, [W, V, OUT], 30 * X)["saturated"]
    assert (weights.cause, inputs.cause) == ("initial_scale", "input_scale")
    assert inputs.remedies[0] == remedies.INPUTS
    assert "x (of size 30)" in inputs.says
    assert found(two, [W, V, OUT], X) == {}


def test_the_share_is_that_of_the_slopes_of_plain_jax():
    finding = found(two, [30 * W, V, OUT], X)["saturated"]
    slope = 1 - jnp.tanh(X @ (30 * W)) ** 2
    share = float(jnp.mean(slope < 0.01 * slope.max()))
    assert finding.evidence["saturated_share"] == pytest.approx(share, abs=0.01)
    size = float(np.sqrt(np.mean(np.square(X @ (30 * W)))))
    assert finding.evidence["input_rms"] == pytest.approx(size, rel=1e-5)


def test_a_loss_that_is_flat_where_it_should_be_is_no_saturation():
    huber = lambda w, x: optax.losses.huber_loss(100 * (x @ w), delta=1.0).mean()  # noqa: E731
    assert "saturated" not in found(huber, W, X)


def test_a_sigmoid_that_is_right_is_not_saturated_and_one_that_is_wrong_is():
    y = (X @ W > 0).astype(float)
    loss = lambda w, x, y: jnp.mean((jax.nn.sigmoid(x @ w) - y) ** 2)  # noqa: E731
    assert found(loss, 100 * W, X, y) == {}
    assert "saturated" in found(loss, 100 * W, X, 1 - y)


def classified(params, x, labels):
    logits = jnp.tanh(x @ params[0]) @ params[1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def test_a_last_layer_that_is_too_large_is_told_by_the_loss_of_chance():
    finding = found(classified, [W, 30 * V], X, LABELS)["exploding"]
    value = float(classified([W, 30 * V], X, LABELS))
    assert finding.evidence["loss"] == pytest.approx(value, rel=1e-5)
    assert finding.evidence["chance"] == pytest.approx(np.log(WIDTH))
    assert finding.cause == "head_scale"
    assert found(classified, [W, V], X, LABELS) == {}


def test_large_logits_that_are_right_are_none():
    logits = 60 * jax.nn.one_hot(LABELS, WIDTH)
    loss = lambda w, x: classified([jnp.eye(WIDTH), w], x, LABELS)  # noqa: E731
    w = jnp.linalg.pinv(jnp.tanh(X[:WIDTH])) @ logits[:WIDTH]
    part = lambda w, x: classified([jnp.eye(WIDTH), w], x, LABELS[:WIDTH])  # noqa: E731
    assert float(part(w, X[:WIDTH])) < 0.01
    assert found(part, w, X[:WIDTH]) == {}
    assert "exploding" in found(loss, w, X[::-1])


def test_a_sigmoid_at_one_end_for_all_is_saturated_though_the_loss_is_small():
    bias = jnp.full((1, WIDTH), -25.0)  # as of a discriminator that no sample fools
    loss = lambda w, x: jnp.mean(jnp.log(1 - jax.nn.sigmoid(x @ w + bias)))  # noqa: E731
    assert -1e-6 < loss(W, X) <= 0
    assert "saturated" in found(loss, W, X)


def masked(params, x, mask):
    q, k, v, head = params
    scores = jnp.einsum("bqd,bkd->bqk", x @ q, x @ k) / WIDTH**0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
    return jnp.mean(((x + weights @ (x @ v)) @ head) ** 2)


def test_a_mask_the_wrong_way_round_is_told_from_one_that_hides_padding():
    keys = jax.random.split(jax.random.key(3), 5)
    params = [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys[:4]]
    x = jax.random.normal(keys[4], (4, 16, WIDTH))
    is_token = jnp.arange(16) < 15  # the last is padding
    assert found(masked, params, x, is_token) == {}
    finding = found(masked, params, x, ~is_token)["saturated"]
    assert finding.cause == "mask"
    assert finding.evidence["unseen_share"] == pytest.approx(15 / 16)
    assert not jnp.any(jax.grad(masked)(params, x, ~is_token)[0])


def test_an_activation_that_cannot_reach_the_targets_is_found_before_it_has_no_slope():
    loss = lambda w, x, y: jnp.mean((jax.nn.sigmoid(x @ w / 8) - y) ** 2)  # noqa: E731
    finding = found(loss, W, X, 3 + jnp.abs(X))["saturated"]
    assert (finding.cause, finding.evidence["share"]) == ("out_of_range", 1.0)
    assert found(loss, W, X, jax.nn.sigmoid(X)) == {}


def test_the_range_in_which_the_activation_has_a_slope_is_named():
    finding = found(two, [30 * W, V, OUT], X)["saturated"]
    assert "tanh has more between -3 and 3" in finding.says
    for end in finding.evidence["steep_between"]:  # where 1 - tanh(x)^2 is 1 %
        assert 1 - np.tanh(end) ** 2 == pytest.approx(0.01, rel=1e-3)
    for end in finding.evidence["no_slope_beyond"]:
        assert 1 - np.tanh(end) ** 2 < 4 * np.finfo(np.float32).eps  # which rounding takes
    assert "no slope beyond: (-8.0, 8.0)" in finding.explain()
