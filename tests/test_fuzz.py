"""Odd values in every argument of every public function: refused in a line that names it, or legal.

`python -m tests.test_fuzz [package]` prints every odd call that was not refused.
"""

import collections
import importlib
import inspect
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import vanishing
from tests.good_calls import CALLS
from tests.helpers import slow

ODD = {
    "nan": float("nan"),
    "inf": float("inf"),
    "negative": -1,
    "zero": 0,
    "2**63": 2**63,
    "text": "no such thing",
    "object": object(),
    "shape": np.ones((3, 1, 2, 1, 2), np.float32),
    "empty": np.zeros(0, np.float32),
}
pytestmark = pytest.mark.usefixtures("as_users_call_it")

SECONDS = 20  # in which an odd call must end
PACKAGES = list(CALLS)

# Packages whose functions are not spoiled here, and why.
ELSEWHERE = {
    "facts": "look-ups of names; an unknown one is None by contract",
    "figures": "drawings of labelled data",
    "sweep": "grids and folders: tests/sweep",
}
# Functions that cannot be called here.
APART = {("data", "fetch"): "downloads"} | {
    ("data", name): "reads files: tests/data/test_readers.py"
    for name in ("read_cifar_binary", "read_cifar_pickle", "read_idx")
}
# By the name of an argument, odd values that are within its contract.
ZERO = "biases bias correlation eps epsilon gain gate_bias initial mean q rate scale seed sigma"
ZERO += " sigma_b sigma_w sigma_x skip steps stddev learning_rate momentum decay b1 b2 x value"
ZERO += " batch_size reductions shortcut_scale branch_scale factor forget_bias"
ZERO += " gradient_correlation square product weighted_square weighted_product log_variance"
NEGATIVE = "bias correlation forget_bias gain gate_bias gradient_correlation initial mean scale"
NEGATIVE += " shortcut_scale branch_scale value factor x product weighted_product"
ANY_SHAPE = "x kernel weight"  # of functions that work element by element, or on any input
LEGAL = {
    "zero": ZERO.split(),
    "negative": NEGATIVE.split(),
    "shape": [*ANY_SHAPE.split(), "path", "params"],
    "empty": ANY_SHAPE.split(),
}
# Odd calls that are neither refused nor within a contract: (function, argument, value) -> reason.
ALLOWED = {
    ("load", "data_dir", "text"): "digits come with scikit-learn, wherever the folder is",
    ("to_linen", "name", "text"): "any text names a module",
    ("conv_bias_gradient", "delta", "shape"): "images with three axes of places",
    ("depth_axes", "path", "empty"): "a path of no steps",
    ("assert_healthy", "allow", "empty"): "no kinds",
    ("probe", "summaries", "empty"): "no summaries",
} | {
    (name, argument, value): reason
    for name in ("probe", "diagnose")
    for argument, value, reason in (
        ("argnums", "negative", "the last argument, as JAX counts"),
        ("argnums", "zero", "the first argument"),
        ("argnums", "2**63", "it is known at the call how many there are; then it is refused"),
        ("argnums", "empty", "no argument, as JAX takes it"),
        ("where", "text", "any text is a pattern of names"),
    )
}
# By other names in the message: what a name is the name of.
NAMES = {"name": ("optimizer", "initializer", "data", "activation"), "output_activation": ("act",)}


class Ended(NamedTuple):
    """How an odd call ended."""

    function: str
    argument: str
    value: str
    how: str  # "refused", "returned", or what else came

    @property
    def is_allowed(self):
        return self[:3] in ALLOWED

    @property
    def is_legal(self):
        return self.how == "returned" and self.argument in LEGAL.get(self.value, ())


