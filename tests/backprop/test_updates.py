import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.backprop.proof import assert_equal
from tests.helpers import assert_refuses
from vanishing import backprop

RULES = {
    "momentum": (backprop.momentum(0.1, 0.8), optax.sgd(0.1, momentum=0.8)),
    "nesterov": (backprop.nesterov(0.1, 0.8), optax.sgd(0.1, momentum=0.8, nesterov=True)),
    "adagrad": (backprop.adagrad(0.1), optax.adagrad(0.1)),
    "adagrad, other": (
        backprop.adagrad(0.1, 0.5, 1e-3),
        optax.adagrad(0.1, initial_accumulator_value=0.5, eps=1e-3),
    ),
    "rmsprop": (backprop.rmsprop(0.1), optax.rmsprop(0.1)),
    "rmsprop, other": (backprop.rmsprop(0.1, 0.7, 1e-3), optax.rmsprop(0.1, decay=0.7, eps=1e-3)),
    "adam": (backprop.adam(0.1), optax.adam(0.1)),
    "adam, other": (backprop.adam(0.1, 0.5, 0.9, 1e-3), optax.adam(0.1, b1=0.5, b2=0.9, eps=1e-3)),
    "clipped": (
        optax.chain(backprop.clip_by_norm(1.5), backprop.momentum(0.1)),
        optax.chain(optax.clip_by_global_norm(1.5), optax.sgd(0.1, momentum=0.9)),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_equals_optax_step_for_step(name, x64, key):
    target = {"kernel": jax.random.normal(key, (4, 3)), "bias": jnp.linspace(-1, 1, 3)}

    def cost(params):  # gradients of many sizes, from 1e-8 to 10
        steepness = jax.tree.map(lambda t: jnp.exp(8 * t - 10), target)
        bowls = jax.tree.map(lambda p, t, s: s * (p - t) ** 2 + p, params, target, steepness)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(bowls))

    def run(rule):
        def step(carry, _):
            params, state = carry
            steps, state = rule.update(jax.grad(cost)(params), state, params)
            params = optax.apply_updates(params, steps)
            return (params, state), params

        start = jax.tree.map(lambda t: 0.5 * jnp.ones_like(t), target)
        return jax.lax.scan(step, (start, rule.init(start)), length=30)[1]

    trajectory, optax_trajectory = (run(rule) for rule in RULES[name])
    assert jnp.isfinite(jax.flatten_util.ravel_pytree(optax_trajectory)[0]).all()
    assert_equal(trajectory, optax_trajectory)


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_clipping_keeps_the_direction_of_a_gradient_of_any_size(size):
    gradient = {"a": jnp.array([3.0, 0.0]) * size, "b": jnp.array(-4.0) * size}
    rule = backprop.clip_by_norm(1e-5)
    update, _ = rule.update(gradient, rule.init(gradient))
    length = min(5 * size, 1e-5)
    np.testing.assert_allclose(update["a"], [0.6 * length, 0.0], rtol=1e-6)
    np.testing.assert_allclose(update["b"], -0.8 * length, rtol=1e-6)


def test_clipping_leaves_zero_and_dtypes_alone():
    gradient = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(3)}
    update, _ = backprop.clip_by_norm(1.0).update(gradient, ())
    assert {k: v.dtype for k, v in update.items()} == {k: v.dtype for k, v in gradient.items()}
    assert not any(leaf.any() for leaf in jax.tree.leaves(update))


def test_numbers_out_of_their_range_are_refused():
    assert_refuses(lambda: backprop.clip_by_norm(-1.0), "max_norm is -1.0", "over 0")
    assert_refuses(lambda: backprop.adam(0.1, b1=1.0), "b1 is 1.0", "under 1")
    assert_refuses(lambda: backprop.momentum(0.1, -0.1), "decay is -0.1")
    assert_refuses(lambda: backprop.rmsprop(0.1, eps=0.0), "eps is 0.0")
    assert_refuses(lambda: backprop.adagrad(0.1, initial=-1.0), "initial is -1.0")
