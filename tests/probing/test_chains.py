import jax
import jax.numpy as jnp

from vanishing.probing import chains, dependence, jaxpr, views
from vanishing.probing.dependence import Dependence, Kind
from vanishing.probing.patterns import Role

X = jnp.ones((4, 3))
W = jnp.ones((3, 3))


def view_of(function):
    """The outermost frame of a function of one parameter and of data, and its values by name."""
    program, _ = jaxpr.read(function, W, X)
    inputs = [Dependence(Kind.PARAM, True, frozenset({0})), Dependence(Kind.DATA)]
    dependences = dependence.gather(program, inputs, program.frame.outputs[:1])
    view = views.view_of(program, dependences, program.frame)
    return view, {node.primitive: node.outputs[0] for node in view.frame.nodes}


def test_a_chain_goes_back_to_the_value_that_others_are_functions_of():
    view, values = view_of(lambda w, x: jnp.sum(x @ w * jax.nn.sigmoid(3 * (x @ w))))
    root, silu = values["dot_general"], values["logistic"]
    context = chains.context_of(view)
    assert context.root(silu) == root
    assert context.chains[silu].nonlinear
    assert [node.primitive for node in context.chains[silu].nodes] == ["mul", "logistic"]
    assert context.chains[root].role == Role.LAYER


def test_a_chain_ends_where_something_else_takes_it_up():
    view, values = view_of(lambda w, x: jnp.sum(jnp.tanh(jnp.sin(x @ w)) @ w))
    context = chains.context_of(view)
    assert chains.ends_chain(values["tanh"], context)
    assert not chains.ends_chain(values["sin"], context)


def test_statistics_of_a_normalization():
    def loss(w, x):
        h = x @ w
        variance = jnp.sum(jnp.square(h), 1, keepdims=True) / 3
        return jnp.max(h * jax.lax.rsqrt(variance + 1e-6))

    view, values = view_of(loss)
    context = chains.context_of(view)
    assert {values["reduce_sum"], values["div"]} < context.statistics.keys()
    assert context.is_divisor(values["rsqrt"])
    assert not context.is_divisor(values["div"])
    assert values["dot_general"] not in context.statistics
    assert values["mul"] not in context.statistics, "what is normalised is a signal again"
    assert context.chains[values["mul"]].role == Role.NORMALIZATION


def test_a_value_that_is_used_twice_is_not_used_once():
    def loss(w, x):
        h = x @ w
        return jnp.sum(jnp.sin(2 * h)) + jnp.sum(jnp.cos(h))

    view, values = view_of(loss)
    context = chains.context_of(view)
    assert not chains.used_once_from(values["dot_general"], values["sin"], context)
    view, values = view_of(lambda w, x: jnp.sum(jnp.sin(x @ w + 1)))
    context = chains.context_of(view)
    assert chains.used_once_from(values["dot_general"], values["sin"], context)
