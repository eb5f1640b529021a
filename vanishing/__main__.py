"""The command line: `vanishing VERB`, or `python -m vanishing VERB`."""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from absl import app, flags, logging

from vanishing import __version__
from vanishing._text import one_line, say
from vanishing.probing.blame import blamed

# Modules with `define_flags`, with `run`, which returns a text and an exit code, and with the name
# of the flag that is usually given as USUAL.
VERBS = {"diagnose": "vanishing.diagnosis.command"}


def main() -> None:
    """Run the verb that the command line names; a bad value ends in one line."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb == "--version":
        say(f"vanishing {__version__}")
        return
    modules = {name: importlib.import_module(module) for name, module in VERBS.items()}
    if verb in _HELP:
        lines = (f"  {name}  {_lines(module)[0]}" for name, module in modules.items())
        say("\n".join(["usage: vanishing VERB [flags]", "", *lines, "", _HINT]))
        return
    if verb not in modules:
        _fail(f"vanishing: verb is {verb!r}; it must be one of {', '.join(modules)}.")
    modules[verb].define_flags()
    if set(rest) & set(_HELP):
        say("\n".join([*_lines(modules[verb]), "", flags.FLAGS.module_help(VERBS[verb])]))
        return

    def checked(argv: list[str]) -> None:
        if argv[1:]:
            usual = modules[verb].USUAL
            flag = "flags as --name=value" if flags.FLAGS[usual].value else f"--{usual}={argv[1]}"
            _fail(f"vanishing {verb}: unexpected argument {argv[1]!r}; write {flag}.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # at INFO, JAX lists backends that are absent
        try:
            text, code = modules[verb].run(flags.FLAGS)
        except KeyboardInterrupt:
            _fail(f"vanishing {verb}: interrupted.")
        except SystemExit as error:  # of the user's code, whose exit code would be taken for ours
            _fail(f"vanishing {verb}: the program was ended by {blamed(error)}.")
        except Exception as error:
            logging.debug("Where it came from:", exc_info=True)  # shown with --verbosity=1
            _fail(f"vanishing {verb}: {blamed(error)}")
        say(text)
        sys.exit(code)

    app.run(checked, argv=[sys.argv[0], *rest], flags_parser=lambda argv: _parse(verb, argv))


def _parse(verb: str, argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"vanishing {verb}: {one_line(error)}")


def _fail(message: str) -> NoReturn:
    """End with a message of one line, and the exit code of what could not be done."""
    print(message, file=sys.stderr)
    sys.exit(2)


def _lines(module: ModuleType) -> Sequence[str]:
    return (module.__doc__ or "").strip().splitlines()


_HINT = "vanishing VERB --help lists the flags of a verb; vanishing --version prints the version."
_HELP = ("-h", "-help", "--help", "help")


if __name__ == "__main__":
    main()
