import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import births
from vanishing.probing.plan import make_plan

W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (3, 4))


def births_of(loss, *args):
    plan = make_plan(loss, args, {})
    return births.reaching(plan, plan.arguments.names(loss))


def birth_of(loss, *args):
    """The only birth, of a loss of which plain JAX says on which way it breaks."""
    (birth,) = births_of(loss, *args)
    value, grads = jax.value_and_grad(loss)(*args)
    assert birth.backward == bool(jnp.isfinite(value))
    assert not all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, grads)))
    return birth


def line_of(function, after=0):
    first = inspect.unwrap(function).__code__.co_firstlineno
    return f"tests/probing/test_births.py:{first + after}"


VALUES = {  # an operation, and where its value is not finite
    "acos": (lambda x: jnp.arccos(x), 2.0),
    "acosh": (lambda x: jnp.arccosh(x), 0.5),
    "asin": (lambda x: jnp.arcsin(x), 2.0),
    "atanh": (lambda x: jnp.arctanh(x), 1.0),
    "cosh": (lambda x: jnp.cosh(x), 100.0),
    "digamma": (lambda x: jax.lax.digamma(x), 0.0),
    "div": (lambda x: 1 / x, 0.0),
    "erf_inv": (lambda x: jax.lax.erf_inv(x), 1.0),
    "exp": (lambda x: jnp.exp(x), 100.0),
    "exp2": (lambda x: jnp.exp2(x), 200.0),
    "expm1": (lambda x: jnp.expm1(x), 100.0),
    "integer_pow": (lambda x: x**-2, 0.0),
    "lgamma": (lambda x: jax.lax.lgamma(x), -1.0),
    "log": (lambda x: jnp.log(x), 0.0),
    "log1p": (lambda x: jnp.log1p(x), -1.0),
    "pow": (lambda x: x**0.5, -1.0),
    "rem": (lambda x: jnp.fmod(1.0, x), 0.0),
    "rsqrt": (lambda x: jax.lax.rsqrt(x), 0.0),
    "sinh": (lambda x: jnp.sinh(x), -100.0),
    "sqrt": (lambda x: jnp.sqrt(x), -1.0),
}
LIBRARY = "the slope of what a library jits stands at the line that asked for the plan"
LOST = pytest.mark.xfail(strict=True, reason=LIBRARY)
SLOPES = {  # an operation, and where its slope alone is not
    "acos": (lambda x: jnp.arccos(x), 1.0),
    "asin": (lambda x: jnp.arcsin(x), -1.0),
    "atan2": (lambda x: jnp.arctan2(x, x), 0.0),
    "cbrt": (lambda x: jnp.cbrt(x), 0.0),
    "pow": (lambda x: x**0.5, 0.0),
    "sqrt": (lambda x: jnp.sqrt(x), 0.0),
    "acosh": (lambda x: jnp.arccosh(x), 1.0),
    "eigh": (lambda x: jnp.linalg.eigh(x * jnp.eye(3))[1].sum(), 1.0),
    "svd": (lambda x: jnp.linalg.svd(x * jnp.eye(3))[0].sum(), 1.0),
}
LOST_SLOPES = ("eigh",)


@pytest.mark.parametrize("op", VALUES)
def test_an_operation_without_a_finite_value_is_named_with_its_line(op):
    function, at = VALUES[op]
    birth = birth_of(lambda w: jnp.sum(function(w)), jnp.float32(at))
    assert not jnp.isfinite(function(jnp.float32(at)))
    assert (birth.ops, birth.at, birth.backward) == ((op,), line_of(function), False)
    assert birth.largest == max(abs(at), op in ("div", "rem"))  # 1 is divided
    assert (birth.dtype, birth.steps, birth.of) == ("float32", (), "")


@pytest.mark.parametrize(
    "op", [pytest.param(op, marks=[LOST] if op in LOST_SLOPES else []) for op in SLOPES]
)
def test_an_operation_without_a_finite_slope_is_named_with_its_line(op):
    function, at = SLOPES[op]
    birth = birth_of(lambda w: jnp.sum(function(w)), jnp.float32(at))
    assert jnp.isfinite(function(jnp.float32(at)))
    assert not jnp.isfinite(jax.grad(function)(jnp.float32(at)))
    assert (birth.ops, birth.at, birth.backward) == ((op,), line_of(function), True)


