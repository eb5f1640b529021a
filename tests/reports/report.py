"""A public report of a faulty gradient as a test: a small model, and the truth beside it."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Report(NamedTuple):
    """A fault that somebody reported, or a healthy model that was taken for a faulty one.

    The line of its cause carries the comment "# fault: " and its name.
    """

    source: str  # where it was reported: "owner/repository#123", or an address
    symptom: str  # what was seen
    truth: str  # cause, place, and what mends it
    kinds: tuple[str, ...]  # of finding that are right, best first; none of a healthy model
    make: Callable[[], tuple]  # loss, parameters and other arguments
    fixed: Callable[[], tuple] | None  # likewise, of the mended model
    shows: Callable[[Any, Any], bool]  # does plain JAX show the fault, given value and gradients?
    params: str = ""  # of the paths of parameters that a right finding may name
    remedy: str = ""  # to be found in the first remedy's action, without regard to case
    updates: Callable | None = None  # of parameters and gradients, where the step is at fault
    optimizer: Callable | None = None  # makes one, where it is at fault
