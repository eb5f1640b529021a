"""Checks of arguments that raise one-line `ValueError`s: name, value, what is allowed.

A number is checked where it is known; of an array, which may be traced, the shape and the dtype
are. nan is out of every range.

`@checked` checks all arguments of a function by what is written there already: their types and
shapes by its annotations, their ranges by their names, since one word has one meaning (`RANGES`).
"""

import functools
import inspect
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_type_hints, overload

import jax
import jaxtyping
import numpy as np

from vanishing import _annotations
from vanishing._types import Scalar

MOST = 2**31 - 1  # that JAX's integers hold, and so sizes and indices
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class Range(NamedTuple):
    """The numbers that an argument may be; all are finite where `high` is."""

    low: float = -float("inf")
    high: float = float("inf")
    over: bool = False  # whether it is over `low`, not at it
    under: bool = False  # whether it is under `high`, not at it

    def holds(self, value: Any) -> bool:
        """Whether a number is in the range; nan is in none."""
        above = value > self.low if self.over else value >= self.low
        return bool(above and (value < self.high if self.under else value <= self.high))

    def __str__(self) -> str:
        parts = []
        if self.low > -float("inf"):
            parts.append(f"{'over' if self.over else 'at least'} {self.low:g}")
        if self.high != float("inf"):
            parts.append(f"{'under' if self.under else 'at most'} {self.high:g}")
        elif self.under:
            parts.append("finite")
        return " and ".join(parts) or "a number, not nan"


FINITE = Range(under=True)
AT_LEAST_0 = Range(0, under=True)
POSITIVE = Range(0, over=True, under=True)
COUNT = Range(1, under=True)
FRACTION = Range(0, 1)
COSINE = Range(-1, 1)
ANY = Range()  # inf too

# What numbers an argument of a name may be, wherever it occurs; any finite one if it is not here.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("sigma_w", "sigma_b", "sigma_x", "sigma", "q", "stddev"), AT_LEAST_0),
    **dict.fromkeys(("epsilon", "eps", "weight_decay", "learning_rate"), AT_LEAST_0),
    **dict.fromkeys(("threshold", "clip_threshold", "max_norm", "sharpness"), POSITIVE),
    **dict.fromkeys(("correlation", "gradient_correlation"), COSINE),
    **dict.fromkeys(("momentum", "decay", "b1", "b2"), Range(0, 1, under=True)),
    **dict.fromkeys(("depth", "width", "features", "outputs", "channels", "units"), COUNT),
    **dict.fromkeys(("blocks", "groups", "examples", "classes", "records", "chunks"), COUNT),
    **dict.fromkeys(("length", "blanks", "itemsize"), COUNT),
    **dict.fromkeys(("batch", "probes", "iterations", "record_every", "networks"), COUNT),
    **dict.fromkeys(("steps", "batch_size", "warmup_steps", "seed", "skip"), AT_LEAST_0),
    **dict.fromkeys(("square", "weighted_square", "log_variance"), AT_LEAST_0),
    "chrono": Range(2, over=True, under=True),
    "longest": Range(2, over=True, under=True),
    "rate": Range(0, 1, under=True),
}


def shape(name: str, array: jax.Array | np.ndarray, expected: Sequence[int]) -> None:
    """Refuse an array of another shape, which would broadcast to a wrong answer.

    Raises:
      ValueError: with both shapes.
    """
    if np.shape(array) != tuple(expected):
        raise ValueError(f"{name} has shape {np.shape(array)}; it must be {tuple(expected)}.")


def one_of(name: str, value: Any, allowed: Iterable[str], otherwise: str = "") -> None:
    """Refuse a value that is not among the allowed names.

    Args:
      name: of the argument.
      value: what it is.
      allowed: the names on offer.
      otherwise: what else is allowed, to end the message with.

    Raises:
      ValueError: with the value and the names.

    >>> one_of("level", "sites", ("layers", "ops"))
    Traceback (most recent call last):
    ValueError: level is 'sites'; it must be one of layers, ops.
    """
    names = tuple(allowed)
    if not (isinstance(value, str) and value in names):
        raise ValueError(
            f"{name} is {described(value)}; it must be one of {', '.join(names)}{otherwise}."
        )


