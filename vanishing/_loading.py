"""Files of the user's own by name: functions as path/to/file.py:name, paths from home."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_function(name: str, option: str) -> Callable[..., Any]:
    """The function that "path/to/file.py:name" names; the file is run as a module.

    Args:
      name: the path of a Python file, a colon, and the name of a function in it.
      option: what the user calls the value, for error messages.

    Raises:
      ValueError: there is no such file, or no such function in it.
    """
    path, function = locate(name, option)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{option} names {path}, which is no Python file.")
    sys.path.insert(0, str(path.parent.resolve()))  # as `python path/to/file.py` would
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickles look for it there
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path} has no function {function!r}.")
    return getattr(module, function)


def locate(name: str, option: str) -> tuple[Path, str]:
    """The file and the name of the function of "path/to/file.py:name", without running the file.

    Raises:
      ValueError: it is not written so, or there is no such file.
    """
    file, _, function = name.rpartition(":")
    if not file or not function:
        raise ValueError(f"{option} is {name!r}; write it as path/to/file.py:function.")
    path = from_home(file, option)
    if not path.is_file():
        raise ValueError(f"{option} names {file}, which is no file.")
    return path, function


def from_home(path: str, option: str) -> Path:
    """A path whose "~" stands for the home folder, as shells leave it behind `--out=`.

    Raises:
      ValueError: it is the home folder of somebody who has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{option} is {path!r}: {error}") from None