NORM = lambda w: jnp.sum(jnp.linalg.norm(w, axis=0))  # noqa: E731
DEVIATION = lambda w: jnp.sum(jnp.std(w, axis=0))  # noqa: E731


@pytest.mark.parametrize("loss", [NORM, DEVIATION])
def test_the_slope_of_a_root_in_a_function_of_jax_has_the_line_that_calls_it(loss):
    birth = birth_of(loss, W.at[:, 1].set(0.0))
    assert (birth.at, "sqrt" in birth.ops) == (line_of(loss), True)


UNTAKEN = {  # what a `where` leaves out at w[0] = 0
    "sqrt": lambda w: jnp.sum(jnp.where(w > 0, jnp.sqrt(w), 0.0)),
    "log": lambda w: jnp.sum(jnp.where(w > 0, jnp.log(w), 0.0)),
    "div": lambda w: jnp.sum(jnp.where(w == 0, 0.0, jnp.arange(1.0, 4.0) / w)),
    "of a sum": lambda w: jnp.sum(jnp.where(w != 0, 2 * jnp.sqrt(w * w), 0.0)),
}
TAKEN = {
    "sqrt": lambda w: jnp.sum(jnp.where(w < 5, jnp.sqrt(w), 0.0)),
    "of a sum": lambda w: jnp.sum(jnp.where(w == 1, 0.0, jnp.sqrt(w * w))),
    "both": lambda w: jnp.sum(jnp.where(w > 0, jnp.sqrt(w), 0.0) + jnp.sqrt(w)),
}
ZERO_TO_TWO = jnp.arange(3.0)


@pytest.mark.parametrize(
    ("loss", "untaken"),
    [*((loss, True) for loss in UNTAKEN.values()), *((loss, False) for loss in TAKEN.values())],
    ids=[*UNTAKEN, *(f"{name}, taken" for name in TAKEN)],
)
def test_a_slope_in_the_branch_that_a_where_leaves_out_is_told_from_one_that_is_taken(
    loss, untaken
):
    birth = birth_of(loss, ZERO_TO_TWO)
    assert (birth.at, birth.backward, birth.untaken) == (line_of(loss), True, untaken)


def test_a_number_over_a_signal_is_left_out_by_a_where_too():
    assert birth_of(lambda w: jnp.sum(jnp.where(w == 0, 0.0, 1 / w)), ZERO_TO_TWO).untaken


@pytest.mark.xfail(strict=True, reason="a `where` is only looked for in the outermost frame")
@pytest.mark.parametrize("around", [jax.checkpoint, lambda f: lambda w: jax.lax.map(f, w[None])])
def test_a_branch_that_is_not_taken_is_seen_inside_of_a_frame(around):
    inner = lambda w: jnp.sum(jnp.where(w > 0, jnp.sqrt(w), 0.0))  # noqa: E731
    assert birth_of(lambda w: jnp.sum(around(inner)(w)), ZERO_TO_TWO).untaken


def double_where(w):
    return jnp.sum(jnp.where(w > 0, jnp.sqrt(jnp.where(w > 0, w, 1.0)), 0.0))


def selected_away(w):
    return jnp.sum(jax.lax.stop_gradient(jnp.where(w > 0, jnp.log(w), 0.0)) * w)


def absorbed(w):  # by the rule of relu, whose slope is chosen and not multiplied
    h = jax.nn.relu(w)
    return jnp.sum(jnp.where(h > 1, jnp.sqrt(h), h))


@pytest.mark.parametrize("loss", [double_where, selected_away, absorbed])
def test_what_a_select_heals_is_no_birth(loss):
    value, grad = jax.value_and_grad(loss)(ZERO_TO_TWO)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()
    assert births_of(loss, ZERO_TO_TWO) == ()


def attention(scores_of, mask):
    def loss(w, x):
        scores = jnp.where(mask, scores_of(x @ w) @ x.T, -jnp.inf)
        return jnp.mean((jax.nn.softmax(scores) @ x) ** 2)

    return loss


