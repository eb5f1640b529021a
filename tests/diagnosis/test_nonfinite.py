import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vanishing.diagnosis import diagnose, remedies

W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (8, 4))
CAUSAL = jnp.tri(8, dtype=bool)


def finding_of(loss, *args, **settings):
    """The first finding, of a loss that plain JAX finds broken."""
    value, grads = jax.value_and_grad(loss)(*args)
    assert not all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, grads)))
    return diagnose(loss, **settings)(*args).findings[0]


def line_of(function, after=0):
    first = inspect.unwrap(function).__code__.co_firstlineno
    return f"test_nonfinite.py:{first + after}"


LOG = lambda w, x: jnp.mean(jnp.log(x @ w))  # noqa: E731
ROOT = lambda w, x: jnp.mean(jnp.sqrt(jnp.maximum(x @ w, 0)) @ w)  # noqa: E731
DIVISION = lambda w, x: jnp.mean(jnp.tanh(x @ w) / (x * 0.0))  # noqa: E731


@pytest.mark.parametrize(
    ("loss", "cause", "why", "advice"),
    [
        (LOG, "singular_value", "log of 0 or less", "log(x + 1e-6)"),
        (ROOT, "singular_slope", "the derivative of sqrt at 0", "add 1e-12 under the root"),
        (DIVISION, "singular_value", "a division by 0", "add 1e-12 to the divisor"),
    ],
)
@pytest.mark.parametrize("level", ["layer", "op"])
def test_an_operation_at_its_singular_point_is_told_with_what_to_write(
    loss, cause, why, advice, level
):
    told = finding_of(loss, W, X, level=level)
    assert (told.kind, told.severity, told.cause) == ("non_finite", "high", cause)
    assert f"{why} at {line_of(loss)}" in told.says
    assert told.at == f"tests/diagnosis/{line_of(loss)}"
    assert told.remedies[0].action.startswith(f"at {line_of(loss)}: {advice}")
    assert told.evidence["first_seen"] == ("backward" if cause == "singular_slope" else "forward")


def test_the_branch_of_a_where_that_is_not_taken_has_its_own_remedy():
    loss = lambda w, x: jnp.mean(jnp.where(w > 0, jnp.sqrt(w), 0.0) * x[:4])  # noqa: E731
    told = finding_of(loss, jnp.maximum(W, 0), X)
    assert (told.cause, told.remedies) == ("untaken_branch", (remedies.DOUBLE_WHERE,))
    assert "in the branch of a jnp.where that is not taken" in told.says
    healed = lambda w: jnp.mean(jnp.where(w > 0, jnp.sqrt(jnp.where(w > 0, w, 1.0)), w))  # noqa: E731
    assert diagnose(healed)(jnp.maximum(W, 0)).findings == ()


def test_data_are_named_and_not_an_operation():
    loss = lambda w, images: jnp.mean(jnp.tanh(images @ w) ** 2)  # noqa: E731
    told = finding_of(loss, W, X.at[2, 1].set(jnp.nan))
    assert (told.cause, told.remedies) == ("data", (remedies.CHECK_DATA,))
    assert "images holds inf or nan" in told.says
    assert told.evidence["made_by"] == "images"


def test_a_parameter_is_named_and_not_an_operation():
    told = finding_of(LOG, W.at[0, 0].set(jnp.inf), X)
    assert (told.kind, told.remedies) == ("non_finite", (remedies.CHECK_STEP,))
    assert told.says == "this parameter holds inf or nan before any operation"


def attention(mask, before=lambda h: h):
    def loss(w, x):
        scores = jnp.where(mask, before(x @ w) @ x.T, -jnp.inf)
        return jnp.mean((jax.nn.softmax(scores) @ x) ** 2)

    return loss


def test_a_row_that_a_mask_leaves_nothing_to_look_at_is_the_masks():
    told = finding_of(attention(CAUSAL.at[0].set(False)), W, X)
    assert (told.cause, told.remedies) == ("mask", (remedies.MASK,))
    assert "makes nan of the -inf of a mask" in told.says
    assert line_of(attention, 3) in told.says


def test_a_nan_that_a_healthy_mask_stands_beside_is_not_the_masks():
    root = lambda h: jnp.sqrt(h)  # noqa: E731
    told = finding_of(attention(CAUSAL, root), W, X)
    assert (told.cause, told.at) == ("singular_value", f"tests/diagnosis/{line_of(root)}")


