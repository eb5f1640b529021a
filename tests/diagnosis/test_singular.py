import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vanishing.diagnosis.singular import OVERFLOWS, SINGULAR, in_words, safe
from vanishing.probing import suspects

MATRIX = {
    "eigh": lambda x: jnp.linalg.eigh(x * jnp.eye(3))[1].sum(),
    "svd": lambda x: jnp.linalg.svd(x * jnp.eye(3))[0].sum(),
}
OPS = {  # each operation, as a function of what it takes in
    **{op: getattr(lax, op) for op in SINGULAR if hasattr(lax, op)},
    "atan2": lambda x: lax.atan2(x, 2 * x),
    "div": lambda x: 1 / x,
    "integer_pow": lambda x: lax.integer_pow(x, -2),
    "pow": lambda x: lax.pow(x, jnp.float32(0.5)),
    "rem": lambda x: lax.rem(jnp.float32(1), x),
    **MATRIX,
}
ODD = np.pi / 2
# Where a value is not finite, and where a slope is not though the value is, as the words have it.
VALUE = {
    "beyond -1 and 1": (-1.5, 1.5),
    "under 1": (0.5, -3),
    "at -1 and 1, and beyond": (-1, 1, 1.5),
    "at 0 and whole numbers under it": (0, -1, -2),
    "by 0": (0,),
    "at -1 and 1": (-1, 1),
    "of 0": (0,),
    "of 0 or less": (0, -1),
    "of -1 or less": (-1, -2),
    "of a division by 0": (0,),
    "of less than 0": (-1, -1e-6),
    "of a large number": (1e3,),
    "at odd multiples of pi / 2": (ODD, -3 * ODD),
}
SLOPE = {
    "at -1 and 1": (-1, 1),
    "at 1": (1,),
    "at (0, 0)": (0,),
    "at 0": (0,),
    "by 0": (0,),
    "of 0": (0,),
    "of -1": (-1,),
    "at 0, of a power under 1": (0,),
    "where two eigenvalues are equal": (1,),
    "where two singular values are equal": (1,),
}
ORDINARY = {  # where both are finite
    "acosh": (1.5, 4),
    **dict.fromkeys(("acos", "asin", "atanh", "erf_inv"), (-0.9, 0, 0.9)),
    **dict.fromkeys(("digamma", "lgamma"), (-0.5, 0.5, 3)),
    **dict.fromkeys(("log", "pow", "rsqrt", "sqrt"), (0.1, 2)),
    **dict.fromkeys(("atan2", "cbrt", "div", "integer_pow", "rem"), (-2, 0.1, 2)),
    "log1p": (-0.9, 0, 2),
    "svd": (),
    "eigh": (),
}


def finite(function, x, dtype=jnp.float32):
    """Are its value and its slope finite?"""
    value, slope = jax.value_and_grad(lambda x: function(x).astype(dtype))(jnp.asarray(x, dtype))
    return bool(jnp.isfinite(value)), bool(jnp.isfinite(slope))


def test_these_are_the_operations_that_are_suspected():
    assert set(SINGULAR) == suspects.SINGULAR


NEVER = pytest.mark.xfail(
    strict=True, reason="no float is pi / 2: tan is at most about 1e8 in float32"
)


@pytest.mark.parametrize(
    "op",
    [
        pytest.param(op, marks=[NEVER] if op == "tan" else [])
        for op in SINGULAR
        if SINGULAR[op].value and op != "pow"
    ],
)
def test_a_value_is_not_finite_where_the_words_have_it(op):
    for x in VALUE[SINGULAR[op].value]:
        assert not finite(OPS[op], x)[0], x


def test_a_power_of_0_or_less_has_no_value_for_some_exponent():
    assert SINGULAR["pow"].value == "of 0 or less"
    assert not finite(OPS["pow"], -1)[0]
    assert not finite(lambda x: lax.pow(x, jnp.float32(-0.5)), 0)[0]


@pytest.mark.parametrize("op", [op for op in SINGULAR if SINGULAR[op].slope])
def test_a_slope_is_not_finite_where_the_words_have_it(op):
    for x in SLOPE[SINGULAR[op].slope]:
        value, slope = finite(OPS[op], x)
        assert not slope
        # "of" and "by": the value breaks too, and a where may leave that out but not the slope.
        assert value == SINGULAR[op].slope.startswith(("at", "where"))


@pytest.mark.parametrize("op", [op for op in SINGULAR if op not in MATRIX])
def test_it_is_finite_elsewhere(op):
    for x in ORDINARY.get(op, (-1, 0.5, 1)):
        assert finite(OPS[op], x) == (True, True), x


def test_a_matrix_without_equal_values_has_a_slope():
    apart = jnp.diag(jnp.arange(1.0, 4))
    for function in (lambda m: jnp.linalg.eigh(m)[1].sum(), lambda m: jnp.linalg.svd(m)[0].sum()):
        assert jnp.isfinite(jax.grad(function)(apart)).all()
        assert not jnp.isfinite(jax.grad(function)(jnp.eye(3))).all()


def test_the_words_of_erf_inv_hold_all_that_breaks_it():
    assert not finite(lax.erf_inv, 1.5)[0]
    assert "beyond" in SINGULAR["erf_inv"].value


def under(limit):
    return lambda f: lambda x: f(jnp.maximum(x, limit))


def within(limit):
    return lambda f: lambda x: f(jnp.clip(x, -limit, limit))


def plus(small):
    return lambda f: lambda x: f(x + jnp.asarray(small, x.dtype))


