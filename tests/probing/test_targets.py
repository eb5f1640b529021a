import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vanishing.probing import targets
from vanishing.probing.plan import make_plan

W = jax.random.normal(jax.random.key(0), (4, 2))
X = jax.random.normal(jax.random.key(1), (16, 4))
Y = jax.random.normal(jax.random.key(2), (16, 2))


def unreached(loss, *args):
    plan = make_plan(loss, args, {})
    return targets.unreached(plan, plan.arguments.names(loss))


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [(jax.nn.relu, 0, np.inf), (jax.nn.sigmoid, 0, 1), (jnp.tanh, -1, 1)],
)
def test_the_share_of_targets_out_of_range_is_that_of_numpy(activation, low, high):
    def loss(w, x, y):
        return optax.l2_loss(activation(x @ w).reshape(-1), y.reshape(-1)).mean()

    (found,) = unreached(loss, W, X, 2 * Y)
    y = np.asarray(2 * Y)
    assert found.share == pytest.approx(np.mean((y < low) | (y > high)))
    assert (found.target, found.least, found.largest) == ("y", y.min(), y.max())
    line = inspect.unwrap(loss).__code__.co_firstlineno + 1
    assert found.at == f"tests/probing/test_targets.py:{line}"


def test_targets_in_range_outputs_without_a_bound_and_inputs_are_none():
    within = lambda w, x, y: jnp.mean((y - jnp.tanh(x @ w)) ** 2)  # noqa: E731
    assert unreached(within, W, X, jnp.tanh(Y)) == ()
    linear = lambda w, x, y: jnp.mean((x @ w - y) ** 2)  # noqa: E731
    assert unreached(linear, W, X, Y) == ()
    of_data = lambda w, x, y: jnp.mean((jnp.tanh(x) @ w + jnp.tanh(x[:, :2]) - y) ** 2)  # noqa: E731
    assert unreached(of_data, W, X, Y) == ()
