"""Errors that name the extra which brings an absent package."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """A context whose failing imports name the extra of this project that brings the package.

    Raises:
      ModuleNotFoundError: a package is absent; the message has the command that installs it.

    >>> with needs("figures"):
    ...     import no_such_package
    Traceback (most recent call last):
    ModuleNotFoundError: no_such_package is not installed; run: pip install 'vanishing[figures]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        absent = (error.name or "a package").partition(".")[0]
        raise ModuleNotFoundError(
            f"{absent} is not installed; run: pip install 'vanishing[{extra}]'", name=error.name
        ) from None
