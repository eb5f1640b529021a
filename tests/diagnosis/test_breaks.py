import inspect

import jax
import jax.numpy as jnp
import pytest

from vanishing.diagnosis import diagnose, remedies
from vanishing.probing import probe

W = jax.random.normal(jax.random.key(0), (8, 8))
X = jax.random.normal(jax.random.key(1), (4, 8))


def finding_of(loss, *args, **settings):
    (finding,) = diagnose(probe(loss, **settings)(*args).trace).findings
    assert finding.kind == "non_finite"
    return finding


def line_of(function):
    return f"test_breaks.py:{inspect.unwrap(function).__code__.co_firstlineno}"


LOG = lambda w, x: jnp.mean(jnp.log(x @ w))  # noqa: E731
LOG_OF_A_PARAMETER = lambda w, x: jnp.mean(jnp.log(w))  # noqa: E731
ROOT_OF_NOTHING = lambda w, x: jnp.mean(jnp.sqrt(jnp.maximum(x @ w, 0)) @ w)  # noqa: E731
BY_NOTHING = lambda w, x: jnp.mean(jnp.tanh(x @ w) / (x * 0.0))  # noqa: E731
OVERFLOW = lambda w, x: jnp.mean(jnp.exp(1e3 * x @ w))  # noqa: E731


@pytest.mark.parametrize(
    ("loss", "op", "remedy"),
    [
        (LOG, "log", remedies.GUARD),
        (LOG_OF_A_PARAMETER, "log", remedies.GUARD),
        (ROOT_OF_NOTHING, "sqrt", remedies.GUARD),
        (BY_NOTHING, "div", remedies.GUARD),
        (OVERFLOW, "exp", remedies.SMALLER),
    ],
)
@pytest.mark.parametrize("level", ["layer", "op"])
def test_the_operation_that_made_the_first_of_them_is_named_with_its_line(loss, op, remedy, level):
    finding = finding_of(loss, W, X, level=level)
    assert finding.evidence["made_by"] == f"{op} at {line_of(loss)}"
    assert f"{op} at {line_of(loss)}" in str(finding)
    assert finding.remedies == (remedy,)


def test_a_loss_that_is_nan_after_finite_rows_says_so():
    finding = finding_of(LOG, W, X)
    assert finding.where == "the loss"
    assert finding.says.startswith("the loss is nan, though every row is finite; made by log at")


def test_a_parameter_that_holds_nan_is_named_itself():
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p[0]) @ p[1])  # noqa: E731
    finding = finding_of(loss, [W, W.at[0, 0].set(jnp.nan)], X)
    assert (finding.where, finding.remedies) == ("[1]", (remedies.CHECK_STEP,))
    assert finding_of(loss, [W * jnp.nan, W], X).where == "[0]"


def test_data_that_hold_nan_are_thought_of():
    finding = finding_of(lambda w, x: jnp.mean(jnp.tanh(x @ w)), W, X * jnp.nan)
    assert "dot_general at" in finding.says
    assert "or already in what it takes in" in finding.says
    assert remedies.CHECK_DATA in finding.remedies


def test_of_several_suspects_all_are_named():
    finding = finding_of(lambda w, x: jnp.mean(jnp.log(jnp.sqrt(x @ w))), W, X)
    assert "sqrt or log at test_breaks.py:" in finding.says
    assert "level='op' tells which" in finding.says


def test_one_parameter_is_spoken_of_in_the_singular():
    loss = lambda p, x: jnp.mean(x @ p["w"])  # noqa: E731
    (finding,) = diagnose(probe(loss)({"w": W, "v": W}, X).trace).findings
    assert str(finding).startswith(
        "dead gradient at v (high): 1 of 2 parameter arrays has no effect on the loss"
    )


def normed(norm):
    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ (params["v"] / norm(params["v"]))) @ params["w"]) ** 2)

    return loss


ROOT = lambda v: jnp.sqrt(jnp.sum(v**2, axis=0, keepdims=True)) + 1e-8  # noqa: E731


