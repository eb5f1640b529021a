"""What an annotation says of a value: whether the value fits it, and what it asks for in words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

_WORDS = {
    Any: "anything",
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "text",
    NoneType: "None",
    jax.Array: "an array",
    np.ndarray: "an array",
}
_OURS = {  # by name, since this module stands below them
    "Layer": "a layer, as `layers.dense(8)` is one",
    "Weights": "`initializers.Weights`, as `initializers.by_name('he_normal')` are",
    "Trace": "a Trace of `vanishing.probe`",
    "History": "a History of `train.fit`",
    "Prediction": "a Prediction of `vanishing.predict`",
    "Activation": "a `layers.Activation`",
    "ShapeDtypeStruct": "a jax.ShapeDtypeStruct",
    "Initializer": "an initialiser, as `initializers.he_normal()` is one",
}
_CONTENTS = {"Float": "floating-point numbers", "Int": "whole numbers", "Bool": "True and False"}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The parts of a union, or the annotation alone.

    >>> alternatives(int | None), alternatives(int)
    ((<class 'int'>, <class 'NoneType'>), (<class 'int'>,))
    """
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation asks for.

    Stricter than Python, as a flag is no number, and laxer than a type checker: an array may be of
    any library, a number an array of no axes, and what only a call would show passes. Axes of one
    name have one length within `jaxtyping.jaxtyped("context")`.

    >>> fits(3, float), fits(True, float), fits(3.0, int), fits(np.ones(2), jax.Array)
    (True, False, False, False)
    """
    return any(_fits(value, kind) for kind in alternatives(hint))


def _fits(value: Any, kind: Any) -> bool:
    if _is_array(kind):
        has_values = hasattr(value, "dtype") and not isinstance(value, jax.ShapeDtypeStruct)
        return has_values and isinstance(value, kind.dtype[Any, kind.dim_str])
    if kind in (float, int):
        return not isinstance(value, bool | np.bool_) and _is_number(value, whole=kind is int)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if get_origin(kind) in (tuple, list, Sequence, Iterable):
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        listed |= isinstance(value, np.ndarray) and value.size > 0
        return listed and all(fits(v, _element(kind)) for v in value)
    if get_origin(kind) in (dict, Mapping):
        return isinstance(value, Mapping)
    if _is_function(kind):
        return callable(value)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _is_number(value: Any, whole: bool) -> bool:
    if whole:
        return isinstance(value, int | np.integer)
    if isinstance(value, int | float | np.number):
        return True
    return hasattr(value, "dtype") and np.shape(value) == () and jnp.isrealobj(value)


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray)


def _is_function(kind: Any) -> bool:
    return kind is Callable or get_origin(kind) is Callable or getattr(kind, "_is_protocol", False)


def _element(kind: Any) -> Any:
    return next(iter(get_args(kind)), Any)


def words(hint: Any) -> str:
    """What an annotation asks for.

    >>> words(int | None), words(Callable), words(Sequence[int])
    ('a whole number, or None', 'a function', 'a sequence of which each is a whole number')
    """
    *others, last = dict.fromkeys(_word(kind) for kind in alternatives(hint))
    return f"{', '.join(others)}, or {last}" if others else last


def _word(kind: Any) -> str:
    if _is_array(kind):
        return _array_word(kind.dtype.__name__, kind.dim_str)
    if get_origin(kind) in (tuple, list, Sequence, Iterable):
        return f"a sequence of which each is {words(_element(kind))}"
    if get_origin(kind) in (dict, Mapping):
        return "a mapping"
    if getattr(kind, "__name__", "") in _OURS:
        return _OURS[kind.__name__]
    if _is_function(kind):
        return "a function"
    return _WORDS.get(kind, f"of the type {getattr(kind, '__name__', kind)}")


def _array_word(content: str, axes: str) -> str:
    if content == "Key" or (content == "UInt32" and axes in ("2", "4")):
        return "a key, as `jax.random.key(0)` is one"
    if not axes:
        return "a number"
    with_axes = "" if axes == "..." else f" with the axes ({', '.join(axes.split())})"
    return f"an array of {_CONTENTS.get(content, 'numbers')}{with_axes}"
