import jax
import jax.numpy as jnp

from vanishing import layers
from vanishing.probing import leaf_names
from vanishing.probing.plan import make_plan


def test_a_name_reaches_the_leaf_in_python():
    tree = {"blocks": [{"kernel": 1.0, "two words": 2.0}, (3.0,)]}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert eval(_subscripts(leaf_names.join("tree", path)), {"tree": tree}) == leaf


def _subscripts(name):
    """Attribute access as item access, for a tree of dicts."""
    head, *rest = name.split(".")
    for part in rest:
        key, bracket, index = part.partition("[")
        head += f"[{key!r}]{bracket}{index}"
    return head


def test_the_container_and_the_axes_of_depth():
    net = layers.repeat(layers.serial(dense=layers.dense(2)), 3)
    params = net.init(jax.random.key(0), jnp.ones((1, 2))).params
    (path, _), *_ = jax.tree_util.tree_leaves_with_path({"hidden": params})
    name = leaf_names.join("", path)
    assert name == "hidden[:].dense.bias"
    assert leaf_names.parent(path, name) == "hidden[:].dense"
    assert leaf_names.indexed(name, ["{0}"]).format(2) == "hidden[2].dense.bias"
    assert leaf_names.indexed("a{b}", ["{0}", "{1}"]).format(4, 5) == "a{b}[4][5]"


def test_no_two_leaves_have_one_name():
    params = {"mlp": {"linear": jnp.ones(2)}, "mlp/linear": jnp.ones(2)}
    layout = make_plan(
        lambda p: jnp.sum(p["mlp"]["linear"] * p["mlp/linear"]), (params,), {}
    ).layout
    assert layout.param_names == ("mlp.linear", "['mlp/linear']")
