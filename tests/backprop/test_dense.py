import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes, small
from tests.helpers import assert_refuses, gradient_by_differences
from vanishing import backprop, layers, losses

NAMES = ["identity", "sigmoid", "tanh", "softplus", "gelu", "sine"]


def drawn(rng, widths):
    return [
        {"kernel": jnp.array(rng.normal(size=(i, o))), "bias": jnp.array(rng.normal(size=o))}
        for i, o in itertools.pairwise(widths)
    ]


@over_random_shapes(
    batch=small,
    widths=st.lists(small, min_size=2, max_size=5),
    names=st.lists(st.sampled_from(NAMES), min_size=4, max_size=4),
)
def test_the_four_equations_equal_grad(rng, batch, widths, names):
    params, x = drawn(rng, widths), jnp.array(rng.normal(size=(batch, widths[0])))
    activation, weights = names[: len(params)], jnp.array(rng.normal(size=(batch, widths[-1])))

    def cost(params, x, nudges):
        a = x
        for layer, name, nudge in zip(params, activation, nudges, strict=True):
            function = layers.ACTIVATIONS[name].function
            a = function(jnp.dot(a, layer["kernel"]) + layer["bias"][None] + nudge)
        return jnp.sum(jnp.sin(a) * weights)

    @jax.jit
    def by_hand(params, x):
        passed = backprop.forward(params, x, activation)
        output = passed.activations[-1]
        result = backprop.backward(params, passed, jnp.cos(output) * weights, activation)
        return result.params, result.x, result.deltas

    nudges = [jnp.zeros((batch, width)) for width in widths[1:]]
    automatic = jax.jit(jax.grad(cost, (0, 1, 2)))(params, x, nudges)
    assert_equal(by_hand(params, x), automatic)


def test_with_a_joined_cost_they_equal_finite_differences_of_our_own_network(x64):
    rng = np.random.default_rng(0)
    params, x = drawn(rng, [5, 4, 3]), jnp.array(rng.normal(size=(6, 5)))
    labels = jnp.array(rng.integers(0, 3, 6))
    net = layers.serial(
        hidden=layers.dense(4), squash=layers.activation("sigmoid"), output=layers.dense(3)
    )

    def cost(params):
        named = {"hidden": params[0], "output": params[1], "squash": {}}
        state = net.init(jax.random.key(0), x).state
        return losses.softmax_cross_entropy(net.apply(named, state, x).output, labels)

    passed = backprop.forward(params, x, ["sigmoid", "identity"])
    logits = passed.activations[-1]
    error = backprop.softmax_cross_entropy_error(logits, labels)
    result = backprop.backward(params, passed, error, ["sigmoid", "identity"])
    expected = gradient_by_differences(jax.jit(cost), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), result.params, expected
    )


def test_what_does_not_go_together_is_refused():
    params = [{"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}]
    x, names = jnp.ones((4, 2)), ["tanh"]
    for wrong in (["tanh", "tanh"], "tanh", []):
        forward = functools.partial(backprop.forward, params, x, wrong)
        assert_refuses(forward, "activation is", "1 names")
    assert_refuses(lambda: backprop.forward([], x, []), "of at least one")
    assert_refuses(lambda: backprop.forward(params, x, ["tahn"]), "activation is 'tahn'", "tanh")
    passed = backprop.forward(params, x, names)
    assert_refuses(
        lambda: backprop.backward(params, passed, jnp.ones((1, 3)), names),
        "cost_gradient has shape (1, 3); it must be (4, 3).",
    )
