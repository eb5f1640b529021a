"""The limits matrix of vanishing/README.md, cell by cell: what is recorded where."""

import functools
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from tests.helpers import slow
from vanishing.probing import probe

W = {"w": jnp.linspace(-1, 1, 16).reshape(4, 4), "v": jnp.linspace(1, 2, 16).reshape(4, 4)}
X = jnp.linspace(-1, 1, 8).reshape(2, 4)


def layer(x, w):
    return jnp.tanh(x @ w)


def in_jit(params, x):
    return jnp.mean(jax.jit(layer)(x, params["w"]) @ params["v"])


def in_scan(params, x):
    x, _ = jax.lax.scan(lambda x, _: (layer(x, params["w"]), None), x, length=3)
    return jnp.mean(x @ params["v"])


def in_cond(params, x):
    x = jax.lax.cond(x[0, 0] < 0, lambda x: layer(x, params["w"]), lambda x: x @ params["v"], x)
    return jnp.mean(x @ params["v"])


def in_checkpoint(params, x):
    return jnp.mean(jax.checkpoint(layer)(x, params["w"]) @ params["v"])


def in_vmap(params, x):
    return jnp.mean(jax.vmap(layer, in_axes=(0, None))(x, params["w"]) @ params["v"])


@jax.custom_jvp
def with_jvp(x):
    return jnp.tanh(x)


with_jvp.defjvps(lambda dx, y, x: dx * (1 - y**2))


def in_custom_jvp(params, x):
    return jnp.mean(with_jvp(x @ params["w"]) @ params["v"])


@jax.custom_vjp
def with_vjp(x, w):
    return layer(x, w)


with_vjp.defvjp(lambda x, w: jax.vjp(layer, x, w), lambda back, ct: back(ct))


def in_custom_vjp(params, x):
    return jnp.mean(with_vjp(x, params["w"]) @ params["v"])


def in_shard_map(params, x):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(layer, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"))
    return jnp.mean(split(x, params["w"]) @ params["v"])


def in_while_loop(params, x):
    """The loop runs forward only, so the gradient goes around it."""
    steps = jax.lax.while_loop(lambda n: n < 3, lambda n: n + 1, jnp.float32(0))
    return jnp.mean(layer(x, params["w"]) @ params["v"]) * steps


@jax.custom_vjp
def doubled(x):
    def kernel(x_ref, o_ref):
        o_ref[...] = 2 * x_ref[...]

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)


doubled.defvjp(lambda x: (doubled(x), None), lambda _, ct: (2 * ct,))


def in_pallas(params, x):
    return jnp.mean(doubled(layer(x, params["w"])) @ params["v"])


def in_custom_root(params, x):
    """The point that a layer maps to itself: its loop is not on the gradient's way."""
    f = lambda y: y - layer(y, params["w"] / 4) - x  # noqa: E731
    solve = lambda f, y: jax.lax.fori_loop(0, 30, lambda _, y: y - f(y), y)  # noqa: E731

    def tangent_solve(g, y):
        slopes = jax.jacobian(lambda flat: g(flat.reshape(2, 4)).ravel())(jnp.zeros(8))
        return jnp.linalg.solve(slopes, y.ravel()).reshape(2, 4)

    return jnp.mean(jax.lax.custom_root(f, x, solve, tangent_solve) @ params["v"])