def functions(package):
    """The public functions of a package, or of a module, that take an argument."""
    module = importlib.import_module(f"vanishing.{package}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    found = {name: getattr(module, name) for name in names}
    return {
        name: f
        for name, f in found.items()
        if callable(f)
        and not isinstance(f, type)
        and hasattr(inspect.unwrap(f), "__code__")
        and inspect.signature(f).parameters
    }


def arguments(package, function):
    made = CALLS[package][function]
    return made() if callable(made) else made


def call(function, given):
    """What a call said as it failed, or None."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        function(**given)
    except (ValueError, TypeError) as error:
        return str(error)
    except TimeoutError:
        return "waits"
    except BaseException as error:
        return f"{type(error).__name__}:\n{error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def spoiled(package, functions_of, odd=ODD):
    """Every odd call of a package."""
    for name, function in functions_of.items():
        if (package, name) in APART:
            continue
        good = arguments(package, name)
        for argument in good:
            for value in odd:
                message = call(function, {**good, argument: ODD[value]})
                if message is None:
                    how = "returned"
                else:
                    words = (argument, *NAMES.get(argument, ()))
                    clear = "\n" not in message and any(word in message for word in words)
                    how = "refused" if clear else message
                yield Ended(name, argument, value, how)


def judged(ends):
    """The share of what is not legal that is refused, and what is neither refused nor allowed."""
    odd = [end for end in ends if not end.is_legal]
    refused = sum(end.how == "refused" for end in odd)
    left = [end for end in odd if end.how != "refused" and not end.is_allowed]
    return refused / max(len(odd), 1), left


def test_every_public_function_has_its_good_call():
    folders = {path.parent.name for path in Path(vanishing.__file__).parent.glob("*/__init__.py")}
    files = {"losses", "optimizers", "initializers", "surrogate", "comparison"}
    assert folders | files == set(CALLS) | set(ELSEWHERE)
    for package in CALLS:
        called = set(CALLS[package]) | {name for where, name in APART if where == package}
        assert set(functions(package)) - called == set(), package
        for name, function in functions(package).items():
            if (package, name) not in APART:
                unknown = {*arguments(package, name)} - {*inspect.signature(function).parameters}
                assert unknown <= {"first"}, (name, unknown)  # any name, for `serial`


@pytest.mark.parametrize("package", [*slow("theory", "train", "comparison"), *PACKAGES[1:2]])
def test_good_calls_are_good(package):
    for name, function in functions(package).items():
        if (package, name) not in APART:
            assert call(function, arguments(package, name)) is None, name


@pytest.mark.parametrize("package", [p for p in PACKAGES if p not in ("theory", "networks")])
def test_odd_values_are_refused_in_a_line_that_names_the_argument(package):
    share, left = judged(list(spoiled(package, functions(package))))
    assert left == []
    assert share >= 0.9


@pytest.mark.parametrize("package", ["theory", "networks"])
def test_odd_values_that_are_legal_nowhere_are_refused_at_once(package):
    ends = list(spoiled(package, functions(package), odd=("nan", "object", "2**63")))
    assert judged(ends) == (1.0, [])


@pytest.mark.slow
@pytest.mark.parametrize("package", ["theory", "networks"])
def test_every_odd_value_of_packages_that_compile_is_refused(package):
    share, left = judged(list(spoiled(package, functions(package))))
    assert left == []
    assert share >= 0.9


def test_nan_in_the_data_is_a_subject_here_and_comes_out_as_nan():
    """What is computed of nan is no plausible number: it is nan, or counts as wrong."""
    losses, theory = vanishing.losses, vanishing.theory
    outputs = np.full((2, 3), np.nan, np.float32)
    labels = np.zeros(2, np.int32)
    for loss in losses.LOSSES.values():
        assert np.isnan(loss(outputs, labels))
    assert losses.accuracy(outputs, labels) == 0
    nan = jax.numpy.asarray(np.nan)
    for value in (
        theory.chi("tanh", q=nan, sigma_w=1.0),
        theory.chi("relu", q=1.0, sigma_w=nan),
        theory.variance_map("tanh", q=nan, sigma_w=1.0, sigma_b=0.0),
        theory.covariance_map("tanh", q=nan, correlation=0.5, sigma_w=1.0, sigma_b=0.0),
        theory.gate_gain(10, bias=nan),
    ):
        assert np.isnan(value)


if __name__ == "__main__":
    counts = collections.Counter()
    for package in sys.argv[1:] or PACKAGES:
        for end in spoiled(package, functions(package)):
            kind = "refused" if end.how == "refused" else "legal" if end.is_legal else "other"
            counts[kind] += 1
            if kind == "other":
                print(package, *end, "(allowed)" if end.is_allowed else "", flush=True)
    print(counts, f"{counts['refused'] / (counts['refused'] + counts['other']):.1%} refused")
