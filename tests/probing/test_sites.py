import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import probe

W = jnp.ones((3, 3)) / 3
OPS = ("", "/add", "/tanh")


def test_a_row_is_named_by_its_parameter_or_the_one_before_it_and_has_its_scope_and_line():
    def loss(p, x):
        with jax.named_scope("trunk"):
            x = jnp.tanh(x @ p["w"])
        return jnp.mean(jnp.tanh(x @ p["v"]))

    trace = probe(loss)({"w": W, "v": W}, W).trace
    assert trace.names == ("w", "w/tanh", "v", "v/tanh")
    assert [site.scope for site in trace.sites] == ["trunk", "trunk", "", ""]
    assert all(site.source.startswith("tests/probing/test_sites.py:") for site in trace.sites)
    assert trace.sites[1].place.startswith("tanh at test_sites.py:")


def test_loops_over_depth_and_over_time_are_told_apart():
    def loss(params, xs):
        def layer(xs, w):
            step = lambda h, x: (jnp.tanh(h @ w + x),) * 2  # noqa: E731
            return jax.lax.scan(step, jnp.zeros((2, 3)), xs)[1], None

        return jnp.mean(jax.lax.scan(layer, xs, params["cell"])[0])

    trace = probe(loss)({"cell": jnp.stack([W, W])}, jnp.ones((4, 2, 3))).trace
    expected = [f"cell[{i}]{op}[t={t}]" for i in range(2) for t in range(4) for op in OPS]
    assert list(trace.names) == expected


def test_every_operation_has_a_kind():
    def loss(p, x):
        h = x @ p["w"]
        return jnp.mean(jnp.tanh(h) + h)

    trace = probe(loss, level="op")({"w": W}, W).trace
    kinds = {site.op: site.kind for site in trace.sites}
    assert kinds["dot_general"] == "matmul"
    assert kinds["tanh"] == "nonlinearity"
    assert kinds["add"] == "residual"
    assert kinds["reduce_sum"] == "other"


def test_a_pattern_selects_rows_to_measure_and_to_check():
    def loss(p, x):
        for w in p["up"]:
            x = jnp.tanh(x @ w)
        return jnp.mean(x)

    params = {"up": [W, W]}
    probe_up = probe(loss, where="up[*]", summaries=("rms",))
    assert probe_up(params, W).trace.names == ("up[0]", "up[1]")
    check = probe_up.check(params, W, rows="up[1]")
    assert {number.row for number in check.numbers} == {"up[1]"}
    assert check.worst < 1e-5
    with pytest.raises(ValueError, match=r"where is 'up\[2\]', which matches no row"):
        probe(loss, where="up[2]")(params, W)
    with pytest.raises(ValueError, match=r"rows is '\*\*/relu', which matches no row"):
        probe_up.check(params, W, rows="**/relu")
