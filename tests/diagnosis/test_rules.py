import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import assert_refuses, slow
from vanishing.diagnosis import diagnose, remedies
from vanishing.probing import probe


def linear(depth, factor, width=8):
    """A chain of orthogonal matrices times a factor: the gradient shrinks by just that a layer."""
    weights = factor * jax.random.orthogonal(jax.random.key(0), width, (depth,))
    head = jnp.eye(width)

    def loss(params):
        x = jnp.eye(width)
        x = jax.lax.scan(lambda x, w: (x @ w, None), x, params["hidden"])[0]
        return jnp.mean((x @ params["head"] - 1) ** 2)

    return probe(loss)({"hidden": weights, "head": head}).trace


@pytest.mark.parametrize("factor", [0.5, 2.0, *slow(0.25)])
def test_the_fit_finds_the_factor_of_a_layer(factor):
    (finding,) = [
        f for f in diagnose(linear(20, factor)).findings if f.kind in ("vanishing", "exploding")
    ]
    assert finding.kind == ("vanishing" if factor < 1 else "exploding")
    assert finding.where == "hidden[0]"
    assert finding.evidence["factor_a_layer"] == pytest.approx(factor, rel=1e-4)
    assert finding.evidence["r_squared"] == pytest.approx(1)
    assert finding.evidence["first_over_last_layer"] == pytest.approx(factor**19, rel=1e-3)
    assert str(finding).count("\n") == len(finding.remedies) >= 2


def test_a_chain_that_keeps_the_gradient_is_healthy():
    diagnosis = diagnose(linear(100, 1.0))
    assert diagnosis.findings == ()
    assert "Nothing found" in str(diagnosis)


def test_a_trace_that_shows_nothing_gets_no_clean_bill():
    @jax.custom_vjp
    def hidden(w, x):
        return x @ w

    hidden.defvjp(lambda w, x: jax.vjp(hidden.fun, w, x), lambda back, ct: back(ct))
    loss = lambda w, x: jnp.mean(hidden(w, x) ** 2)  # noqa: E731
    part = probe(lambda w, x: loss(w, x @ w))(jnp.eye(4), jnp.ones((2, 4))).trace
    probe_without_rows = probe(lambda w, x: loss(w, x @ w), where=lambda site: False)
    opaque = diagnose(part)
    empty = diagnose(probe_without_rows(jnp.eye(4), jnp.ones((2, 4))).trace)
    assert opaque.findings == empty.findings == ()
    assert str(opaque).startswith("Nothing found in 2 rows and 1 parameter of what was recorded.")
    assert "Not recorded: what is inside of hidden at" in str(opaque)
    assert str(empty).startswith("Nothing could be judged")
    assert "Not recorded: any row, since where is true for none" in str(empty)


def test_the_worst_comes_first_and_remedies_name_their_source():
    findings = diagnose(linear(60, 0.3)).findings
    order = [finding.severity for finding in findings]
    assert order == sorted(order)
    assert order[0] == "high"
    assert all(remedy.source for finding in findings for remedy in finding.remedies)


@pytest.mark.slow
def test_a_stack_of_traces_is_judged_by_its_median():
    def loss(scale):
        w = jax.random.orthogonal(jax.random.key(0), 8, (20,))
        x = jax.lax.scan(lambda x, w: (x @ w * scale, None), jnp.eye(8), w)[0]
        return jnp.mean((x - 1) ** 2)

    def trace(scale):
        return probe(lambda w: loss(w.mean()))(jnp.full(4, scale)).trace

    traces = jax.vmap(trace)(jnp.array([1.0, 1.0, 1e-3]))
    assert np.ndim(traces.value) == 1
    assert diagnose(traces).findings == diagnose(trace(1.0)).findings


def test_one_bad_member_of_a_stack_is_not_hidden_by_the_median():
    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w))

    weights = jnp.stack([jnp.eye(4), jnp.eye(4), jnp.full((4, 4), jnp.nan)])
    trace = jax.vmap(probe(loss), (0, None))(weights, jnp.ones((2, 4))).trace
    (finding,) = diagnose(trace).findings
    assert (finding.kind, finding.evidence["elements"]) == ("non_finite", 8)
    assert "median of 3, 1 not finite" in str(trace)


def test_a_forgotten_stop_gradient_is_one_finding_with_its_line():
    def loss(params, x):
        for i, w in enumerate(params):
            x = jnp.tanh(x @ w)
            x = jax.lax.stop_gradient(x) if i == 1 else x
        return jnp.mean(x**2)

    trace = probe(loss)([jnp.eye(4)] * 3, jnp.ones((2, 4))).trace
    (finding,) = [f for f in diagnose(trace).findings if f.kind == "dead_gradient"]
    assert finding.where == "[0], [1]"
    assert finding.severity == "high"
    line = loss.__code__.co_firstlineno + 3
    assert finding.evidence["stop_gradient_at"] == f"tests/diagnosis/test_rules.py:{line}"
    assert finding.remedies[0].action.startswith("take stop_gradient")


