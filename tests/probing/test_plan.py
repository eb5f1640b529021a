import chex
import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing.plan import make_plan, tapped

PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.zeros(4), "unused": jnp.ones(2), "stopped": jnp.ones(4)}
X = jnp.arange(6.0).reshape(2, 3)
OFFSET = jnp.arange(8.0).reshape(2, 4)


def loss(x, params, *, scale=1.0, name="tanh"):
    h = getattr(jnp, name)(x @ params["w"] + params["b"][None]) + OFFSET
    return scale * jnp.mean(h * jax.lax.stop_gradient(params["stopped"])[None])


def plan_of(**kwargs):
    return make_plan(loss, (X, PARAMS), kwargs, argnums=1)


def test_the_flat_loss_is_the_loss_of_its_leaves():
    plan = plan_of(scale=2.0, name="sin")
    data = plan.arguments.traced(plan.static)
    value, grads = jax.value_and_grad(lambda *leaves: plan.flat_loss(*leaves)[0])(plan.params, data)
    expected = jax.value_and_grad(loss, 1)(X, PARAMS, scale=2.0, name="sin")
    chex.assert_trees_all_close(
        (value, plan.arguments.structure.grads_like(grads)), expected, rtol=1e-6
    )


def test_arrays_that_the_loss_closes_over_are_inputs_of_its_program():
    """As constants they would be folded when it is compiled, for seconds where they are data."""
    plan = plan_of()
    assert not any(np.size(value) > 1 for _, value in plan.program.frame.constants)
    assert len(plan.program.frame.inputs) == len(plan.params) + len(plan.others)
    assert any(value is OFFSET for value in plan.others[1:])


def test_what_becomes_of_every_leaf_is_known():
    reach = {place.label: place.reach for place in plan_of().layout.leaves}
    assert reach == {
        "w": "used",
        "b": "used",
        "unused": "unused",
        "stopped": "without a gradient",
    }


def test_a_tapped_loss_is_the_loss_and_hands_out_what_its_taps_measure():
    plan = plan_of()

    def tap(number, x, slot, local):
        return x + slot, jnp.sum(x)

    slots = {s.value: jnp.zeros(s.site.shape) for s in plan.selected}
    value, (_, measured) = tapped(plan, tap)(plan.params, slots, plan.others)
    np.testing.assert_allclose(value, loss(X, PARAMS), rtol=1e-6)
    assert measured.keys() == slots.keys()
    outputs = tapped(plan, tap)(
        plan.params, {n: slot + 1 for n, slot in slots.items()}, plan.others
    )
    assert float(outputs[0]) != float(value)
