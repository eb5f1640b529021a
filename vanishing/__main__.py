"""The command line: `vanishing VERB`, or `python -m vanishing VERB`."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging

from vanishing._text import one_line

VERBS = {"diagnose": "vanishing.diagnosis.command"}  # modules with `define_flags` and `run`


def main() -> None:
    """Run the verb that the command line names; a bad value ends in one line."""
    verb, *rest = sys.argv[1:] or ["--help"]
    modules = {name: importlib.import_module(module) for name, module in VERBS.items()}
    if verb in _HELP:
        lines = (f"  {name}  {_lines(module)[0]}" for name, module in modules.items())
        print("\n".join(["usage: vanishing VERB [flags]", "", *lines, ""]))
        print("vanishing VERB --help lists the flags of a verb.")
        return
    if verb not in modules:
        sys.exit(f"vanishing: verb is {verb!r}; it must be one of {', '.join(modules)}.")
    modules[verb].define_flags()
    if set(rest) & set(_HELP):
        print("\n".join([*_lines(modules[verb]), "", flags.FLAGS.module_help(VERBS[verb])]))
        return

    def checked(argv: list[str]) -> None:
        if argv[1:]:
            where = f"vanishing {verb}: unexpected argument {argv[1]!r}"
            sys.exit(f"{where}; write flags as --name=value.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # at INFO, JAX lists backends that are absent
        try:
            print(modules[verb].run(flags.FLAGS))
        except (ValueError, TypeError, ImportError, OSError) as error:
            logging.debug("Where it came from:", exc_info=True)  # shown with --verbosity=1
            sys.exit(f"vanishing {verb}: {one_line(error)}{_origin(error)}")

    app.run(checked, argv=[sys.argv[0], *rest], flags_parser=lambda argv: _parse(verb, argv))


def _parse(verb: str, argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"vanishing {verb}: {one_line(error)}")


def _origin(error: Exception) -> str:
    """The line of the user's own or another library's code that raised an error, in brackets."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if Path(last.filename).is_relative_to(Path(__file__).parent):
        return ""  # the message says what to change
    return f" ({last.filename}:{last.lineno}; --verbosity=1 shows the traceback)"


def _lines(module: ModuleType) -> Sequence[str]:
    return (module.__doc__ or "").strip().splitlines()


_HELP = ("-h", "-help", "--help", "help")


if __name__ == "__main__":
    main()
