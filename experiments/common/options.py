"""Options of experiments: groups of fields, each of which becomes a flag.

An experiment's Config is composed of the groups that it reads, by multiple inheritance, and adds
fields of its own. A group that it compares the values of is left out, so that no flag is ignored.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from vanishing import _held


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    more_than: float | None = None,
    in_question: bool = True,
) -> Any:
    """A field of a group of options.

    Args:
      default: its value unless another is given; a tuple for a comma-separated list.
      help: the help of its flag.
      choices: the values allowed; any if empty.
      at_least: the smallest value allowed.
      more_than: the number that values must be over.
      in_question: whether the results depend on it.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "at_least": at_least,
        "more_than": more_than,
        "in_question": in_question,
    }
    return dataclasses.field(default=default, metadata=metadata)


def new_default(group: type["Options"], name: str, default: Any) -> Any:
    """The field `name` of a group with another default, for a Config that inherits the group."""
    fields = {field.name: field for field in dataclasses.fields(group)}
    return dataclasses.field(default=default, metadata=fields[name].metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """The base of all groups of options: checks every value when it is made."""

    def __post_init__(self):
        double = getattr(self, "precision", "") == "float64"
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(field, value)
            if field.metadata["in_question"] and _is_number(value):
                with jax.enable_x64(double):
                    held = _held.held(field.name, value)
                if isinstance(value, tuple):
                    _held.distinct(field.name, value, held, f"in {held.dtype}")

    def question(self) -> dict[str, Any]:
        """The options that the results depend on, with their values."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.metadata["in_question"]}


def _is_number(value: Any) -> bool:
    first = value[0] if isinstance(value, tuple) else value
    return isinstance(first, int | float) and not isinstance(first, bool)


def check(field: dataclasses.Field, value: Any) -> None:
    """Refuse a value that a field's `option` does not allow.

    Raises:
      ValueError: in one line, with the name, the value and what is allowed.
    """
    limits = field.metadata
    if isinstance(field.default, tuple) and not value:
        raise ValueError(f"{field.name} is empty; it takes at least one value.")
    for element in value if isinstance(value, tuple) else (value,):
        if isinstance(element, float) and not math.isfinite(element):
            raise ValueError(f"{field.name} has {element}; it must be a finite number.")
        if limits["choices"] and element not in limits["choices"]:
            allowed = ", ".join(limits["choices"])
            raise ValueError(f"{field.name} has {element!r}; it must be one of {allowed}.")
        if limits["at_least"] is not None and not element >= limits["at_least"]:
            raise ValueError(
                f"{field.name} has {element}; it must be at least {limits['at_least']}."
            )
        if limits["more_than"] is not None and not element > limits["more_than"]:
            raise ValueError(f"{field.name} has {element}; it must be over {limits['more_than']}.")
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise ValueError(f"{field.name} names a value twice: {', '.join(map(str, value))}.")
