import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vanishing.diagnosis import diagnose
from vanishing.diagnosis.stopping import OUTWEIGHED, STALLED

WIDTH = 16
X = jax.random.normal(jax.random.key(1), (32, WIDTH))
DEEP = list(jax.random.normal(jax.random.key(0), (18, WIDTH, WIDTH)) / WIDTH**0.5)
FLAT = DEEP[:3]
WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)


def deep(weights, x):
    for w in weights:
        x = jax.nn.sigmoid(x @ w)
    return jnp.mean((x - 1) ** 2)


def shallow(weights, x, scale=1.0):
    """A loss of about 1, of which a part as small as the scale depends on the weights."""
    for w in weights:
        x = jnp.tanh(x @ w)
    return 1 + scale * jnp.mean((x - 1) ** 2)


def stopped(optimizer, loss, params, *args, **state):
    findings = diagnose(loss, optimizer=optimizer)(params, *args, **state).findings
    return next((f for f in findings if f.cause == "epsilon"), None)


def test_what_adam_moves_is_as_far_as_its_formula_says():
    """Of a constant gradient g a step is lr g / (|g| + 1e-8)."""
    told = stopped(optax.adam(1e-3), deep, DEEP, X)
    assert told is not None
    gradient = np.asarray(jax.grad(deep)(DEEP, X)[0], np.float64)
    step = gradient / (np.abs(gradient) + 1e-8)
    assert told.where == "[0]"
    assert told.severity == "high"
    expected = np.sqrt(np.mean(step**2))
    assert told.evidence["share_of_a_full_step"] == pytest.approx(expected, rel=0.02)
    assert told.evidence["half_a_step_at"] == pytest.approx(1e-8, rel=0.03)
    assert told.says.endswith("half as far takes one of 1e-8, as with optax.adam")


def test_it_is_the_parameters_that_hardly_move():
    told = stopped(optax.adam(1e-3), deep, DEEP, X)
    assert told is not None
    gradients = jax.grad(deep)(DEEP, X)
    updates, _ = optax.adam(1e-3).update(gradients, optax.adam(1e-3).init(DEEP))
    ratios = [jnp.linalg.norm(u) / jnp.linalg.norm(w) for u, w in zip(updates, DEEP, strict=True)]
    slow = [f"[{i}]" for i, ratio in enumerate(ratios) if ratio < STALLED]
    assert [told.where, *told.also] == slow


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (optax.adamw(1e-3), "adam"),
        (optax.rmsprop(1e-3), "rmsprop"),
        (optax.adagrad(1e-2), "adagrad"),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)), "adam"),
        (optax.adam(WARM_UP), "adam"),
        (optax.MultiSteps(optax.adam(1e-3), 4), "adam"),
    ],
    ids=["adamw", "rmsprop", "adagrad", "clipped", "warm-up", "accumulated"],
)
def test_an_optimiser_is_known_by_where_it_stops(optimizer, name):
    told = stopped(optimizer, shallow, FLAT, X, 1e-13)
    assert told is not None
    assert f"as with optax.{name}" in told.says


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(1e-2),
        optax.sgd(1e-2, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1e-1)),
        optax.lion(1e-4),
        optax.lamb(1e-3),
    ],
    ids=["sgd", "momentum", "clipped sgd", "lion", "lamb"],
)
def test_an_optimiser_without_a_size_at_which_it_stops_has_none(optimizer):
    assert stopped(optimizer, shallow, FLAT, X, 1e-13) is None


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(1e-3), optax.rmsprop(1e-3), optax.adagrad(1e-2)],
    ids=["adam", "rmsprop", "adagrad"],
)
def test_a_usual_gradient_stops_no_optimiser(optimizer):
    assert stopped(optimizer, shallow, FLAT, X) is None


def test_a_gradient_of_0_is_not_small():
    params = [*FLAT[:2], jnp.zeros((WIDTH, WIDTH))]
    gradients = jax.grad(shallow)(params, X)
    assert not gradients[0].any()
    assert stopped(optax.adam(1e-3), shallow, params, X) is None


def test_a_branch_that_begins_near_0_comes_back():
    """LayerScale's factors of 1e-9 grow by the first steps, and with them its branch's gradient."""

    def loss(params, x):
        for w, scale in params:
            x = x + jnp.broadcast_to(scale, x.shape) * jnp.tanh(x @ w)
        return jnp.mean((x - 1) ** 2)

    params = [(w, jnp.full((1, WIDTH), 1e-9)) for w in FLAT]
    gradient = jax.grad(loss)(params, X)[0][0]
    assert float(jnp.abs(gradient).max()) < 1e-8 * OUTWEIGHED
    assert stopped(optax.adam(1e-3), loss, params, X) is None


def test_what_is_learnt_may_stop():
    """All gradients are small, and so is the loss."""

    def learnt(weights, x):
        return shallow(weights, x, 1e-13) - 1

    assert stopped(optax.adam(1e-3), learnt, FLAT, X) is None


def test_stacked_layers_are_told_apart():
    def loss(stack, x):
        x, _ = jax.lax.scan(lambda x, w: (jax.nn.sigmoid(x @ w), None), x, stack)
        return jnp.mean((x - 1) ** 2)

    told = stopped(optax.adam(1e-3), loss, jnp.stack(DEEP), X)
    apart = stopped(optax.adam(1e-3), deep, DEEP, X)
    assert told is not None
    assert apart is not None
    assert len(told.also) == len(apart.also)
    assert told.evidence["share_of_a_full_step"] == pytest.approx(
        apart.evidence["share_of_a_full_step"], rel=1e-3
    )
