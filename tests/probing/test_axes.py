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
    **{"left": jnp.ones((2, 4, 1)), "right": jnp.ones((2, 1, 4))},
}


def layers(weights, x=X):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]


def in_groups(stacks):
    return jax.lax.scan(lambda h, weights: (layers(weights, h), None), X, stacks)[0]


MASK = jnp.array([True, False])[:, None, None]
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
    "joined": (
        lambda p: layers(jnp.concatenate([p["w"][2:], jnp.stack(p["list"][:1])])),
        ["w[2]", "w[3]", "list[0]"],
    ),
    "an array of a list": (lambda p: layers(jnp.array(p["list"][:2])), ["list[0]", "list[1]"]),
    "in another order": (
        lambda p: layers(jnp.stack(p["list"])[jnp.array([2, 0, 1])]),
        ["list[2]", "list[0]", "list[1]"],
    ),
    "by a counter": (
        lambda p: jax.lax.fori_loop(0, 2, lambda i, h: h @ jnp.stack(p["list"])[i], X),
        ["list[0]", "list[1]"],
    ),
    "along another axis": (
        lambda p: layers(jnp.moveaxis(jnp.stack(p["list"][:2], axis=1), 1, 0)),
        ["list[0]", "list[1]"],
    ),
    "stacks of stacks": (
        lambda p: in_groups(jnp.stack([jnp.stack([p["w"][3], p["list"][0]]), p["w"][:2]])),
        ["w[3]", "list[0]", "w[0]", "w[1]"],
    ),
    "stacks in one row": (
        lambda p: layers(jnp.stack([p["w"][2:], p["w"][:2]]).reshape(4, 4, 4)),
        ["w[2]", "w[3]", "w[0]", "w[1]"],
    ),
    "twice": (
        lambda p: layers(jnp.stack([p["list"][0], p["list"][0], p["list"][1]])),
        ["list[0]", "list[0]#2", "list[1]"],
    ),
    "repeated in turn": (
        lambda p: layers(jnp.tile(p["w"][:2], (2, 1, 1))),
        ["w[0]", "w[1]", "w[0]#2", "w[1]#2"],
    ),
    "rolled": (lambda p: layers(jnp.roll(p["w"][:3], 1, 0)), ["w[2]", "w[0]", "w[1]"]),
    "with a low rank": (
        lambda p: layers(p["w"][2:] + p["left"] @ p["right"]),
        ["w[2]", "w[3]"],
    ),
    "one leaf or another": (
        lambda p: layers(jnp.where(MASK, p["w"][:2], jnp.moveaxis(p["last"], 2, 0)[:2])),
        ["last|w[t=0]", "last|w[t=1]"],
    ),
    "one index or another": (
        lambda p: layers(jnp.where(MASK, p["w"][:2], p["w"][1::-1])),
        ["w[t=0]", "w[t=1]"],
    ),
    "chosen by data": (
        lambda p: layers(jnp.stack(p["list"])[jnp.argsort(X[:, 0])]),
        ["list[t=0]", "list[t=1]"],
    ),
    "of one step": (lambda p: layers(jnp.stack(p["list"][:1])), ["list[0]"]),
    "of no step": (lambda p: layers(p["w"][:0], X @ p["w"][0]) @ p["w"][1], ["w[0]", "w[1]"]),
    "reshaped": (lambda p: layers(p["flat"].reshape(3, 4, 4)[:2]), ["flat[t=0]", "flat[t=1]"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_row_has_the_index_of_the_leaf_or_none(name):
    function, expected = FORMS[name]
    layout = make_plan(lambda p: jnp.mean(function(p) ** 2), (PARAMS,), {}).layout
    products = [layout.sites[row.site].kind == "matmul" for row in layout.instances]
    assert [n for n, is_one in zip(layout.names, products, strict=True) if is_one] == expected
    assert len(layout.param_names) <= len(jax.tree.leaves(PARAMS)) + 5  # w has four


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
