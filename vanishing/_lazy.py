"""Public names of a package that are imported on first use (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, which import its public names on first use.

    Args:
      package: its `__name__`.
      homes: by public name, the module of the package that holds it; "" for a module of that name.

    >>> get, names = attach("vanishing", {"theory": "", "predict": "theory"})
    >>> get("predict").__module__, names()
    ('vanishing.theory.prediction', ['predict', 'theory'])
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name] or name}")
        return getattr(module, name) if homes[name] else module

    return get, lambda: sorted(homes)
