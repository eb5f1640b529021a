import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import jaxpr, slopes
from vanishing.probing.plan import make_plan


@pytest.mark.parametrize(
    ("function", "largest"),
    [
        (jax.nn.sigmoid, 0.25),
        (jnp.tanh, 1),
        (jax.nn.relu, 1),
        (lambda x: jnp.tanh(3 * x), 3),
        (jnp.exp, np.nan),
        (jnp.square, np.nan),
    ],
)
@pytest.mark.parametrize("shape", [(), (3, 2), (2000,)])
def test_the_largest_slope_of_a_function_is_found_where_it_has_one(function, largest, shape):
    np.testing.assert_allclose(
        slopes.largest_slope(function, shape, jnp.float32), largest, rtol=1e-4
    )


def test_a_function_without_a_rule_for_batches_has_no_largest_slope():
    @jax.custom_jvp
    def on_the_host(x):
        return jax.pure_callback(np.tanh, x, x)

    on_the_host.defjvp(lambda x, t: (on_the_host(*x), t[0]))
    assert np.isnan(slopes.largest_slope(on_the_host, (4,), jnp.float32))


def signatures(*activations):
    """Of the activations of a network whose layers have two widths."""

    def loss(params, x):
        for i, activation in enumerate(activations):
            x = activation(x @ params[i])
        return jnp.sum(x)

    widths = [3 + i % 2 for i in range(len(activations) + 1)]
    params = [jnp.ones(shape) for shape in itertools.pairwise(widths)]
    plan = make_plan(loss, (params, jnp.ones((2, 3))), {})
    makers = {v: node for _, node in jaxpr.walk(plan.program.frame) for v in node.outputs}
    return [slopes.signature(s.local, makers) for s in plan.selected if s.local]


@pytest.mark.parametrize(
    "activation", [jnp.tanh, jax.nn.relu, jax.nn.gelu, jax.nn.elu, jax.nn.silu, jax.nn.leaky_relu]
)
def test_one_function_has_one_signature_whatever_the_shape(activation):
    assert len(set(signatures(activation, activation, activation))) == 1


def test_different_functions_have_different_signatures():
    several = [
        jnp.tanh,
        lambda x: jnp.tanh(2.0 * x),
        lambda x: 2.0 * jnp.tanh(x),
        jax.nn.elu,
        lambda x: jax.nn.elu(x, 0.5),
        lambda x: jnp.tanh(x) * x,
    ]
    assert len(set(signatures(*several))) == len(several)
