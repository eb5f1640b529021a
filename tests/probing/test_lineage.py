import jax
import jax.numpy as jnp

from vanishing.probing import probe
from vanishing.probing.plan import make_plan

W = {"a": jnp.eye(3), "b": jnp.eye(3)}


def parents(loss, *args):
    trace = probe(loss)(W, *args).trace
    return {
        trace.names[row]: [trace.names[p] for p in instance.parents]
        for row, instance in enumerate(trace.layout.instances)
    }


def test_a_recurrence_comes_from_the_step_before():
    def loss(p, xs):
        step = lambda h, x: (h @ p["a"] + x, None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, jnp.zeros((1, 3)), xs)[0] @ p["b"])

    lineage = parents(loss, jnp.ones((3, 1, 3)))
    assert lineage == {"a[t=0]": [], "a[t=1]": ["a[t=0]"], "a[t=2]": ["a[t=1]"], "b": ["a[t=2]"]}


def test_a_reversed_scan_runs_from_its_last_index():
    def loss(p, xs):
        step = lambda h, x: (h @ p["a"] + x, None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, jnp.zeros((1, 3)), xs, reverse=True)[0] @ p["b"])

    lineage = parents(loss, jnp.ones((3, 1, 3)))
    assert lineage == {"a[t=2]": [], "a[t=1]": ["a[t=2]"], "a[t=0]": ["a[t=1]"], "b": ["a[t=0]"]}


def test_what_one_scan_stacks_another_takes_apart():
    def loss(p, xs):
        step = lambda h, x: (h, x @ p["a"])  # noqa: E731
        ys = jax.lax.scan(step, 0.0, xs)[1]
        total, _ = jax.lax.scan(lambda h, y: (h + jnp.sum(y @ p["b"]), None), 0.0, ys)
        return total

    lineage = parents(loss, jnp.ones((2, 1, 3)))
    assert lineage["b[t=0]"] == ["a[batch=0]"]
    assert lineage["b[t=1]"] == ["a[batch=1]"]


def test_a_residual_sum_comes_from_both_and_a_branch_from_either():
    def loss(p, x):
        h = x @ p["a"]
        h = h + jnp.tanh(h @ p["b"])
        h = jax.lax.cond(x[0, 0] > 0, jnp.sin, lambda h: h, h)
        return jnp.sum(h @ p["a"])

    trace = probe(loss)(W, jnp.ones((1, 3))).trace
    ops = [site.op for site in trace.sites]
    rows = {op: row for row, op in enumerate(ops)}
    assert trace.layout.instances[rows["add"]].parents == (0, rows["tanh"])
    last = trace.layout.instances[len(ops) - 1].parents
    assert set(last) == {rows["add"], rows["sin"]}


def test_a_map_over_nothing_has_no_rows_and_takes_no_part():
    def loss(p, xs):
        mapped = jax.lax.map(lambda x: jnp.tanh(x @ p["a"]), xs)
        return jnp.sum(mapped @ p["b"]) + jnp.sum(jnp.ones((2, 3)) @ p["c"])

    params = {name: jnp.eye(3) for name in "abc"}
    layout = make_plan(loss, (params, jnp.zeros((0, 2, 3))), {}).layout
    assert all(row.parents == () for row in layout.instances)
    assert "a" not in layout.names
