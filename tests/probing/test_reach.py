import jax
import jax.numpy as jnp

from vanishing.probing import jaxpr
from vanishing.probing.reach import reaching


def reached_by(function, *args, **settings):
    """Which primitives of a loss make a value that the loss depends on."""
    program, _ = jaxpr.read(function, *args)
    nodes = [node for _, node in jaxpr.walk(program.frame)]
    settings.setdefault("passes", lambda atom, node: True)
    values = reaching(program, program.frame.outputs[:1], **settings)
    return {node.primitive for node in nodes if values.intersection(node.outputs)}


def test_what_the_loss_depends_on_is_found_and_nothing_else():
    def loss(x):
        return jnp.sum(jnp.sin(x)), jnp.sum(jnp.cos(x))

    assert reached_by(loss, jnp.ones(3)) == {"sin", "reduce_sum"}


def test_an_input_that_does_not_pass_is_not_followed():
    def loss(x):
        return jnp.sum(jnp.sin(x) * jnp.tanh(jnp.cos(x)))

    primitives = reached_by(loss, jnp.ones(3), passes=lambda atom, node: node.primitive != "tanh")
    assert primitives == {"sin", "tanh", "mul", "reduce_sum"}


def test_what_chooses_a_branch_has_no_gradient():
    def loss(x):
        return jax.lax.cond(jnp.sum(jnp.cos(x)) > 0, jnp.sin, jnp.tanh, x[0])

    assert "cos" not in reached_by(loss, jnp.ones(3))
    assert "cos" in reached_by(loss, jnp.ones(3), differentiably=False)


def test_a_carry_that_matters_a_turn_later_matters():
    def loss(x):
        step = lambda carry, _: ((jnp.sin(carry[1]), jnp.cos(carry[1])), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, (x, x), None, length=2)[0][0])

    assert {"sin", "cos"} <= reached_by(loss, jnp.ones(3))