SAME, ROOT = lambda x: x, lambda x: jnp.sqrt(x)
CAUSAL = jnp.tri(3, dtype=bool)


def test_a_mask_that_leaves_something_to_look_at_gives_no_birth():
    loss = attention(SAME, CAUSAL)
    assert jnp.isfinite(jax.grad(loss)(W, X)).all()
    assert births_of(loss, W, X) == ()


def test_a_mask_that_leaves_a_row_nothing_to_look_at_is_a_constant_that_breaks():
    loss = attention(SAME, CAUSAL.at[0].set(False))
    birth = birth_of(loss, W, X)
    assert (birth.of, birth.ops) == ("constant", ("sub",))  # -inf less its maximum of -inf
    assert birth.at == line_of(attention, 3)


def test_a_mask_is_not_blamed_for_a_nan_that_is_made_before_it():
    birth = birth_of(attention(ROOT, CAUSAL), W, X)
    assert (birth.ops, birth.at, birth.of) == (("sqrt",), line_of(ROOT), "")


@pytest.mark.parametrize("function", [ROOT, lambda x: jnp.exp(100 * x)])
def test_a_mask_among_the_arguments_is_not_blamed_for_what_breaks_beside_it(function):
    def loss(w, x, bias):
        return jnp.mean((jax.nn.softmax(bias + function(x @ w) @ x.T) @ x) ** 2)

    bias = jnp.where(CAUSAL, 0.0, -jnp.inf)
    healthy = lambda w, x, bias: jnp.mean(jax.nn.softmax(bias + x @ w @ x.T) @ x)  # noqa: E731
    assert births_of(healthy, W, X, bias) == ()
    assert birth_of(loss, W, X, bias).at == line_of(function)


def test_an_argument_that_holds_nan_is_named_as_the_loss_calls_it():
    def loss(w, images, batch):
        return jnp.mean(jnp.tanh(images @ w) + images @ w * batch["weights"])

    batch = {"weights": jnp.ones((3, 1)), "labels": jnp.array([jnp.nan])}
    batch["weights"] = batch["weights"].at[1].set(jnp.nan)
    birth = birth_of(loss, W, X, batch)
    assert (birth.of, birth.ops, birth.at) == ("batch['weights']", (), "")
    batch["weights"] = jnp.ones((3, 1))
    assert births_of(loss, W, X, batch) == ()  # the labels reach nothing
    assert birth_of(loss, W, X.at[0, 0].set(jnp.inf), batch).of == "images"


def test_data_that_break_the_gradient_alone_are_named_too():
    birth = birth_of(lambda w, x: jnp.nansum(w * x), W[0], X[0].at[1].set(jnp.nan))
    assert (birth.of, birth.backward) == ("x", True)


def test_a_parameter_and_an_array_that_is_closed_over_are_called_so():
    broken = X.at[0, 0].set(jnp.nan)
    assert birth_of(lambda w, x: jnp.sum(x @ w), W * jnp.nan, X).of == "a parameter"
    closed_over = birth_of(lambda w: jnp.sum(broken @ w), W)
    assert closed_over.of == "an array that the loss closes over"


def test_nan_in_the_data_of_a_scan_is_the_data_s():
    def loss(w, series):
        step = lambda h, x: (jnp.tanh(h * w + x), None)  # noqa: E731
        return jax.lax.scan(step, jnp.float32(0), series)[0]

    assert birth_of(loss, jnp.float32(1), jnp.arange(5.0).at[3].set(jnp.nan)).of == "series"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_step_of_a_scan_is_the_first_that_breaks_in_its_own_order(reverse):
    def step(h, x):
        return h + jnp.log(x), None

    def loss(w, series):
        return jax.lax.scan(step, jnp.float32(0), series * w, reverse=reverse)[0]

    birth = birth_of(loss, jnp.float32(1), jnp.array([1.0, -1, 2, -2, 3]))
    assert (birth.ops, birth.at) == (("log",), line_of(step, 1))
    assert birth.steps == (3 if reverse else 1,)