def test_a_nan_that_a_mask_among_the_arguments_stands_beside_is_not_the_data_s():
    def loss(w, x, bias):
        return jnp.mean((jax.nn.softmax(bias + jnp.sqrt(x @ w) @ x.T) @ x) ** 2)

    bias = jnp.where(CAUSAL, 0.0, -jnp.inf)
    assert finding_of(loss, W, X, bias).cause == "singular_value"


def test_a_label_beyond_its_axis_is_an_index():
    labels = jnp.arange(8) % 5  # of 4 classes

    def loss(w, x):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ w, labels))

    told = finding_of(loss, W, X)
    assert (told.cause, told.remedies) == ("index", (remedies.INDEX,))
    assert f"an index beyond its array at {line_of(loss, 1)}" in told.says


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        (jnp.float32, "88.7"),
        (jnp.float16, "11.1"),
        (jnp.bfloat16, "88.7"),
    ],
)
def test_an_exponential_says_of_what_and_how_much_its_dtype_allows(dtype, limit):
    loss = lambda w, x: jnp.mean(jnp.exp(x @ w))  # noqa: E731
    w, x = (50 * W).astype(dtype), X.astype(dtype)
    told = finding_of(loss, w, x)
    assert (told.kind, told.cause) == ("non_finite", "overflow")
    np.testing.assert_allclose(float(limit), np.log(float(jnp.finfo(dtype).max)), rtol=2e-3)
    assert f"where {np.dtype(dtype).name} allows {limit}" in told.says
    largest = float(told.says.partition("exp of ")[2].split()[0])
    np.testing.assert_allclose(largest, np.abs(np.asarray(x @ w, float)).max(), rtol=0.05)
    assert told.remedies[0].action.startswith(f"at {line_of(loss)}: keep what exp takes in bounded")


def test_a_product_beyond_float16_is_a_matter_of_the_dtype():
    w, x = (30 * W).astype(jnp.float16), (30 * X).astype(jnp.float16)
    loss = lambda w, x: jnp.mean(jnp.tanh(x @ w) / 9 + (x @ w) * (x @ w))  # noqa: E731
    assert jnp.isfinite(x @ w).all()
    told = finding_of(loss, w, x)
    assert (told.kind, told.cause) == ("precision", "overflow")
    assert told.remedies == (remedies.WIDER, remedies.SMALLER)
    assert "6.6e+04, the largest number of float16" in told.says
    assert jnp.isfinite(loss(w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)))


def test_a_product_beyond_float32_is_an_explosion():
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p["a"]) + x @ p["a"] @ p["b"] * 1e30)  # noqa: E731
    told = finding_of(loss, {"a": 1e5 * W, "b": 1e5 * W}, X)
    assert (told.kind, told.cause) == ("exploding", "growth")
    assert told.remedies == (remedies.SCALE, remedies.SMALLER)


def recurrent(w, x):
    step = lambda h, _: (h @ w, None)  # noqa: E731
    return jnp.mean(jax.lax.scan(step, x, length=100)[0])


def test_a_state_that_grows_says_by_how_much_a_step():
    told = finding_of(recurrent, 3 * jnp.eye(4), X)
    powers = 3.0 ** np.arange(1, 101) * np.abs(X).max()
    last = int(np.sum(powers < np.finfo(np.float32).max))  # steps that are finite
    assert (told.kind, told.cause) == ("exploding", "growth")
    assert told.remedies == (remedies.ORTHOGONAL, remedies.GATE, remedies.SMALLER)
    np.testing.assert_allclose(told.evidence["factor_a_step"], 3, rtol=1e-3)
    assert told.evidence["steps"] in (last, last - 1)  # its mean square may overflow a step before
    assert f"{line_of(recurrent, 1)}[{last}]" in told.says
    assert "after a growth by 3 a step" in told.says


def test_a_gradient_that_grows_on_the_way_back_says_so_too():
    """The state of 0 stays 0, and the gradient grows from the last step to the first."""
    told = finding_of(recurrent, 3 * jnp.eye(4), 0 * X)
    assert (told.cause, told.evidence["first_seen"]) == ("growth", "backward")
    np.testing.assert_allclose(told.evidence["factor_a_step"], 3, rtol=1e-3)


def test_it_is_said_how_far_it_goes():
    half = lambda p, x: jnp.mean(jnp.log(p["a"] * 0) * 0) + jnp.mean(x @ p["b"])  # noqa: E731
    params = {"a": W, "b": W}
    grads = jax.grad(half)(params, X)
    assert [bool(jnp.isfinite(grads[name]).all()) for name in "ab"] == [False, True]
    assert "it reaches the gradients of 1 of 2 parameters" in finding_of(half, params, X).says
    constant = lambda p, x: jnp.mean(jnp.tanh(x @ p["a"]) @ p["b"]) + jnp.log(x[0, 0] * 0)  # noqa: E731
    assert "every gradient is finite" in finding_of(constant, params, X).says