def forms(tiny, near):
    """Each advice with a number in it: its words, and what they make of a function."""
    return {
        f"clip it to -1 + {near} and 1 - {near}": within(1 - float(near)),
        f"take it of jnp.maximum(x, 1 + {near})": under(1 + float(near)),
        f"add {tiny} to what it takes in": plus(float(tiny)),
        f"add {tiny} under the root": plus(float(tiny)),
        f"add {tiny} to the divisor": plus(float(tiny)),
        f"keep x over {near}": under(float(near)),
        f"log(x + {near})": plus(float(near)),
        f"keep x over -1 + {near}": under(-1 + float(near)),
        f"take it of jnp.maximum(x, {tiny})": under(float(tiny)),
        "keep the divisor from 0": under(1e-6),
        "keep what it takes in from 0": under(1e-6),
        "keep what it takes in under 1.5": lambda f: lambda x: f(jnp.minimum(x, 1.5)),
        "keep what exp takes in bounded: c * tanh(x / c)": lambda f: (
            lambda x: f(50 * jnp.tanh(x / 50))
        ),
    }


NUMBERS = {"float32": ("1e-12", "1e-6"), "float16": ("1e-3", "1e-3"), "bfloat16": ("1e-12", "1e-2")}


def made_safe(op, dtype="float32"):
    known = forms(*NUMBERS[dtype])
    (form,) = (known[words] for words in known if safe(op, dtype).startswith(words))
    return form(OPS[op])


ADVISED = [op for op in SINGULAR if op not in (*MATRIX, "atan2")]
POINTS = {  # where it is said to break
    op: (*VALUE.get(SINGULAR[op].value, ()), *SLOPE.get(SINGULAR[op].slope, ())) for op in ADVISED
}
# What is added is for numbers from 0 on, as those under a root.
POINTS |= dict.fromkeys(("log", "rsqrt", "sqrt"), (0,))


@pytest.mark.parametrize("op", ADVISED)
def test_the_safe_form_has_a_value_and_a_slope_where_the_operation_breaks(op):
    assert POINTS[op]
    for x in POINTS[op]:
        assert finite(made_safe(op), x) == (True, True), x


def test_the_other_safe_forms_are_so_too():
    double_where = lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)  # noqa: E731
    arccos = lambda x: jnp.arctan2(jnp.sqrt(1 - x**2 + 1e-12), x)  # noqa: E731
    arcsin = lambda x: jnp.arctan2(x, jnp.sqrt(1 - x**2 + 1e-12))  # noqa: E731
    less_its_maximum = lambda x: jnp.exp(x - jnp.maximum(x, 1e3))  # noqa: E731
    for function, points in (
        (double_where, (-1, 0)),
        (arccos, (-1, 1)),
        (arcsin, (-1, 1)),
        (less_its_maximum, (1e3, 1e4)),
        (lambda x: jax.nn.log_sigmoid(x), (-1e3, 1e3)),
        (lambda x: jax.nn.log_softmax(jnp.stack([x, -x]))[0], (-1e3, 1e3)),
    ):
        for x in points:
            assert finite(function, x) == (True, True), x


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("sqrt", jnp.float16), ("rsqrt", jnp.float16), ("acos", jnp.float16), ("acos", jnp.bfloat16)],
)
def test_the_safe_form_is_safe_in_a_narrow_dtype(op, dtype):
    made = made_safe(op, np.dtype(dtype).name)
    assert finite(made, POINTS[op][-1], dtype) == (True, True)


@pytest.mark.parametrize("op", sorted(OVERFLOWS))
def test_an_overflow_breaks_the_value_at_a_large_number_alone(op):
    limit = float(jnp.log(jnp.finfo(jnp.float32).max)) * (1.5 if op == "exp2" else 1)
    assert not finite(OPS[op], limit + 1)[0]
    assert finite(OPS[op], min(limit - 1, 80)) == (True, True)
    assert finite(OPS[op], 0) == (True, True)
    assert not SINGULAR[op].slope


def test_the_words_say_where_a_value_or_a_slope_breaks():
    assert in_words(("sqrt",), of_slope=False) == "sqrt of less than 0"
    assert in_words(("sqrt",), of_slope=True) == "the derivative of sqrt at 0"
    assert (
        in_words(("atanh",), of_slope=True) == "the derivative of arctanh at -1 and 1, and beyond"
    )
    assert in_words(("atan2",), of_slope=False) == "arctan2 at (0, 0)"
    both = in_words(("log", "sqrt"), of_slope=True)
    assert both == "the derivative of log of 0 or the derivative of sqrt at 0"


def test_an_operation_that_is_not_here_has_its_own_name():
    assert in_words(("mul", "add_any"), of_slope=False) == "mul or add_any"
    assert in_words(("mul", "log"), of_slope=False) == "log of 0 or less"


@pytest.mark.slow
def test_every_row_is_as_stated():
    """Where value and slope break, all in one, so that what has changed is named."""
    changed = []
    for op, row in SINGULAR.items():
        assert row.version
        assert row.source
        for x in SLOPE.get(row.slope, ()):
            if finite(OPS[op], x)[1]:
                changed.append(f"{op}: stated no slope at {x}, measured one")
        if op not in ("tan", "pow"):  # see above
            for x in VALUE.get(row.value, ()):
                if finite(OPS[op], x)[0]:
                    changed.append(f"{op}: stated no value at {x}, measured one")
    assert not changed, "\n".join(changed)