def at_least(
    name: str, value: Scalar, least: float | int, *, owner: str = "", note: str = ""
) -> None:
    """Refuse a number under `least`.

    Args:
      name: of the argument.
      value: what it is.
      least: the smallest number that is allowed.
      owner: the function or layer that the argument belongs to, where the name alone could be
        that of several.
      note: added to the message.

    Raises:
      ValueError: with the number and the least.

    >>> at_least("width", 0, 1, owner="mlp")
    Traceback (most recent call last):
    ValueError: mlp has width 0; it must be at least 1.
    """
    if _is_known(value) and not value >= least:
        raise ValueError(f"{_subject(name, value, owner)}; it must be at least {least}{note}.")


def whole(name: str, value: Any, least: int, *, owner: str = "", note: str = "") -> None:
    """Refuse what is no whole number, or one under `least`.

    Args:
      name: of the argument, a size or a count.
      value: what it is.
      least: the smallest number that is allowed.
      owner: as for `at_least`.
      note: as for `at_least`.

    Raises:
      ValueError: with the value and the least.

    >>> whole("width", 3.5, 1, owner="mlp")
    Traceback (most recent call last):
    ValueError: mlp has width 3.5; it must be a whole number of at least 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        subject = _subject(name, described(value), owner)
        allowed = f"a whole number of at least {least}"
        raise ValueError(f"{subject}; it must be {allowed}{note}.") from None
    at_least(name, number, least, owner=owner, note=note)


def wholes(name: str, values: Any, *, owner: str = "") -> tuple[int, ...]:
    """A tuple of whole numbers, one for each axis.

    Raises:
      ValueError: it is a single number, or one of it is no whole number.

    >>> wholes("window", 2, owner="max_pool")
    Traceback (most recent call last):
    ValueError: max_pool has window 2; it must be a tuple of whole numbers, one for each axis.
    """
    if isinstance(values, Iterable) and all(isinstance(v, int | np.integer) for v in values):
        return tuple(values)
    subject = _subject(name, described(values), owner)
    raise ValueError(f"{subject}; it must be a tuple of whole numbers, one for each axis.")


def instance(name: str, value: Any, kinds: type | tuple[type, ...], what: str) -> None:
    """Refuse a value of another type, and name the field of it that would do.

    Args:
      name: of the argument.
      value: what it is.
      kinds: the types that are allowed.
      what: these, in words.

    Raises:
      ValueError: with the value and what it must be.

    >>> instance("trace", "gradients", int, "a Trace of `vanishing.probe`")
    Traceback (most recent call last):
    ValueError: trace is 'gradients'; it must be a Trace of `vanishing.probe`.
    """
    if not isinstance(value, kinds):
        hint = _fitting(value, kinds)
        raise ValueError(f"{name} is {described(value)}; it must be {what}{hint}.")


def _fitting(value: Any, kinds: type | tuple[type, ...]) -> str:
    """The field of a value that is of these types, as advice."""
    kind = type(value)
    fields = getattr(kind, "_fields", ()) or getattr(kind, "__dataclass_fields__", ())
    fitting = (field for field in fields if isinstance(getattr(value, field, None), kinds))
    return next((f": pass {kind.__name__.lower()}.{field}" for field in fitting), "")


def function(name: str, value: Any, what: str, *, owner: str = "") -> None:
    """Refuse a value that cannot be called.

    Args:
      name: of the argument.
      value: what it is.
      what: the function that it must be, in words.
      owner: as for `at_least`.

    Raises:
      ValueError: with the value and what it must be.

    >>> function("kernel_init", "zeros", "an initialiser", owner="dense")
    Traceback (most recent call last):
    ValueError: dense has kernel_init 'zeros'; it must be an initialiser.
    """
    if not callable(value):
        raise ValueError(f"{_subject(name, described(value), owner)}; it must be {what}.")


def described(value: Any) -> str:
    """A value in a few words: itself if that is short, a function's name, or else the type.

    >>> described((32, 64)), described(len), described({"kernel": list(range(100))})
    ('(32, 64)', 'the function len', 'a value of type dict')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if isinstance(value, jax.Array | np.ndarray) and np.ndim(value):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    text = repr(value)
    is_short = len(text) <= 40 and "\n" not in text and not text.startswith("<")
    return text if is_short else f"a value of type {type(value).__name__}"


def over(name: str, value: Scalar, bound: float | int, *, owner: str = "") -> None:
    """Refuse a number that is not over `bound`.

    Raises:
      ValueError: with the number and the bound.
    """
    if _is_known(value) and not value > bound:
        raise ValueError(f"{_subject(name, value, owner)}; it must be over {bound}.")


