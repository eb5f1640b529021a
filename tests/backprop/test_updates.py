import jax
import jax.numpy as jnp
import optax
import pytest

from tests.backprop.proof import assert_equal
from vanishing import backprop

RULES = {
    "momentum": (backprop.momentum(0.1, 0.8), optax.sgd(0.1, momentum=0.8)),
    "nesterov": (backprop.nesterov(0.1, 0.8), optax.sgd(0.1, momentum=0.8, nesterov=True)),
    "adagrad": (backprop.adagrad(0.1), optax.adagrad(0.1)),
    "rmsprop": (backprop.rmsprop(0.1), optax.rmsprop(0.1)),
    "adam": (backprop.adam(0.1), optax.adam(0.1)),
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
        def step(carried, _):
            params, state = carried
            steps, state = rule.update(jax.grad(cost)(params), state, params)
            params = optax.apply_updates(params, steps)
            return (params, state), params

        start = jax.tree.map(lambda t: 0.5 * jnp.ones_like(t), target)
        return jax.lax.scan(step, (start, rule.init(start)), length=30)[1]

    ours, theirs = (run(rule) for rule in RULES[name])
    assert jnp.isfinite(jax.flatten_util.ravel_pytree(theirs)[0]).all()
    assert_equal(ours, theirs)


def test_clipping_leaves_a_small_gradient_and_zero_alone():
    rule = backprop.clip_by_norm(1.0)
    for gradient in (jnp.array([0.3, 0.4]), jnp.zeros(2)):
        clipped, _ = rule.update(gradient, rule.init(gradient))
        assert (clipped == gradient).all(), clipped