@pytest.mark.parametrize("shift", [0.0, 200.0])
def test_a_nonlinearity_without_a_slope_anywhere_is_named(shift):
    def loss(params, x):
        for i, w in enumerate(params):
            x = jax.nn.sigmoid(x @ w + (shift if i == 2 else 0))
        return jnp.mean(x**2)

    weights = list(jax.random.normal(jax.random.key(0), (5, 8, 8)))
    trace = probe(loss)(weights, jax.random.normal(jax.random.key(1), (16, 8))).trace
    gradient = jax.grad(loss)(weights, jnp.ones((16, 8)))
    findings = [f for f in diagnose(trace).findings if f.kind == "dead_gradient"]
    assert bool(findings) == (not gradient[1].any()) == (shift > 0)
    if findings:
        assert findings[0].where == "[2]/sigmoid"
        assert findings[0].severity == "high"


def test_a_gradient_that_underflows_is_vanishing_and_not_dead():
    def loss(w, x):
        return jnp.mean(jax.lax.scan(lambda h, _: (jax.nn.sigmoid(h @ w), None), x, length=200)[0])

    trace = probe(loss)(jnp.eye(4), jnp.ones((2, 4))).trace
    assert (trace.backward.rms == 0).any()
    assert [f.kind for f in diagnose(trace).findings] == ["vanishing"]


def test_a_trace_says_that_it_has_no_numbers_inside_of_jit():
    def inside(x):
        trace = probe(lambda w: jnp.sum(jnp.tanh(w)))(x).trace
        assert "without numbers inside of jit" in str(trace)
        return diagnose(trace).findings

    assert_refuses(lambda: jax.jit(inside)(jnp.ones(3)), "return it from there")
    check = probe(lambda w: jnp.sum(jnp.tanh(w))).check
    assert_refuses(lambda: jax.jit(check)(jnp.ones(3)), "outside of jit")


def attention(scale):
    q, k, v, head = jax.random.normal(jax.random.key(0), (4, 64, 64)) / 8
    x = jax.random.normal(jax.random.key(1), (2, 12, 64))

    def loss(params):
        q, k, v, head = params
        weights = jax.nn.softmax(scale * (x @ q) @ (x @ k).swapaxes(1, 2))
        return jnp.mean(((x + weights @ (x @ v)) @ head) ** 2)

    return loss, (q, k, v, head), x


def test_attention_that_sees_one_token_alone_is_saturated():
    loss, params, x = attention(4.0)
    (finding,) = diagnose(loss)(params).findings
    assert (finding.kind, finding.remedies[0]) == ("saturated", remedies.SCORES)
    weights = jax.nn.softmax(4 * (x @ params[0]) @ (x @ params[1]).swapaxes(1, 2))
    expected = jnp.mean(jnp.sum(weights**2, -1))
    assert finding.evidence["concentration"] == pytest.approx(float(expected), rel=1e-4)
    mended, *_ = attention(1 / 8)
    assert diagnose(mended)(params).findings == ()


def test_updates_that_a_narrow_dtype_rounds_away_are_found():
    dtype = jnp.bfloat16
    w = (jax.random.normal(jax.random.key(0), (64, 64)) / 8).astype(dtype)
    x = jax.random.normal(jax.random.key(1), (32, 64)).astype(dtype)
    loss = lambda w: jnp.mean(jnp.tanh(x @ w).astype(jnp.float32) ** 2)  # noqa: E731
    optimizer = optax.adam(2e-5)
    (finding,) = diagnose(loss, optimizer=optimizer)(w).findings
    assert (finding.kind, finding.where) == ("precision", "w")
    updates, _ = optimizer.update(jax.grad(loss)(w), optimizer.init(w), w)
    assert jnp.mean(w + updates == w) > 0.9
    wide = w.astype(jnp.float32)
    cast = lambda w: loss(w.astype(dtype))  # noqa: E731
    assert diagnose(cast, optimizer=optimizer)(wide).findings == ()
    moved = optax.apply_updates(
        wide, optimizer.update(jax.grad(cast)(wide), optimizer.init(wide))[0]
    )
    assert jnp.mean(moved == wide) < 0.1


def test_layers_without_a_nonlinearity_between_are_remarked_on():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    drawn = [jax.random.normal(jax.random.key(i), (8, 8)) / 8**0.5 for i in (1, 2, 3)]
    params = dict(zip(("a", "b", "c"), drawn, strict=True))
    loss = lambda p, x: jnp.mean((jnp.tanh(x @ p["a"] @ p["b"]) @ p["c"]) ** 2)  # noqa: E731
    diagnosis = diagnose(loss)(params, x)
    assert diagnosis.findings == ()
    (remark,) = diagnosis.remarks
    assert remark.startswith("a and b follow one another")
    assert f"Note: {remark}." in str(diagnosis)
