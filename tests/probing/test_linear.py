import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import linear
from vanishing.probing.plan import make_plan

X = jax.random.normal(jax.random.key(0), (5, 8))


class Net(nn.Module):
    between: object
    width: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="b")(self.between(nn.Dense(self.width, name="a")(x)))


def pairs(module):
    params = module.init(jax.random.key(1), X)
    loss = lambda p, x: jnp.mean(module.apply(p, x) ** 2)  # noqa: E731
    plan = make_plan(loss, (params, X), {})
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [tuple(names[i].split("'")[3] for i in pair) for pair in linear.pairs(plan)], params


@pytest.mark.parametrize("between", [lambda x: x, lambda x: x.reshape(1, 5, -1)[0]])
def test_two_layers_that_are_one_are_found(between):
    module = Net(between)
    found, params = pairs(module)
    assert found == [("a", "b")]
    a, b = params["params"]["a"], params["params"]["b"]
    one = X @ (a["kernel"] @ b["kernel"]) + (a["bias"] @ b["kernel"] + b["bias"])[None]
    np.testing.assert_allclose(module.apply(params, X), one, atol=1e-5)


@pytest.mark.parametrize("between", [nn.relu, lambda x: x * x, lambda x: x / jnp.sum(x)])
def test_a_nonlinearity_between_makes_them_two(between):
    assert pairs(Net(between))[0] == []


def test_a_bottleneck_and_a_value_that_is_used_twice_are_none():
    assert pairs(Net(lambda x: x, width=4))[0] == []

    def loss(params, x):
        h = x @ params[0]
        return jnp.mean((h @ params[1] + h) ** 2)

    params = [jnp.eye(8), jnp.eye(8)]
    assert linear.pairs(make_plan(loss, (params, X), {})) == ()
