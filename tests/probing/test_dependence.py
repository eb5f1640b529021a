import jax
import jax.numpy as jnp

from vanishing.probing import dependence, jaxpr
from vanishing.probing.dependence import Dependence, Kind, Use


def dependences_of(function, param, data):
    """Dependences of a loss of one parameter and other data, and the outputs of its primitives."""
    program, _ = jaxpr.read(function, param, data)
    inputs = [Dependence(Kind.PARAM, True, frozenset({0})), Dependence(Kind.DATA)]
    dependences = dependence.gather(program, inputs, program.frame.outputs[:1])
    nodes = {node.primitive: node.outputs[0] for _, node in jaxpr.walk(program.frame)}
    return program, dependences, nodes


def test_what_a_value_is_made_of():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ jnp.sin(w))) + jnp.sum(jnp.cos(x))

    _, dependences, nodes = dependences_of(loss, jnp.ones((3, 3)), jnp.ones((2, 3)))
    kinds = {
        name: dependences.of[nodes[name]].kind for name in ("sin", "dot_general", "tanh", "cos")
    }
    assert kinds == {
        "sin": Kind.PARAM,
        "dot_general": Kind.SIGNAL,
        "tanh": Kind.SIGNAL,
        "cos": Kind.DATA,
    }
    assert dependences.on_path(nodes["tanh"])
    assert not dependences.on_path(nodes["cos"])


def test_nothing_behind_stop_gradient_or_rounding_reaches_the_loss_differentiably():
    def loss(w, x):
        return jnp.sum(jax.lax.stop_gradient(jnp.sin(w)) + jnp.round(jnp.cos(w)) + w) * jnp.sum(x)

    _, dependences, nodes = dependences_of(loss, jnp.ones(3), jnp.ones(3))
    for name in ("sin", "cos"):
        assert nodes[name] not in dependences.reaches_loss
        assert nodes[name] in dependences.used
    assert dependences.on_path(nodes["add"])


def test_what_a_scan_carries_reaches_the_loss_and_its_stacked_parameters_are_known():
    def loss(w, x):
        def step(carry, w):
            a, b = carry
            return (jnp.sin(b), a * w), None  # whether b reaches the loss shows only a turn later

        (a, _), _ = jax.lax.scan(step, (x, x), w)
        return jnp.sum(a)

    program, dependences, nodes = dependences_of(loss, jnp.ones((4, 3)), jnp.ones(3))
    assert dependences.on_path(nodes["mul"])
    assert dependences.on_path(nodes["sin"])
    (scan,) = (node for node in program.frame.nodes if node.loop)
    (weight,) = (i for i in scan.frames[0].inputs if dependences.of[i].kind == Kind.PARAM)
    assert dependences.uses(weight) == {Use(0, weight, depth=1)}
    assert dependences.loops[nodes["sin"]] == (scan,)