def test_steps_of_nested_loops_stand_outermost_first():
    def loss(w, table):
        inner = lambda h, x: (jnp.log(h * w + x), None)  # noqa: E731
        outer = lambda h, row: (jax.lax.scan(inner, h, row)[0], None)  # noqa: E731
        return jax.lax.scan(outer, jnp.float32(2), table)[0]

    table = np.array([[3.0, 3, 3], [3, 3, -9]], np.float32)
    assert birth_of(loss, jnp.float32(1), table).steps == (1, 2)


def multiplied(w, h):
    def step(h, _):
        return h * w, None

    return jax.lax.scan(step, h, length=30)[0]


def test_what_overflows_in_a_scan_has_the_step_and_the_largest_number_before_it():
    powers = np.cumprod(np.full(30, 200, np.float64))
    step = int(np.argmax(powers > np.finfo(np.float32).max))
    birth = birth_of(multiplied, jnp.float32(200), jnp.float32(1))
    assert (birth.ops, birth.at, birth.steps) == (("mul",), line_of(multiplied, 2), (step,))
    np.testing.assert_allclose(birth.largest, powers[step - 1], rtol=1e-5)


def test_what_overflows_on_the_way_back_has_the_step_where_it_does():
    loss = lambda h, w: multiplied(w, h)  # noqa: E731
    powers = np.cumprod(np.full(30, 200, np.float64))
    step = 29 - int(np.argmax(powers > np.finfo(np.float32).max))
    birth = birth_of(loss, jnp.float32(0), jnp.float32(200))
    assert (birth.ops, birth.at, birth.backward) == (("mul",), line_of(multiplied, 2), True)
    assert birth.steps == (step,)


def test_the_branch_of_a_cond_that_runs_is_looked_into():
    fine, log, root = (lambda w: jnp.sum(w)), (lambda w: jnp.sum(jnp.log(w))), (
        lambda w: jnp.sum(jnp.sqrt(w))
    )  # fmt: skip
    of = lambda branch: lambda w: jax.lax.cond(w[1] > 0, branch, fine, w)  # noqa: E731
    assert birth_of(of(log), ZERO_TO_TWO)[:2] == (("log",), line_of(log))
    birth = birth_of(of(root), ZERO_TO_TWO)
    assert (birth.ops, birth.at, birth.backward) == (("sqrt",), line_of(root), True)
    assert births_of(of(log), jnp.float32([0, -1, 2])) == ()


def test_a_checkpoint_is_looked_into():
    log, root = (lambda w: jnp.log(w)), (lambda w: jnp.sqrt(w))
    of = lambda inner: lambda w: jnp.sum(jax.checkpoint(inner)(w))  # noqa: E731
    assert birth_of(of(log), ZERO_TO_TWO)[:2] == (("log",), line_of(log))
    birth = birth_of(of(root), ZERO_TO_TWO)
    assert (birth.ops, birth.at, birth.backward) == (("sqrt",), line_of(root), True)


def test_of_what_follows_from_a_birth_the_birth_alone_is_told():
    first = lambda w: jnp.exp(100 * w)  # noqa: E731
    loss = lambda w: jnp.sum(jnp.tanh(first(w)) + first(w) - 2 * first(w))  # noqa: E731
    births = births_of(loss, ZERO_TO_TWO)
    assert {(birth.ops, birth.at) for birth in births} == {(("exp",), line_of(first))}
    assert jnp.isnan(loss(ZERO_TO_TWO))


def test_an_inf_that_a_division_makes_0_has_the_line_where_it_overflowed():
    def loss(w, x):
        h = x @ w
        return jnp.mean(h / jnp.sqrt(jnp.sum(h * h, -1, keepdims=True)))

    large, small = (jnp.full((2, 4), size, jnp.float16) for size in (100, 1))
    w = jnp.eye(4, dtype=jnp.float16) * 10
    assert loss(w, large) == 0 != loss(w, small)
    (birth,) = births.divided_by(make_plan(loss, (w, large), {}))
    assert birth.at == line_of(loss, 2)
    assert birth.dtype == "float16"
    assert births.divided_by(make_plan(loss, (w, small), {})) == ()
