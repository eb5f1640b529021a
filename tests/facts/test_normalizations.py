import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table, module
from vanishing.facts import NORMS, normalizations, of_epsilon

ROOTS = {"Equinox": "equinox", "Haiku": "haiku", "Keras": "keras", "PyTorch": "torch", "JAX": "jax"}
KEY = jax.random.key(0)
GROUPS = 4


def maker(row):
    root = "flax" if row.framework == "Flax" else ROOTS[row.framework]
    part, _, name = row.layer.rpartition(".")
    return getattr(module(f"{root}.{part}" if part else root), name)


def arguments(row, features):
    """What the maker of a layer must be given."""
    if row.framework == "Flax" and row.layer.startswith("nnx"):
        return (features,), {"rngs": module("flax.nnx").Rngs(0)}
    if "GroupNorm" in row.layer:
        return ((GROUPS, features) if row.framework == "Equinox" else ()), {}
    return ((features,) if row.framework in ("Equinox", "PyTorch") else ()), {}


def epsilon(row):
    make = maker(row)
    if row.framework in ("Haiku", "JAX"):
        known = inspect.signature(make).parameters
        return next(p.default for name, p in known.items() if name in ("eps", "epsilon"))
    args, options = arguments(row, 64)
    layer = make(*args, **options)
    return getattr(layer, "epsilon", None) or layer.eps


def applied(row, x):
    """What the layer makes of rows x in training."""
    make, (args, options) = maker(row), arguments(row, x.shape[-1])
    if row.framework == "JAX":
        return make(x)
    if row.framework == "Haiku":
        given = {"axis": -1, "create_scale": False, "create_offset": False}
        if row.layer == "RMSNorm":
            given = {"axis": -1, "create_scale": False}
        if row.layer == "BatchNorm":
            given = {"create_scale": False, "create_offset": False, "decay_rate": 0.9}
        call = {"is_training": True} if row.layer == "BatchNorm" else {}
        made = module("haiku").transform_with_state(lambda x: make(**given)(x, **call))
        params, state = made.init(jax.random.PRNGKey(0), x)
        return made.apply(params, state, None, x)[0]
    if row.framework == "PyTorch":
        return make(*args)(module("torch").from_numpy(np.array(x))).detach().numpy()
    if row.framework == "Equinox":
        return jax.vmap(make(*args))(x)
    if row.framework == "Keras":
        return make()(x, training=True)
    is_batch = "BatchNorm" in row.layer
    if row.layer.startswith("linen"):
        options = {"use_running_average": False} if is_batch else {}
        options |= {"num_groups": GROUPS} if "GroupNorm" in row.layer else {}
        layer = make(**options)
        return layer.apply(
            layer.init(KEY, x), x, **({"mutable": ["batch_stats"]} if is_batch else {})
        )
    options |= {"num_groups": GROUPS} if "GroupNorm" in row.layer else {}
    return make(*args, **options)(x)


def is_fast(row):
    """Does it lose a deviation of 0.1 beside a mean of 1000 in float32?"""
    x = 1000 + 0.1 * jax.random.normal(KEY, (64, 512))
    y = jax.tree.leaves(applied(row, x))[0] if row.framework == "Flax" else applied(row, x)
    size = np.asarray(y, np.float64).std()
    return not 0.9 < size < 1.1


def measured(row):
    yield row.epsilon, epsilon(row)
    if "RMS" not in row.layer:  # which has no variance
        yield row.fast, is_fast(row)


def test_the_table_is_plain_data():
    assert_table(NORMS, lambda row: (row.framework, row.layer))
    assert_plain(normalizations)


@pytest.mark.parametrize("layer", ["nn.standardize", "linen.LayerNorm", "nnx.BatchNorm"])
def test_a_norm_is_as_stated(layer):
    (row,) = (row for row in NORMS if row.layer == layer)
    for stated, found in measured(row):
        assert found == pytest.approx(stated)


def test_an_epsilon_leaves_what_its_layer_returns_small():
    """Of a signal of variance v an epsilon e leaves sqrt(v / (v + e))."""
    (row,) = (row for row in NORMS if row.layer == "linen.LayerNorm")
    x = 1e-3 * jax.random.normal(KEY, (64, 512))
    expected = (1e-6 / (1e-6 + row.epsilon)) ** 0.5
    assert float(jnp.std(applied(row, x))) == pytest.approx(expected, rel=0.01)


def test_an_epsilon_that_is_no_default_is_nobody_s():
    assert of_epsilon(1e-4) == ()
    assert of_epsilon(1e-5) == ("Flax", "Equinox", "Haiku", "PyTorch", "JAX")


@pytest.mark.slow
def test_every_norm_is_as_stated():
    assert_as_stated(NORMS, measured, rtol=1e-6)