@jax.custom_jvp
def called_back(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(np.tanh, shape, x, vmap_method="expand_dims")


called_back.defjvps(lambda dx, y, x: dx * (1 - y**2))


def in_callback(params, x):
    return jnp.mean(called_back(x @ params["w"]) @ params["v"])


def in_complex(params, x):
    """A state-space layer: complex parameters and values, the real part of what they give."""
    kernel = jax.lax.complex(params["w"], params["v"])
    return jnp.mean((x + jnp.fft.fft(layer(x, kernel)).real) @ params["v"])


def in_reference(params, x):
    ref = jax.new_ref(x)

    def step(i, _):
        ref[...] = layer(ref[...], params["w"])

    jax.lax.fori_loop(0, 3, step, None)
    return jnp.mean(ref[...] @ params["v"])


INSIDE = {  # transformation: (loss, rows inside, is what is inside said to be left out?)
    "jit": (in_jit, 2, False),
    "scan": (in_scan, 6, False),
    "cond": (in_cond, 3, False),
    "checkpoint": (in_checkpoint, 2, False),
    "vmap": (in_vmap, 2, False),
    "custom_jvp": (in_custom_jvp, 2, False),
    "custom_vjp": (in_custom_vjp, 1, True),
    "shard_map": (in_shard_map, 1, True),
    "while_loop": (in_while_loop, 2, False),
    "Pallas": (in_pallas, 3, True),
    "custom_root": (in_custom_root, 1, True),
    "pure_callback": (in_callback, 2, True),
    "mutable references": (in_reference, 6, False),
    "complex values": (in_complex, 2, False),
}


FEW = ("scan", "cond", "checkpoint", "vmap", "custom_vjp")


@pytest.mark.parametrize("name", [*FEW, *slow(*(name for name in INSIDE if name not in FEW))])
def test_what_is_recorded_is_exact_and_what_is_not_is_said(name):
    loss, inside, left_out = INSIDE[name]
    probed = probe(loss)
    check = probed.check(W, X, rows=0)
    assert check.worst < 1e-5, check
    trace = probed(W, X).trace
    assert len(trace) == inside + 1, trace
    assert bool(trace.notes) == left_out, trace.notes
    assert not left_out or "Not recorded: what is inside of" in str(trace)


def test_a_branch_that_did_not_run_is_nan_and_one_that_ran_is_not():
    trace = probe(in_cond)(W, X).trace
    ran = ~np.isnan(trace.backward.rms)
    assert [site.op for site, r in zip(trace.sites, ran, strict=True) if not r] == ["dot_general"]
    assert ran.sum() == 3


@pytest.mark.parametrize("check_vma", [True, *slow(False)])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_probe_inside_of_shard_map_measures_every_shard(devices, check_vma):
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P("batch")),
        out_specs=P("batch"),
        check_vma=check_vma,
    )
    def shards(params, x):
        probed = probe(in_cond, summaries=("rms", "similarity"))(params, x)
        return jax.tree.map(lambda leaf: leaf[None], (probed.value, probed.trace))

    values, traces = shards(W, X)
    for i, part in enumerate(jnp.split(X, devices)):
        alone = probe(in_cond, summaries=("rms",))(W, part)
        np.testing.assert_allclose(values[i], alone.value, rtol=1e-6)
        np.testing.assert_allclose(traces.backward.rms[i], alone.trace.backward.rms, rtol=1e-5)


# What tracing takes away, as it does in `jax.jit`.


def chooses(p):
    return jnp.sum(p**2) if p[0] > 0 else jnp.sum(p)


DATA = jnp.ones(3)


def chooses_by_data(p):
    return jnp.sum(p**2) if DATA.mean() > 0 else jnp.sum(p)


@jax.custom_jvp
def constant(x):
    return np.zeros(x.shape, x.dtype)


constant.defjvp(lambda primals, tangents: (constant(primals[0]), tangents[0]))


@pytest.mark.parametrize(
    "loss", [chooses, chooses_by_data, lambda p: jnp.sum(jax.vmap(constant)(p))]
)
def test_what_is_refused_is_refused_by_jit_too(loss):
    params = jnp.linspace(1, 2, 3)
    jax.value_and_grad(loss)(params)
    with pytest.raises(Exception, match=r"\w") as by_jit:
        jax.value_and_grad(jax.jit(loss))(params)
    with pytest.raises(by_jit.type), jax.disable_jit():
        probe(loss)(params)


def test_a_loss_runs_when_it_is_traced_and_sees_arrays():
    calls = []

    @jax.custom_vjp
    def halved(x):
        calls.append(isinstance(x, float))
        return x / 2

    halved.defvjp(lambda x: (halved(x), None), lambda _, g: (g / 2,))
    assert probe(halved)(1.0).grads == 0.5
    assert calls
    assert not any(calls)


def test_what_no_variable_holds_is_not_seen_to_change_as_by_jit():
    factors, name = io.StringIO("23"), "".join(["fac", "tor"])
    model = type("Model", (), {})()

    def read(p):
        return jnp.sum(p**2) * int(factors.read(1))

    def computed(p):
        return jnp.sum(p**2) * getattr(model, name)

    params = jnp.ones(3)
    for loss in (read, computed):
        values = []
        for factor in (2.0, 3.0):
            setattr(model, name, factor)
            values.append(float(probe(loss)(params).value))
        assert values == [6.0, 6.0]


@pytest.mark.parametrize(
    ("answer", "plain", "probed"),
    [
        (lambda n: isinstance(n, int), True, False),
        (lambda n: hasattr(n, "bit_length"), True, False),
        (lambda n: isinstance(n, bool), True, True),
    ],
)
def test_a_number_among_the_other_arguments_is_an_array_and_a_flag_is_a_flag(answer, plain, probed):
    def loss(p, n):
        answers.append(answer(n))
        return jnp.sum(p**2)

    answers, n = [], True if probed else 3
    jax.value_and_grad(loss)(jnp.ones(3), n)
    probe(loss)(jnp.ones(3), n)
    assert answers == [plain, probed]


def test_the_readme_has_the_matrix():
    readme = Path(__file__).parent.parent.joinpath("vanishing", "README.md").read_text()
    for name, (_, _, left_out) in INSIDE.items():
        (row,) = re.findall(rf"^\| `?{name}`?[ ,].*$", readme, flags=re.MULTILINE)
        assert ("not recorded" in row) == left_out, row
