"""What rows are called; the models and the names are in named_models.py."""

import jax
import jax.numpy as jnp
import pytest

from tests.helpers import slow
from tests.probing.named_models import MODELS
from vanishing.probing import naming
from vanishing.probing.plan import make_plan
from vanishing.probing.reach import RESHAPES


def names_of(loss, *args, level="layer"):
    return make_plan(loss, args, {}, level=level).layout.names


LONG = (
    "linen_loop",
    "linen_attention",
    "linen_lstm",
    "linen_resnet",
    "nnx_transformer",
    "nnx_rnn",
    "equinox_conv",
    "equinox_rnn",
)


@pytest.mark.parametrize("model", [*(name for name in MODELS if name not in LONG), *slow(*LONG)])
def test_rows_are_called_as_the_author_of_a_model_would_call_them(model):
    with jax.numpy_rank_promotion("allow"):
        model_case = MODELS[model]()
        layout = make_plan(model_case.loss, model_case.args, {}).layout
    assert layout.names == model_case.expected
    assert len(set(layout.names)) == len(layout.names)
    files = {site.source.rpartition(":")[0] for site in layout.sites}
    assert files == {"tests/probing/named_models.py"}, "the user's own lines"


@pytest.mark.parametrize("model", ["linen_scan", *slow("linen_resnet", "nnx_transformer")])
def test_every_operation_has_a_name_of_its_own(model):
    with jax.numpy_rank_promotion("allow"):
        model_case = MODELS[model]()
        layout = make_plan(model_case.loss, model_case.args, {}, level="op").layout
    names = layout.names
    assert len(set(names)) == len(names)
    assert set(model_case.expected) <= set(names), "layers keep their names"
    ops = {site.op for site in layout.sites if site.label not in model_case.expected}
    assert not ops & RESHAPES
    assert sum("/" in name for name in names) > len(names) / 2


def test_a_row_is_placed_at_the_operation_that_counts():
    def loss(w, x):
        h = x @ w
        h = jnp.tanh(0.5 * h)  # the second line of the loss
        h = 2 * h
        return jnp.mean(h)

    first = loss.__code__.co_firstlineno
    product, tanh = make_plan(loss, (jnp.ones((3, 3)), jnp.ones((2, 3))), {}).layout.sites
    assert product.source.endswith(f":{first + 1}")
    assert tanh.source.endswith(f":{first + 2}")


def test_a_jitted_function_is_the_scope_of_what_it_is_no_name_for():
    @jax.jit
    def network(w, x):
        return jnp.tanh(x @ w)

    loss = lambda w, x: jnp.mean(network(w, x))  # noqa: E731
    sites = make_plan(loss, (jnp.ones((3, 3)), jnp.ones((2, 3))), {}).layout.sites
    assert [site.op for site in sites] == ["dot_general", "tanh"]
    assert [site.scope for site in sites] == ["network", "network"]


def test_a_scope_loses_what_transformations_add():
    assert naming.clean("jvp(Model)/Block_0/Block_0/vmap(x)/Dense_1") == "Block_0/Dense_1"


def test_a_map_over_batches_is_no_time_and_what_is_left_over_is_its_last_batch():
    def loss(p, x):
        h = jax.lax.map(lambda row: jnp.tanh(row @ p["w"]), x, batch_size=2)
        return jnp.mean(h @ p["v"])

    def names(examples):
        layout = make_plan(loss, ({"w": jnp.eye(4), "v": jnp.eye(4)}, jnp.ones((examples, 4))), {})
        return layout.layout.names

    batches = [f"{name}[batch={i}]" for i in range(2) for name in ("w", "w/tanh")]
    assert names(4) == (*batches, "v")
    assert names(5) == (*batches, "w[batch=2]", "w/tanh[batch=2]", "v")