def between(
    name: str, value: Scalar, low: float | int, high: float | int, *, owner: str = ""
) -> None:
    """Refuse a number out of [low, high).

    Raises:
      ValueError: with the number and the range.
    """
    if _is_known(value) and not low <= value < high:
        subject = _subject(name, value, owner)
        raise ValueError(f"{subject}; it must be at least {low} and under {high}.")


def fits_in_memory(name: str, value: int, each: int, *, owner: str = "") -> None:
    """Refuse a number of things that this machine cannot hold, before any of its memory is taken.

    Args:
      name: of the argument that counts them.
      value: how many.
      each: bytes of one.
      owner: as for `at_least`.

    Raises:
      ValueError: with the memory that they take, and how many it holds.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if value * each > memory:
        takes = f"they take {value * each / 1e9:.3g} GB"
        subject = _subject(name, value, owner)
        raise ValueError(f"{subject}; {takes}, so it must be at most {memory // each} here.")


def positive(name: str, value: Scalar) -> None:
    """Refuse a number that is not over 0, or not finite.

    Raises:
      ValueError: with the number.
    """
    if _is_known(value) and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be over 0 and finite.")


def _is_known(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _subject(name: str, value: Any, owner: str) -> str:
    return f"{owner} has {name} {value}" if owner else f"{name} is {value}"


@overload
def checked(function: Callable[_Given, _Result], /) -> Callable[_Given, _Result]: ...
@overload
def checked(
    **ranges: Range | None,
) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]: ...
def checked(function: Any = None, /, **ranges: Range | None) -> Any:
    """A function that refuses arguments of another type, shape or range than it takes.

    Types and shapes are those of its annotations, where axes of one name have one length. Numbers
    of the type `int` are whole and at most `MOST` in size.

    Args:
      function: what to check.
      **ranges: of arguments that may be other numbers than `RANGES` has by their name; None for
        those that the function checks itself.

    >>> @checked
    ... def halved(width: int, sigma_w: float = 1.0):
    ...     return width // 2
    >>> halved(4)
    2
    >>> halved(4, sigma_w=float("nan"))
    Traceback (most recent call last):
    ValueError: sigma_w is nan; it must be at least 0 and finite.
    """
    if function is None:
        return functools.partial(checked, **ranges)
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:  # once all names that annotations use are defined
        return get_type_hints(inspect.unwrap(function))

    def owner() -> str:  # of a layer it is said, since a network is made of many
        makes = getattr(hints().get("return"), "__name__", "")
        return function.__name__ if makes == "Layer" else ""

    @functools.wraps(function)
    def refusing(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        with jaxtyping.jaxtyped("context"):
            for name, value in given.items():
                allowed = ranges.get(name, RANGES.get(name, FINITE))
                hint = hints().get(name, Any)
                if allowed is not None and signature.parameters[name].kind not in _STARRED:
                    _require(name, value, hint, allowed, owner(), given)
        return function(*args, **kwargs)

    return refusing


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _require(
    name: str, value: Any, hint: Any, allowed: Range, owner: str, given: Mapping[str, Any]
) -> None:
    if not _annotations.fits(value, hint):
        classes = tuple(k for k in _annotations.alternatives(hint) if isinstance(k, type))
        what = _annotations.words(hint) + _fitting(value, classes)
        with jaxtyping.jaxtyped("context"):
            fits_alone = _annotations.fits(value, hint)
        if fits_alone:  # so that an axis has another length than in an array before it
            before = list(given)[: list(given).index(name)]
            sizes = [f"{n} {described(given[n])}" for n in before if np.ndim(given[n])]
            what += f" that the others have: {', '.join(sizes)}"
        raise ValueError(f"{_subject(name, described(value), owner)}; it must be {what}.")
    if not _is_known(value):
        if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            _require_elements(name, value, hint, owner)
        return
    if isinstance(value, int) and not -MOST <= value <= MOST:
        otherwise = " or a float" if float in _annotations.alternatives(hint) else ""
        subject = _subject(name, value, owner)
        raise ValueError(f"{subject}; it must be at most {MOST} in size{otherwise}.")
    if not allowed.holds(value):
        raise ValueError(f"{_subject(name, value, owner)}; it must be {allowed}.")


def _require_elements(name: str, array: Any, hint: Any, owner: str) -> None:
    """Refuse an array that holds nothing, whose mean is no number; elementwise it may."""
    dims = {getattr(kind, "dim_str", "") for kind in _annotations.alternatives(hint)}
    if 0 in array.shape and "..." not in dims:
        subject = _subject(name, described(array), owner)
        raise ValueError(f"{subject}; it must have elements.")
