import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import layers, optimizers

RATE, STEPS = 0.1, 6
START = np.array([1.0, -2.0, 0.5])


def gradient(w):
    """Of a bowl whose axes differ in steepness."""
    return np.array([1.0, 0.3, 4.0]) * w


def momentum(w, nesterov=False):
    velocity = np.zeros(3)
    while True:
        velocity = 0.9 * velocity + gradient(w)
        w = w - RATE * (gradient(w) + 0.9 * velocity if nesterov else velocity)
        yield w


def descent(w):
    while True:
        w = w - RATE * gradient(w)
        yield w


def adagrad(w):
    total = np.full(3, 0.1)
    while True:
        g = gradient(w)
        total = total + g**2
        w = w - RATE * g / np.sqrt(total + 1e-7)
        yield w


def rmsprop(w):
    average = np.zeros(3)
    while True:
        g = gradient(w)
        average = 0.9 * average + 0.1 * g**2
        w = w - RATE * g / np.sqrt(average + 1e-8)
        yield w


def adam(w, weight_decay=0.0):
    m, v, t = np.zeros(3), np.zeros(3), 0
    while True:
        g, t = gradient(w), t + 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (step + weight_decay * w)
        yield w


def lion(w, weight_decay=0.01):
    m = np.zeros(3)
    while True:
        g = gradient(w)
        w = w - RATE * (np.sign(0.9 * m + 0.1 * g) + weight_decay * w)
        m = 0.99 * m + 0.01 * g
        yield w


BY_HAND = {
    "gradient_descent": descent,
    "sgd": descent,
    "momentum": momentum,
    "nesterov": lambda w: momentum(w, nesterov=True),
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": lambda w: adam(w, weight_decay=0.01),
    "lion": lion,
}


def descend(optimizer, w=START, steps=STEPS):
    w = jnp.asarray(w)
    state = optimizer.init(w)
    for _ in range(steps):
        updates, state = optimizer.update(jnp.asarray(gradient(np.asarray(w))), state, w)
        w = optax.apply_updates(w, updates)
        yield np.asarray(w)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_steps_equal_the_published_rule(x64, name):
    iterates = list(descend(optimizers.by_name(name, RATE, weight_decay=0.01)))
    rule = BY_HAND[name](START)
    np.testing.assert_allclose(iterates, [next(rule) for _ in range(STEPS)], rtol=1e-6)


def rates(schedule, steps=10, warmup_steps=4, **more):
    """The learning rate of every step, read off from steps with a gradient of 1."""
    optimizer = optimizers.by_name(
        "sgd", 2.0, schedule=schedule, steps=steps, warmup_steps=warmup_steps, **more
    )
    state, learning_rates = optimizer.init(jnp.zeros(())), []
    for _ in range(steps):
        updates, state = optimizer.update(jnp.ones(()), state)
        learning_rates.append(-float(updates))
    return learning_rates


def test_schedules_equal_their_formula():
    t = np.arange(10)
    rise = 2 * t[:4] / 4
    np.testing.assert_allclose(rates("constant"), 2.0, rtol=1e-6)
    np.testing.assert_allclose(rates("cosine"), 1 + np.cos(np.pi * t / 10), rtol=1e-6)
    np.testing.assert_allclose(rates("warmup"), [*rise, *[2.0] * 6], rtol=1e-6)
    fall = 1 + np.cos(np.pi * (t[4:] - 4) / 6)
    np.testing.assert_allclose(rates("warmup_cosine"), [*rise, *fall], rtol=1e-6)


PAIRS = list(itertools.product(optimizers.CLIPPINGS, optimizers.SCHEDULES))
FEW = list(zip(optimizers.CLIPPINGS, itertools.cycle(optimizers.SCHEDULES), strict=False))


@pytest.mark.parametrize(
    ("clipping", "schedule"), [*FEW, *slow(*(pair for pair in PAIRS if pair not in FEW))]
)
def test_a_grid_of_rates_and_thresholds_runs_under_vmap(clipping, schedule):
    def run(rate, threshold, array=jnp.asarray):
        optimizer = optimizers.by_name(
            "momentum",
            array(rate),
            schedule=schedule,
            steps=4,
            warmup_steps=2,
            clipping=clipping,
            clip_threshold=array(threshold),
        )

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jnp.array([1.0, 0.3, 4.0]) * w, state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), w

        w = jnp.asarray(START, jnp.float32)
        return jax.lax.scan(step, (w, optimizer.init(w)), length=4)[1]

    grid = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2]), jnp.array([0.5, 5.0]))
    for i, (rate, threshold) in enumerate([(0.1, 0.5), (0.2, 5.0)]):
        alone = run(rate, threshold, array=float)
        np.testing.assert_allclose(grid[i], alone, rtol=1e-5, atol=1e-6)


