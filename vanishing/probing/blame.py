"""Errors in one line: what went wrong, and at which line of the user's own code."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from vanishing._text import one_line
from vanishing.probing.jaxpr import is_own

_HERE = str(Path(__file__).parent.parent)
REFUSALS = (ValueError, TypeError, ImportError, OSError)  # by which this library refuses a value


def blamed(error: BaseException, ours: Path | None = None) -> str:
    """An error's message, the innermost line of the user's own code that led to it, and its kind.

    A refusal of this library has no kind, since its message says what to change. Where the user's
    code takes no part, the line is that of the library that raised the error.

    Args:
      error: with its traceback; if it was raised from another, the lines of that count too.
      ours: a folder whose code is not the user's.

    >>> try:
    ...     {}["width"]
    ... except KeyError as error:
    ...     print(blamed(error))
    KeyError: 'width' (<doctest vanishing.probing.blame.blamed[0]>:2; --verbosity=1 shows the ...)
    """
    frames = [frame for one in _chain(error) for frame in traceback.extract_tb(one.__traceback__)]
    folders = (_HERE, *([str(ours)] if ours else ()))
    outermost = traceback.extract_tb(error.__traceback__)
    is_refusal = isinstance(error, REFUSALS) and (
        not outermost or outermost[-1].filename.startswith(folders)
    )
    text = one_line(error)
    if is_refusal and isinstance(error, OSError):  # of a disk: nobody's code is to blame
        return text
    if not is_refusal and text != type(error).__name__:
        text = f"{type(error).__name__}: {text}"
    place = users_place(error, ours)
    if not place and frames and not is_refusal:
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    return f"{text} ({place}; --verbosity=1 shows the traceback)" if place else text


def users_place(error: BaseException, ours: Path | None = None) -> str:
    """The innermost "file:line" of the user's own code that led to an error, or "".

    Args: as for `blamed`.
    """
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename and is_own(one.filename):
            return f"{one.filename}:{one.lineno}"
    for one in reversed(list(_chain(error))):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            is_ours = ours is not None and frame.filename.startswith(str(ours))
            if is_own(frame.filename) and not is_ours and frame.filename != "<string>":
                return f"{frame.filename}:{frame.lineno}"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
