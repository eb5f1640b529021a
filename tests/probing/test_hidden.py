"""What is said of programs inside of operations that are recorded as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.sharding import PartitionSpec as P

from vanishing.probing.plan import make_plan

PARAMS = {"w": jnp.eye(4) / 4, "v": jnp.eye(4)}
X = jnp.linspace(-1, 1, 8).reshape(2, 4)


def with_rule(function):
    """A custom_jvp whose rule is that of tanh, whatever the function does."""
    function = jax.custom_jvp(function)
    function.defjvps(lambda dx, y, x: dx * (1 - y**2))
    return function


def loop(x):
    return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.tanh(s[1])), (0, x))[1]


def callback(x):
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def checked(x):
    """As `equinox.error_if` checks: Python runs only where something is wrong."""
    return jax.lax.cond(jnp.isnan(x).any(), callback, lambda x: x, x)


def root(p, x):
    def solve(f, start):
        return jax.lax.fori_loop(0, 9, lambda _, y: y - f(y), start)

    def tangent_solve(g, y):
        slopes = jax.jacobian(g)(jnp.zeros(8).reshape(2, 4)).reshape(8, 8)
        return jnp.linalg.solve(slopes, y.ravel()).reshape(2, 4)

    f = lambda y: y - jnp.tanh(y @ p["w"] + x)  # noqa: E731
    return jax.lax.custom_root(f, jnp.zeros((2, 4)), solve, tangent_solve)


def sharded(p, x):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": P("batch"), "out_specs": P("batch")}
    return jax.shard_map(jnp.tanh, mesh=mesh, **specs)(x @ p["w"])


@jax.custom_vjp
def straight_through(x):
    return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), None), lambda _, cotangent: (cotangent,))


class Solver:
    """What a library keeps in a parameter of its primitive."""


def library_primitive(name):
    """A primitive that doubles, as a library of somebody else's would define it."""
    double = Primitive(name)
    double.def_impl(lambda x, **_: 2 * x)
    double.def_abstract_eval(lambda x, **_: x)
    ad.deflinear2(double, lambda ct, x, **params: [2 * ct])
    mlir.register_lowering(double, mlir.lower_fun(lambda x, **_: 2 * x, multiple_results=False))
    return double


SOLVE, SCALE = library_primitive("library_solve"), library_primitive("library_scale")

HIDING = {  # the name in the note: loss
    "loop": lambda p, x: with_rule(loop)(x @ p["w"]),
    "callback": lambda p, x: with_rule(callback)(x @ p["w"]),
    "<lambda>": lambda p, x: with_rule(lambda h: jnp.tanh(h @ h.T @ h))(x @ p["w"]),
    "custom_root": root,
    "custom_linear_solve in solve": lambda p, x: jnp.linalg.solve(p["w"], x.T),
    "shard_map": sharded,
    "linear_call": lambda p, x: jax.custom_derivatives.linear_call(
        lambda w, x: x @ w, lambda w, ct: ct @ w.T, p["w"], x @ p["w"]
    ),
    "library_solve": lambda p, x: SOLVE.bind(x @ p["w"], solver=Solver()),
}
OPEN = {
    "activations": lambda p, x: jax.nn.relu(jax.nn.softplus(jax.nn.silu(x @ p["w"]))),
    "straight_through": lambda p, x: straight_through(x @ p["w"]),
    "a check": lambda p, x: with_rule(checked)(x @ p["w"]),
    "a scatter": lambda p, x: x.at[0].add((x @ p["w"])[1]),
    "a sum over segments": lambda p, x: jax.ops.segment_max(x @ p["w"], jnp.arange(2), 2),
    "sums": lambda p, x: jnp.cumsum(jax.nn.logsumexp(x @ p["w"], 1)),
    "library_scale": lambda p, x: SCALE.bind(x @ p["w"], by="two"),
    "off the gradient's way": lambda p, x: x @ p["w"] + jax.lax.stop_gradient(root(p, x)),
}


def notes(network):
    def loss(p, x):
        return jnp.mean(network(p, x) ** 2)

    return make_plan(loss, (PARAMS, X), {}).layout.notes


@pytest.mark.parametrize("name", HIDING)
def test_what_may_hold_layers_is_said_with_its_name_and_line(name):
    (note,) = notes(HIDING[name])
    assert note.startswith(f"what is inside of {name} at tests/probing/test_hidden.py:"), note


@pytest.mark.parametrize("name", OPEN)
def test_what_is_one_operation_hides_nothing(name):
    assert notes(OPEN[name]) == ()


def test_a_trace_without_rows_says_why():
    def note(loss, where=lambda site: True):
        layout = make_plan(loss, (PARAMS, X), {}, where=where).layout
        assert layout.sites == ()
        return layout.notes[0]

    stopped = note(lambda p, x: jnp.sum(jax.lax.stop_gradient(p["w"])))
    assert "no parameter reaches the loss" in stopped
    unknown = note(lambda p, x: jnp.sum(p["w"]))
    assert "nothing on the gradient's way is known as a layer" in unknown
    left_out = note(lambda p, x: jnp.sum(x @ p["w"]), where=lambda site: False)
    assert "where is true for none of the 1 sites" in left_out
