import typing
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing.probing import (
    SUMMARIES,
    BackwardSummary,
    ForwardSummary,
    ParamNorms,
    Trace,
    probe,
)
from vanishing.probing.layout import Layout
from vanishing.probing.trace import _COLUMNS


def loss(params, x):
    for layer in params["layers"]:
        x = jnp.tanh(x @ layer["w"])
    return jnp.mean(x**2)


PARAMS = {"layers": [{"w": jnp.eye(3)}, {"w": 2 * jnp.eye(3)}], "unused": jnp.ones(2)}
X = jnp.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture(scope="module")
def trace():
    return probe(loss, summaries=SUMMARIES)(PARAMS, X).trace


def test_a_dataset_holds_every_number_with_its_place(trace):
    dataset = trace.to_xarray()
    assert dataset.row.values.tolist() == list(trace.names)
    np.testing.assert_array_equal(dataset.backward_rms, trace.backward.rms)
    np.testing.assert_array_equal(dataset.forward_similarity, trace.forward.similarity)
    assert dataset.op.values.tolist() == ["dot_general", "tanh"] * 2
    weights = dataset.weight_norm.sel(parameter="layers[1].w")
    np.testing.assert_allclose(weights, np.sqrt(12), rtol=1e-6)
    stack = jax.vmap(lambda x: probe(loss)(PARAMS, x[None]).trace)(X)
    assert stack.to_xarray().backward_rms.dims == ("batch_0", "row")


def test_the_table_shows_what_there_is_in_forward_order(trace):
    lines = str(trace).splitlines()
    assert lines[0].startswith("loss 0.")
    assert [line.split()[0] for line in lines[2:]] == list(trace.names)
    assert "similar" in lines[1]
    assert "\x1b" not in str(trace)
    plain = probe(loss)(PARAMS, X).trace
    assert "similar" not in str(plain)
    assert trace._repr_html_().count("<tr>") == len(trace) + 1


def test_nan_is_said_and_what_was_not_recorded_is_left_blank():
    def loss(w, x):
        h = jax.lax.cond(w[0] > 0, lambda h: jnp.tanh(h * w[1]), lambda h: jnp.sin(h * w[2]), x)
        return jnp.mean(jnp.cos(jnp.log(h) * w[3]))

    trace = probe(loss)(jnp.ones(4), jnp.array([-0.5, 0.5])).trace
    header, rows = trace._cells()
    rms = {row[header.index("op")]: row[header.index("rms")] for row in rows}
    assert str(trace).startswith("loss nan, ")
    assert (rms["sin"], rms["cos"]) == ("", "nan")
    assert float(rms["tanh"]) > 0


def test_it_is_a_tree(trace):
    leaves, structure = jax.tree.flatten(trace)
    assert all(hasattr(leaf, "shape") for leaf in leaves)
    chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), trace)
    copy = jax.jit(lambda t: t)(trace)
    assert copy.names == trace.names
    assert hash(structure) == hash(jax.tree.structure(copy))


def test_an_editor_knows_the_type_of_every_field(trace):
    hints = typing.get_type_hints(Trace)
    assert (hints["forward"], hints["backward"]) == (ForwardSummary, BackwardSummary)
    assert (hints["params"], hints["layout"]) == (ParamNorms, Layout)
    for name in ("forward", "backward", "params", "layout"):
        assert isinstance(getattr(trace, name), hints[name])
    assert Trace.plot.__annotations__["return"] == "Figure"
    assert Trace.to_xarray.__annotations__["return"] == "xarray.Dataset"


def test_it_is_rebuilt_with_anything_in_the_place_of_arrays(trace):
    names = jax.tree.map(lambda leaf: "any", trace)
    assert isinstance(names, Trace)
    assert names.value == names.forward.rms == "any"
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trace)]
    assert {".forward.rms", ".backward.zeros", ".params.update", ".value"} <= set(paths)


