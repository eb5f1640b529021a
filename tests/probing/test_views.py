import jax.numpy as jnp

from vanishing.probing import dependence, jaxpr, views
from vanishing.probing.dependence import Dependence, Kind

W = jnp.ones((3, 3))


def view_of(function):
    """The outermost frame of a function of one parameter and of data, and its values by name."""
    program, _ = jaxpr.read(function, W, jnp.ones((4, 3)))
    inputs = [Dependence(Kind.PARAM, True, frozenset({0})), Dependence(Kind.DATA)]
    dependences = dependence.gather(program, inputs, program.frame.outputs[:1])
    view = views.view_of(program, dependences, program.frame)
    return view, {node.primitive: node.outputs[0] for node in view.frame.nodes}


def test_makers_and_users_lead_back_and_forth():
    view, values = view_of(lambda w, x: jnp.sum(jnp.sin(x @ w) * 2))
    assert view.maker(values["sin"]).primitive == "sin"
    assert [node.primitive for node in view.users[values["sin"]]] == ["mul"]
    assert view.maker(view.frame.inputs[0]) is None


def test_a_layer_follows_what_comes_before_it():
    view, values = view_of(lambda w, x: jnp.sum(jnp.sin(jnp.cos(x @ w) @ w)))
    assert values["cos"] in view.before_layer
    assert values["sin"] not in view.before_layer