def clipped(clipping, threshold, grads, params=None):
    transformation = optimizers.clip(clipping, threshold)
    params = grads if params is None else params
    return transformation.update(grads, transformation.init(params), params)[0]


GRADS = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([12.0, 0.0])}  # norm 13


@pytest.mark.parametrize(
    ("clipping", "threshold", "kernel", "bias"),
    [
        ("none", 1.0, [[3, 0], [0, 4]], [12, 0]),
        ("value", 3.5, [[3, 0], [0, 3.5]], [3.5, 0]),
        ("global_norm", 26.0, [[3, 0], [0, 4]], [12, 0]),
        ("global_norm", 6.5, [[1.5, 0], [0, 2]], [6, 0]),
        ("layer_norm", 10.0, [[3, 0], [0, 4]], [10, 0]),
        ("layer_norm", 1.0, [[0.6, 0], [0, 0.8]], [1, 0]),
        ("normalize", 26.0, [[6, 0], [0, 8]], [24, 0]),
        ("normalize", 6.5, [[1.5, 0], [0, 2]], [6, 0]),
    ],
)
def test_clipping_equals_its_formula(clipping, threshold, kernel, bias):
    result = clipped(clipping, threshold, GRADS)
    np.testing.assert_allclose(result["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(result["bias"], bias, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.01, 0.3, 100.0])
def test_adaptive_clipping_equals_optax_on_a_plain_network(key, threshold):
    params = {
        "kernel": jax.random.normal(key, (5, 4)),
        "bias": jnp.zeros(4),
        "negative_slope": jnp.array(0.25),
        "conv": jax.random.normal(key, (3, 3, 2, 4)),
    }
    grads = jax.tree.map(lambda p: jnp.cos(3 * p) * 0.7, params)
    optax_agc = optax.adaptive_grad_clip(threshold)
    expected = jax.jit(optax_agc.update)(grads, optax_agc.init(params), params)[0]
    result = jax.jit(functools.partial(clipped, "adaptive", threshold))(grads, params)
    for name in params:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("clipping", [*slow("layer_norm"), "adaptive"])
def test_every_repeated_layer_is_clipped_by_itself(key, clipping):
    net = layers.repeat(layers.dense(3), 4)
    params, _ = net.init(key, jnp.ones((1, 3)))
    scale = 10.0 ** jnp.arange(-2, 2)
    grads = jax.tree.map(lambda p: scale.reshape(-1, *[1] * (p.ndim - 1)) * jnp.cos(p + 1), params)
    clip = jax.jit(functools.partial(clipped, clipping, 0.5))
    together = clip(grads, params)
    for i in range(4):
        alone = clip(grads[i], params[i])
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(together[i][leaf], alone[leaf], rtol=1e-6)


@pytest.mark.parametrize("clipping", ["global_norm", "layer_norm", "adaptive", "normalize"])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_survive_gradients_whose_squares_do_not(clipping, size):
    grads = {"kernel": jnp.float32(size) * jnp.ones((2, 2))}
    result = np.asarray(clipped(clipping, 1.0, grads, {"kernel": jnp.ones((2, 2))})["kernel"])
    # the norm of four equal elements is twice each; a unit's, of two, sqrt(2) times
    limit = {"adaptive": 1.0}.get(clipping, 0.5)
    expected = limit if size > 1 or clipping == "normalize" else size
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("clipping", optimizers.CLIPPINGS)
def test_a_zero_gradient_stays_zero(clipping):
    assert not clipped(clipping, 1.0, {"kernel": jnp.zeros((2, 2))})["kernel"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: optimizers.by_name("adm", 0.1),
            "optimizer is 'adm'; it must be one of gradient_d",
        ),
        (lambda: optimizers.by_name("sgd", 0.1, schedule="x"), "schedule is 'x'"),
        (lambda: optimizers.by_name("sgd", 0.1, clipping="x"), "clipping is 'x'"),
        (
            lambda: optimizers.by_name("sgd", 0.1, schedule="warmup", steps=5),
            "warmup_steps is 0; the schedule 'warmup' takes 1 to steps - 1 (4)",
        ),
    ],
)
def test_optimizers_refuse(make, message):
    assert_refuses(make, message)