def test_a_stack_is_shown_by_its_median_and_nan_counts_for_nothing(trace):
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf, jnp.nan * leaf]), trace)
    single = stack.single()
    np.testing.assert_allclose(single.backward.rms, 2 * trace.backward.rms, rtol=1e-6)
    assert "median of 3" in str(stack)


def test_parameters_without_a_gradient_are_marked(trace):
    reach = {leaf.label: leaf.reach for leaf in trace.layout.leaves}
    assert reach == {"layers[0].w": "used", "layers[1].w": "used", "unused": "unused"}


def test_it_annotates_and_plots_itself(trace):
    assert "x = jnp.tanh(x @ layer" in trace.annotate()
    assert len(trace.plot().axes) == 2


def test_steps_that_a_padded_loop_leaves_out_are_not_shown():
    def loss(w, x, steps):
        def step(h, i):
            return jax.lax.cond(i < steps, lambda h: jnp.tanh(h @ w), lambda h: h, h), None

        return jnp.mean(jax.lax.scan(step, x, jnp.arange(5))[0] ** 2)

    trace = probe(loss)(jnp.eye(2), jnp.ones((3, 2)), 2).trace
    assert [len(trace), int(trace.ran().sum())] == [10, 4]
    assert "4 rows of 10; the others are steps that did not run" in str(trace)
    assert "[t=1]" in str(trace)
    assert "[t=2]" not in str(trace)


def test_a_row_that_is_not_finite_ran():
    trace = probe(lambda w, x: jnp.sum(jnp.tanh(x @ w)))(
        jnp.eye(2), jnp.full((3, 2), jnp.nan)
    ).trace
    assert trace.ran().all()


def test_long_repeats_are_elided_but_for_where_numbers_break(trace):
    def loss(w, x):
        step = lambda h, i: (jnp.tanh(h @ w) / (i - 20.0), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, x, jnp.arange(40.0))[0])

    long = probe(loss)(jnp.eye(3), X).trace
    assert len(long) == 80
    assert len(str(long).splitlines()) < 30
    assert "every_row=True" in str(long)
    assert "w[t=21] " in str(long)  # what broke in the step before
    assert len(long.table(every_row=True).splitlines()) == 82
    assert long._repr_html_().count("<tr>") < 30
    assert trace.table(every_row=True) == str(trace)


def test_a_repr_is_one_short_line(trace):
    probed = probe(loss)(PARAMS, X)
    assert repr(probed.trace).startswith("Trace(loss 0.")
    assert repr(probed) == f"Probed(gradients of 3 arrays, {probed.trace!r})"
    assert repr(trace.budget()).startswith("Budget(Of the ")
    assert len(repr(jax.tree.structure(trace))) < 300
    assert "without numbers" in repr(jax.tree.map(lambda leaf: None, trace))


def test_every_column_is_explained_in_the_legend_and_where_users_look(trace):
    readme = (Path(__file__).parents[2] / "vanishing" / "README.md").read_text()
    assert {line.split("  ")[1] for line in trace.legend().splitlines()} >= {
        "similar",
        "dead",
        "at",
    }
    for column in _COLUMNS:
        assert f"`{column}`" in readme
        assert f"`{column.partition(' ')[0]}" in Trace.__doc__.replace("not finite", "not")


def test_updates_that_are_not_like_the_parameters_are_refused():
    def loss(p, x):
        h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]
        return jnp.mean(h @ p["o"])

    probed = probe(loss)({"w": jnp.ones((3, 2, 2)), "o": jnp.eye(2)}, jnp.ones((2, 2)))
    updates = probed.trace.with_updates
    assert_refuses(lambda: updates(()), "updates is 0; it must be 2", "o, w[:]")
    assert_refuses(lambda: updates((probed.grads, probed.grads)), "is 4; it must be 2")
    wrong = {"o": jnp.eye(2), "w": jnp.eye(2)}
    assert_refuses(lambda: updates(wrong), "shape (2, 2) for w[:]", "begin with (3,)")
    assert updates(probed.grads).params.update.shape == (4,)
