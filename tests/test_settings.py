"""The table of settings of vanishing/README.md: under each, the probe does as plain JAX does."""

import functools
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.helpers import assert_refuses, slow
from vanishing.probing import SUMMARIES, probe

W = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "v": jnp.linspace(-1, 2, 4)}
X = jnp.linspace(-1, 1, 6).reshape(2, 3)


def loss(p, x):
    """One of two branches: a trace with numbers that are not measured."""
    h = jax.lax.cond(x[0, 0] > 0, lambda: jnp.tanh(x @ p["w"]), lambda: x @ p["w"])
    return jnp.mean((h @ p["v"]) ** 2)


def small(p, x):
    return jnp.mean((jnp.tanh(x @ p["w"]) @ p["v"]) ** 2)


SETTINGS = {
    "jax_debug_nans": lambda: jax.debug_nans(True),
    "jax_debug_infs": lambda: jax.debug_infs(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "jax_numpy_rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "jax_enable_x64": lambda: jax.enable_x64(True),
    "jax_check_tracer_leaks": jax.checking_leaks,
}


@functools.cache
def usual_trace():
    probed = probe(loss, summaries=SUMMARIES)
    return probed, probed(W, X).trace


@pytest.mark.parametrize("name", [*(n for n in SETTINGS if n != "strict"), *slow("strict")])
def test_value_gradients_and_trace_are_right_under_the_setting(name):
    probed, usual = usual_trace()
    with SETTINGS[name]():
        under = probed(W, X)
        value, grads = jax.value_and_grad(loss)(W, X)
        chex.assert_trees_all_close((under.value, under.grads), (value, grads), rtol=1e-6)
        assert under.value.dtype == value.dtype
        assert np.isnan(under.trace.forward.rms).any(), "of the branch that did not run"
    chex.assert_trees_all_close(
        (under.trace.forward, under.trace.backward, under.trace.params),
        (usual.forward, usual.backward, usual.params),
        rtol=1e-5,
    )


def test_a_check_is_right_where_jax_looks_for_nan_and_inf():
    with jax.debug_nans(True), jax.debug_infs(True):
        assert probe(loss).check(W, X).worst < 1e-5


def test_what_was_not_measured_is_nan_in_a_trace_that_was_jitted_or_mapped_under_the_flag():
    probed = probe(lambda p: jnp.sum(p**2), summaries=("rms",))
    jitted = jax.jit(probed)
    with jax.debug_nans(True):
        traces = [jitted(X).trace, jax.vmap(probed)(X).trace]
    for trace in (*traces, jitted(X).trace):
        assert np.isnan(trace.params.update).all()
        assert np.isnan(trace.forward.mean).all()


def test_a_nan_of_the_loss_itself_is_still_an_error():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        probe(lambda p: jnp.sum(jnp.log(p)))(-jnp.ones(3))


@pytest.mark.slow
def test_without_jit_value_and_gradients_are_the_same():
    with jax.disable_jit():
        probed = probe(small, summaries=("rms",))(W, X)
    chex.assert_trees_all_close(probed.grads, jax.grad(small)(W, X), rtol=1e-6)
    assert len(probed.trace) == 3


def test_a_jitted_probe_transfers_nothing():
    probed = jax.jit(probe(loss))
    with jax.transfer_guard("disallow"):
        probed(W, X)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", *slow("float16", "float4_e2m1fn")])
def test_low_precision_is_measured_in_float32(dtype):
    def widened(p, x):
        return small(jax.tree.map(lambda leaf: leaf.astype(x.dtype), p), x)

    params = jax.tree.map(lambda leaf: leaf.astype(dtype), W)
    x = X.astype(dtype) if dtype.endswith("16") else X
    probed = probe(widened)(params, x)
    chex.assert_trees_all_equal(probed.grads, jax.grad(widened)(params, x))
    assert probed.trace.forward.rms.dtype == np.float32
    assert probe(widened).check(params, x).worst < 2 * float(jnp.finfo(x.dtype).eps)


NAMED = ("similarity", "dead_units", "saturated")


@pytest.mark.parametrize("summaries", [NAMED, *slow((("rms",),), ((),))])
def test_arrays_without_elements_have_zeros(summaries):
    def partly(p, x):
        return jnp.sum(jnp.tanh(x[:0] @ p["w"])) + small(p, x)

    probed = probe(partly, summaries=summaries)
    assert probed.check(W, X, rows=0).worst < 1e-5
    chex.assert_trees_all_close(probed(W, X).grads, jax.grad(small)(W, X), rtol=1e-6)
    empty = probe(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])), summaries=summaries)
    assert not np.any(empty(W, X[:0]).grads["w"])
    assert empty.check(W, X[:0]).worst == 0