def test_of_several_births_on_the_way_back_each_is_told_once():
    def loss(p, x):
        return jnp.sum(jnp.sqrt(p["a"])) + jnp.sum(jnp.cbrt(p["b"])) + jnp.mean(x)

    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 2))}
    found = [f for f in diagnose(loss)(params, X).findings if f.kind == "non_finite"]
    assert sorted(f.evidence["made_by"] for f in found) == [
        f"cbrt at {line_of(loss, 1)}",
        f"sqrt at {line_of(loss, 1)}",
    ]


@pytest.mark.parametrize("function", [jnp.linalg.cholesky, lambda m: jnp.linalg.inv(m - m)])
def test_a_matrix_without_a_root_or_an_inverse_is_no_overflow(function):
    loss = lambda w: jnp.sum(function(w - 9 * jnp.eye(4)))  # noqa: E731
    told = finding_of(loss, W + W.T)
    assert (told.kind, told.cause) == ("non_finite", "singular_value")


@jax.custom_vjp
def own_log(x):
    return jnp.log(x)


own_log.defvjp(lambda x: (jnp.log(x), x), lambda x, g: (g / x,))


def test_a_function_with_its_own_derivative_is_no_overflow():
    told = finding_of(lambda w: jnp.sum(own_log(w)), -jnp.abs(W))
    assert "goes beyond" not in told.says


def test_a_square_that_overflows_is_no_power_of_0():
    loss = lambda w, x: jnp.mean(jnp.tanh(x @ w) + (x @ w) ** 2)  # noqa: E731
    told = finding_of(loss, (30 * W).astype(jnp.float16), (30 * X).astype(jnp.float16))
    assert "of 0" not in told.says
    assert told.cause == "overflow"


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda h: h.astype(jnp.float16) ** 4, "power"),
        (lambda h: jnp.abs(h).astype(jnp.float16) ** 2.5, "power"),
        (lambda h: h.astype(jnp.float16) / jnp.full_like(h, 1e-3, jnp.float16), "quotient"),
        (lambda h: (1e3 * h).astype(jnp.float16), "cast"),
    ],
)
def test_what_is_beyond_float16_is_told_from_a_pole(function, op):
    told = finding_of(lambda w, x: jnp.mean(function(1e3 * x @ w).astype(jnp.float32)), W, X)
    assert (told.kind, told.cause) == ("precision", "overflow")
    assert f"{op} at test_nonfinite.py" in told.says
    assert told.remedies == (remedies.WIDER, remedies.SMALLER)


def test_a_division_by_almost_0_is_no_matter_of_size():
    told = finding_of(lambda w, x: jnp.sum(jnp.exp(w) / 1e-39), W, X)
    assert (told.kind, told.cause) == ("non_finite", "singular_value")


def test_layers_in_a_scan_are_no_recurrence():
    def loss(stack, x):
        return jnp.mean(jax.lax.scan(lambda h, w: (h @ w, None), x, stack)[0])

    told = finding_of(loss, jnp.full((30, 4, 4), 1e2), X)
    assert (told.kind, told.cause) == ("exploding", "growth")
    assert told.remedies == (remedies.SCALE, remedies.SMALLER)


def test_parameters_that_a_sum_of_gradients_spoils_have_its_own_remedy():
    optimizer = optax.MultiSteps(optax.sgd(0.1), 4)
    loss = lambda w, x: jnp.mean((x @ w) ** 2)  # noqa: E731
    _, state = optimizer.update(jnp.full((4, 4), jnp.inf), optimizer.init(W), W)
    call = diagnose(loss, optimizer=optimizer)
    (told,) = call(jnp.full((4, 4), jnp.nan), X, opt_state=state).findings
    assert told.remedies == (remedies.SKIP, remedies.CHECK_STEP)


def test_a_loss_that_is_divided_by_a_count_beyond_float16_has_no_gradient_for_that():
    def loss(w, x):
        errors = jnp.square(jnp.tile(x, (9000, 1)) @ w).astype(jnp.float16)
        count = jnp.sum(jnp.ones_like(errors, jnp.float16))  # 288,000, and float16 ends at 65504
        return jnp.float32(jnp.sum(errors / 1000) / count)

    assert not jax.grad(loss)(W, X / 30).any()
    (told,) = diagnose(loss)(W, X / 30).findings
    assert (told.kind, told.cause) == ("precision", "overflow")
    assert "every gradient is 0, divided by inf" in told.says
