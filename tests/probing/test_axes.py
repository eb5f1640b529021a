import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import diagnose
from vanishing.probing import probe
from vanishing.probing.plan import make_plan

X = jnp.ones((2, 4)) / 3
PARAMS = {
    "w": jnp.stack([jnp.eye(4)] * 4),
    **{"list": [jnp.eye(4)] * 3, "tree": {"a": {"w": jnp.eye(4)}, "b": {"w": jnp.eye(4)}}},
    **{"flat": jnp.ones(48), "last": jnp.ones((4, 4, 3)), "scalar": jnp.ones(())},
}


def layers(weights, x=X):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]


FORMS = {  # what is done to leaves before a scan: (the rows of products, names of parameters)
    "turned": (lambda p: layers(p["w"][::-1]), ["w[3]", "w[2]", "w[1]", "w[0]"]),
    "cut": (lambda p: layers(p["w"][1:], X @ p["w"][0]), ["w[0]", "w[1]", "w[2]", "w[3]"]),
    "cut and turned": (lambda p: layers(2 * p["w"][1:3][::-1]), ["w[2]", "w[1]"]),
    "thinned": (lambda p: layers(p["w"][1::2].swapaxes(1, 2)), ["w[1]", "w[3]"]),
    "by hand": (lambda p: jnp.tanh(X @ p["w"][2]) @ p["w"][1], ["w[2]", "w[1]"]),
    "a list": (lambda p: layers(jnp.stack(p["list"])), ["list[0]", "list[1]", "list[2]"]),
    "a list turned": (lambda p: layers(jnp.stack(p["list"][:2])[::-1]), ["list[1]", "list[0]"]),
    "a tree": (
        lambda p: layers(jnp.stack([p["tree"][name]["w"] for name in "ab"])),
        ["tree.a", "tree.b"],
    ),
    "another axis": (
        lambda p: layers(jnp.moveaxis(p["last"], -1, 0)[:2]),
        ["last[t=0]", "last[t=1]"],
    ),
    "repeated": (
        lambda p: layers(jnp.broadcast_to(p["list"][0], (2, 4, 4))),
        ["list[0][t=0]", "list[0][t=1]"],
    ),
    "reshaped": (lambda p: layers(p["flat"].reshape(3, 4, 4)[:2]), ["flat[t=0]", "flat[t=1]"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_row_has_the_index_of_the_leaf_or_none(name):
    function, expected = FORMS[name]
    layout = make_plan(lambda p: jnp.mean(function(p) ** 2), (PARAMS,), {}).layout
    products = [layout.sites[row.site].kind == "matmul" for row in layout.instances]
    assert [n for n, is_one in zip(layout.names, products, strict=True) if is_one] == expected
    assert len(layout.param_names) <= len(jax.tree.leaves(PARAMS)) + 3  # w has four


def test_a_name_leads_to_the_layer_that_it_names():
    trace = probe(lambda p: jnp.mean(layers(p["w"][::-1], X / 9) ** 2))(
        {"w": PARAMS["w"] * jnp.array([1.0, 1, 1, 5])[:, None, None]}
    ).trace
    rms = dict(zip(trace.names, np.asarray(trace.forward.rms), strict=True))
    assert rms["w[3]"] == pytest.approx(5 / 27, rel=1e-5)


def test_a_scalar_that_is_repeated_is_diagnosed():
    def loss(p):
        scales = jnp.broadcast_to(p["scalar"], (3,))
        h = jax.lax.scan(lambda h, s: (jnp.tanh(h * s), None), X @ p["list"][0], scales)[0]
        return jnp.mean(h**2)

    trace = probe(loss)(PARAMS).trace
    diagnose(trace)
    assert len(trace.layout.param_names) == len(jax.tree.leaves(PARAMS))