@pytest.mark.slow
def test_a_probe_may_be_differentiated():
    def adapted(gradient):
        def outer(p, x):
            after = jax.tree.map(lambda w, g: w - 0.1 * g, p, gradient(p, x))
            return small(after, x)

        return outer

    probed = probe(small, summaries=("rms", "saturated"))
    through = jax.jit(jax.grad(adapted(lambda p, x: probed(p, x).grads)))(W, X)
    chex.assert_trees_all_close(through, jax.grad(adapted(jax.grad(small)))(W, X), rtol=1e-5)
    outer_probe = probe(lambda p, x: probed(p, x).value)(W, X)
    chex.assert_trees_all_close(outer_probe.grads, jax.grad(small)(W, X), rtol=1e-6)
    constant = jax.grad(lambda p: jnp.sum(probed(p, X).trace.backward.rms))(W)
    assert not np.any(constant["w"])


@pytest.mark.parametrize("summaries", [("rms",), ("zeros",), ("mean", "similarity"), ()])
def test_a_check_has_the_summaries_that_were_asked_for(summaries):
    check = probe(small, summaries=summaries).check(W, X)
    assert check.worst < 1e-5
    assert {n.quantity.split()[1] for n in check.numbers} == set(summaries) - {"similarity"}


def test_rows_of_a_check_are_a_number_of_rows():
    assert_refuses(lambda: probe(small).check(W, X, rows=-1), "rows is -1", "at least 0")


@pytest.mark.parametrize("hidden", ["callback", "partitioned"])
def test_an_activation_without_a_rule_for_batches_has_its_row(hidden):
    if hidden == "callback":

        def function(x):
            spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return jax.pure_callback(lambda x: np.tanh(x), spec, x)

    else:
        function = custom_partitioning(jnp.tanh)
        function.def_partition(
            infer_sharding_from_operands=lambda mesh, args, result: args[0].sharding,
            partition=lambda mesh, args, result: (
                mesh,
                jnp.tanh,
                args[0].sharding,
                (args[0].sharding,),
            ),
            sharding_rule="... -> ...",
        )
    activation = jax.custom_jvp(function)
    activation.defjvps(lambda dx, y, x: dx * (1 - y**2))

    def hiding(p, x):
        return jnp.mean((activation(x @ p["w"]) @ p["v"]) ** 2)

    probed = probe(hiding)(W, X)
    chex.assert_trees_all_close(probed.grads, jax.grad(small)(W, X), rtol=1e-5)
    assert len(probed.trace) == 3


@pytest.mark.parametrize("compiled", [False, *slow(True)])
def test_arrays_of_an_explicit_mesh_keep_their_shardings(compiled):
    """One device is enough: the types say how arrays are cut, and are checked, all the same."""
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"up": (4, 6), "down": (6, 4), "loop": (2, 4, 4)}
    draws = [jax.random.normal(k, s) for k, s in zip(keys, shapes.values(), strict=False)]
    params = dict(zip(shapes, draws, strict=True))
    x = jax.random.normal(keys[3], (5, 4))

    def network(p, x, *, cut=False):
        product = functools.partial(jnp.einsum, "bi,ij->bj")
        if cut:
            product = functools.partial(product, out_sharding=P(None, None))
        up = functools.partial(product, out_sharding=P(None, "model")) if cut else product
        h = product(jnp.tanh(up(x, p["up"])), p["down"])
        h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(product(h, w)), None), h, p["loop"])
        return jnp.mean(h**2)

    expected = probe(network, summaries=SUMMARIES)(params, x)
    with jax.set_mesh(mesh):
        specs = {"up": P(None, "model"), "down": P("model"), "loop": P(None, None, "model")}
        params = {
            name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
            for name, leaf in params.items()
        }
        probed = probe(functools.partial(network, cut=True), summaries=SUMMARIES)
        probed = (jax.jit(probed) if compiled else probed)(params, x)
        assert jax.typeof(probed.grads["up"]).sharding.spec == P(None, "model")
    assert probed.trace.names == expected.trace.names
    for one, other in zip(jax.tree.leaves(probed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_readme_has_every_setting():
    readme = Path(__file__).parent.parent.joinpath("vanishing", "README.md").read_text()
    for name in [*SETTINGS, "Explicit"]:
        assert re.search(rf"^\| .*{name}.* \| works", readme, flags=re.MULTILINE), name