def test_a_gradient_that_breaks_on_the_way_from_its_layer_to_the_parameter_is_found():
    params = {"v": W.at[:, 3].set(0.0), "w": W}
    loss = normed(ROOT)
    finding = finding_of(loss, params, X)
    assert finding.where == "v"
    assert f"sqrt at {line_of(ROOT)}" in finding.evidence["made_by"]
    value, grads = jax.value_and_grad(loss)(params, X)
    assert jnp.isfinite(value)
    assert [name for name, grad in grads.items() if jnp.isnan(grad).any()] == ["v"]
    safe = normed(lambda v: jnp.sqrt(jnp.sum(v**2, axis=0, keepdims=True) + 1e-12))
    assert diagnose(safe)(params, X).findings == ()


def absorbed(w, x):
    """A root whose slope at 0 meets a rectifier, whose own rule throws it away."""
    h = jax.nn.relu(x @ w)
    return jnp.mean(jnp.where(h > 1, jnp.sqrt(h), h) @ w)


def masked(w, x):
    scores = jnp.where(jnp.tri(4, dtype=bool), (x @ w) @ x.T, -jnp.inf)
    return jnp.mean((jax.nn.softmax(scores) @ x) ** 2)


@pytest.mark.parametrize("loss", [absorbed, masked])
@pytest.mark.parametrize("level", ["layer", "op"])
def test_what_reaches_neither_loss_nor_gradient_is_no_finding(loss, level):
    diagnosis = diagnose(loss, level=level)(W, X)
    trace = diagnosis.trace
    assert (
        (trace.forward.non_finite > 0).any()
        or (trace.backward.non_finite > 0).any()
        or (level == "layer")
    )
    assert jnp.isfinite(jax.grad(loss)(W, X)).all()
    assert [f for f in diagnosis.findings if f.kind == "non_finite"] == []


def test_a_mask_does_not_hide_where_a_nan_is_made():
    def loss(w, x):
        return masked(w, x) + jnp.mean(jnp.sqrt(jnp.maximum(x @ w, 0)) @ w)

    finding = finding_of(loss, W, X, level="op")
    assert finding.evidence["made_by"].startswith("sqrt at ")


@jax.custom_vjp
def without_slope(x):
    return 2 * x


without_slope.defvjp(lambda x: (2 * x, None), lambda _, g: (0 * g,))
V = jnp.full((1, 8), 0.7)


@pytest.mark.parametrize(
    ("loss", "name", "cause"),
    [
        (lambda p: jnp.mean((X @ p["w"] - 1) ** 2) + 0 * p["v"].sum(), "v", "flat"),
        (lambda p: jnp.mean((X @ p["w"] * jnp.clip(p["v"] + 9, -1, 1) - 1) ** 2), "v", "flat"),
        (lambda p: jnp.mean((X @ p["w"] + jnp.where(p["v"] > 9, p["v"], 1)) ** 2), "v", "flat"),
        (lambda p: jnp.mean((X @ p["w"] * jax.nn.softmax(p["v"], 0) - 1) ** 2), "v", "flat"),
        (lambda p: jnp.mean((X @ p["w"] + without_slope(p["v"])) ** 2), "v", "stopped"),
        (lambda p: jnp.mean((X @ without_slope(p["w"]) + p["v"]) ** 2), "w", "stopped"),
    ],
)
def test_no_gradient_of_exactly_0_gets_a_clean_bill(loss, name, cause):
    params = {"w": W, "v": V}
    assert not jax.grad(loss)(params)[name].any()
    (told,) = diagnose(loss)(params).findings
    assert (told.kind, told.cause, told.where) == ("dead_gradient", cause, name)
    assert told.at.startswith("tests/diagnosis/test_breaks.py:")


def test_a_branch_that_was_not_taken_is_a_remark():
    def loss(p):
        return jax.lax.cond(p["v"].sum() > 99, lambda: p["v"].sum(), lambda: jnp.mean(X @ p["w"]))

    diagnosis = diagnose(loss)({"w": W, "v": V})
    assert diagnosis.findings == ()
    assert diagnosis.remarks == ("v has no gradient: the branch that it is used in was not taken",)
