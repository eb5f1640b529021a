import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import jaxpr
from vanishing.probing.factors import factors_of

X = jnp.ones((4, 4))


def shares_a_factor(function):
    """Do the two results of a function of two arrays have a factor in common?"""
    program, _ = jaxpr.read(function, X, X)
    nodes = program.frame.nodes
    signals = {node: [a for a in node.inputs if isinstance(a, int)] for node in nodes}
    factors = factors_of(nodes, signals)
    first, second = (factors.get(v, frozenset({v})) for v in program.frame.outputs)
    return not first.isdisjoint(second)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (x, x * y),
        lambda x, y: (x * y, -2 * y / 3),
        lambda x, y: (x + x * y, x - y * x),
        lambda x, y: (x[0], x[0] * y[1]),
        lambda x, y: (x.T, x.T * y),
    ],
)
def test_values_share_a_factor(function):
    assert shares_a_factor(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (x, x + y),
        lambda x, y: (x, 1 - x),
        lambda x, y: (x, y / x),
        lambda x, y: (x[0], x[1]),
        lambda x, y: (x, x.T),
        lambda x, y: tuple(jnp.split(x, 2)),
        lambda x, y: (x, jnp.tanh(x)),
    ],
)
def test_values_share_no_factor(function):
    assert not shares_a_factor(function)


def test_a_long_product_is_a_multiple_of_itself_alone():
    def function(x, y):
        product = x
        for _ in range(100):
            product = product * jax.lax.sin(y)
        return product, x

    assert not shares_a_factor(function)
