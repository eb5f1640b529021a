"""What `jax.value_and_grad` takes and returns, the probe takes and returns."""

import collections
import functools
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vanishing
from tests.helpers import slow
from vanishing.probing import probe
from vanishing.probing.plan import make_plan

P = jnp.array([0.5, -1.0, 2.0])
Pair = collections.namedtuple("Pair", "loss aux")


class Case(NamedTuple):
    loss: Any
    args: tuple = (P,)
    kwargs: Any = MappingProxyType({})
    options: Any = MappingProxyType({})


def flagged(p, train=False, *, scale=1.0):
    return scale * (jnp.sum(jnp.tanh(p)) if train else jnp.sum(p))


def deep(p, n):
    for _ in range(n):
        p = jnp.tanh(p)
    return jnp.sum(p)


def either(p, step, train, sizes):
    """Needs two of its numbers, one after the other."""
    h = jnp.ones((sizes["n"], 3)) @ p if train else p
    return jnp.sum(h) / step


@functools.partial(jax.jit, static_argnums=1, static_argnames="mode")
def jitted(p, power, mode="sum"):
    return getattr(jnp, mode)(p**power) if power > 1 else jnp.sum(p)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scaled(p, scale):
    return jnp.sum(p) * scale


scaled.defvjp(lambda p, scale: (scaled(p, scale), p), lambda scale, p, g: (scale * g * P,))


@jax.custom_vjp
def with_number(x):
    return x


with_number.defvjp(lambda x: (x, None), lambda _, g: (2.0,))


def in_float64(p):
    with jax.enable_x64(True):
        return jnp.sum(jax.nn.relu(p.astype(jnp.float64)))


def written(p, ref):
    ref[...] = jax.lax.stop_gradient(p)
    return jnp.sum(jnp.tanh(p) * p)


def aux(value):
    return Case(lambda p: (jnp.sum(p**2), value), options={"has_aux": True})


X64 = np.array([1.0, 2.0, 3.0])
CASES = {
    "aux: text": aux({"name": "loss", "numbers": [1, 2.5, True]}),
    "aux: none": aux(None),
    "aux: function": aux(jnp.tanh),
    "aux: numpy": aux((np.arange(3), np.float64(2))),
    "aux: array": aux(P),
    "aux: what went in": Case(
        lambda p, x, n: (jnp.sum(p), (x, n, p)), (P, X64, 3), {}, {"has_aux": True}
    ),
    "aux: a list": Case(lambda p: [jnp.sum(p**2), 2 * p], options={"has_aux": True}),
    "aux: named": Case(lambda p: Pair(jnp.sum(p**2), 2 * p), options={"has_aux": True}),
    "aux: keys": Case(
        lambda p, key: (jnp.sum(p), jax.random.split(key)),
        (P, jax.random.key(0)),
        {},
        {"has_aux": True},
    ),
    "constant": Case(lambda p: jnp.float32(3)),
    "a number": Case(lambda p: 2.0),
    "stopped": Case(lambda p: jnp.sum(jax.lax.stop_gradient(p) ** 2)),
    "sign": Case(lambda p: jnp.sum(jnp.sign(p))),
    "no parameters": Case(lambda p, x: jnp.sum(x**2), ({}, P)),
    "all dropped": Case(
        lambda p, key, rate: jnp.sum(p * (rate < 1.0)), (P, jax.random.key(0), 1.0)
    ),
    "flag": Case(flagged, (P, True)),
    "flag by name": Case(flagged, (P,), {"train": True, "scale": 2.0}),
    "count": Case(deep, (P, 3)),
    "numbers": Case(either, (P, 2, True, {"n": 2})),
    "jitted": Case(jitted, (P, 2), {"mode": "mean"}),
    "float": Case(lambda p, x: jnp.sum(p) * f"{x:.1f}".count("5"), (P, 2.5)),
    "numpy": Case(lambda p, x: jnp.sum(p * np.square(x)), (P, X64)),
    "item": Case(lambda p, x: jnp.sum(p) * float(x), (P, jnp.float32(2))),
    "mask": Case(lambda p, m: jnp.sum(p[m]), (P, jnp.array([True, False, True]))),
    "nondiff": Case(scaled, (P, jnp.float32(2))),
    "a number of Python": Case(lambda p: p**2, (3.0,)),
    "numpy parameters": Case(lambda p: jnp.sum(p**2), (X64,)),
    "negative": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": -1}),
    "numpy argnums": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": np.int64(1)}),
    "several": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": [1, np.int32(0)]}),
    "rule with a number": Case(lambda p: with_number(p @ P)),
    "float64 inside": Case(in_float64),
    "bfloat16": Case(lambda p: jnp.sum(p**2), (P.astype(jnp.bfloat16),)),
    "vector": Case(lambda p: p),
    "integer": Case(lambda p: jnp.sum(p).astype(int)),
    "complex": Case(lambda p: jnp.sum(p) * 1j),
    "pair": Case(lambda p: (jnp.sum(p), p)),
    "triple": Case(lambda p: (jnp.sum(p), p, p), options={"has_aux": True}),
    "no arguments": Case(lambda p: jnp.sum(p), ()),
    "text": Case(lambda p: 1.0, ("a",)),
    "integers": Case(lambda p: jnp.sum(p) * 1.0, (jnp.arange(3),)),
    "argnums: none": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": ()}),
    "argnums: twice": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": (0, 0)}),
    "argnums: too large": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": 2}),
    "argnums: too small": Case(lambda x, p: jnp.sum(x * p), (P, P), {}, {"argnums": -3}),
    "their own error": Case(lambda p, n: {"a": p}[n], (P, 3)),
}


def answer(function):
    """Value, aux and gradients with the types of their leaves; or the type of the error."""
    try:
        output = function()
    except Exception as error:
        return type(error), error
    leaves, tree = jax.tree.flatten(output)
    arrays = [x for x in leaves if hasattr(x, "dtype")]
    kinds = [
        (type(x), x.dtype, getattr(x, "weak_type", None)) if hasattr(x, "dtype") else (type(x), x)
        for x in leaves
    ]
    return tree, kinds, [x for x in arrays if jnp.issubdtype(x.dtype, jnp.number)]


def probed(case):
    probed = probe(case.loss, **case.options)(*case.args, **case.kwargs)
    value = (probed.value, probed.aux) if case.options.get("has_aux") else probed.value
    return value, probed.grads


@pytest.mark.parametrize("name", CASES)
def test_it_takes_and_returns_what_value_and_grad_takes_and_returns(name):
    case = CASES[name]
    plain = answer(lambda: jax.value_and_grad(case.loss, **case.options)(*case.args, **case.kwargs))
    outcome = answer(lambda: probed(case))
    assert outcome[0] == plain[0], outcome
    if len(plain) == 3:
        assert outcome[1] == plain[1]
        for a, b in zip(outcome[2], plain[2], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    elif name != "their own error":
        assert "\n" not in str(outcome[1])


@pytest.mark.parametrize("dtype", ["bfloat16", *slow("float64")])
def test_dtypes_may_be_promoted_strictly(dtype):
    def loss(p):
        return jnp.sum(jnp.tanh(p["w"] * p["w"]))

    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        p = {"w": P.astype(dtype)}
        probed = probe(loss)(p)
        value, grads = jax.value_and_grad(loss)(p)
    assert (probed.value.dtype, probed.grads["w"].dtype) == (value.dtype, p["w"].dtype)
    np.testing.assert_array_equal(np.float64(probed.grads["w"]), np.float64(grads["w"]))


@pytest.mark.parametrize("access", ["argument", "closed over"])
def test_a_mutable_array_holds_what_the_loss_wrote(access):
    ref = jax.new_ref(jnp.zeros(3))
    loss, args = (written, (P, ref)) if access == "argument" else (lambda p: written(p, ref), (P,))
    probed = probe(loss)(*args)
    np.testing.assert_array_equal(ref[...], P)
    np.testing.assert_allclose(probed.grads, jax.grad(lambda p: jnp.sum(jnp.tanh(p) * p))(P))


def test_a_trace_without_gradient_says_so():
    for loss, params in ((lambda p: jnp.sum(jnp.sign(p)), P), (lambda p: jnp.sum(P), {})):
        trace = probe(loss)(params).trace
        assert len(trace) == 0
        assert "Not recorded: any row, since no parameter reaches the loss" in str(trace)
        assert probe(loss).check(params).worst == 0
        trace.plot()
        vanishing.diagnose(trace)


def test_a_number_stays_one_only_where_the_loss_needs_it():
    """So that a count of steps beside a flag does not compile anew at every step."""

    def static(loss, *args):
        return make_plan(loss, args, {}).static

    assert static(either, P, 2, True, {"n": 2}) == {1, 2}
    assert static(either, P, 2, False, {"n": 2}) == {1}
    assert static(lambda p, n, x: jnp.sum(p) * n * x, P, 2, 0.5) == frozenset()
    assert static(lambda p, mode, x: getattr(jnp, mode)(p * x), P, "sum", 0.5) == {0}
    assert static(lambda p, n, power: jitted(p, power) * n, P, 2, 2) == {0, 1}, "no error names it"
