"""Measures a model of one's own, layer by layer, and says what is wrong with its gradient.

    vanishing diagnose --model=path/to/file.py:make_loss

`make_loss` takes nothing and returns `(loss_fn, params, args)`; the loss is called as
`loss_fn(params, *args)` and returns a real scalar, or with `--has_aux` a pair of it and anything
else. Prints a table of signal and gradient, layer by layer, who lost the gradient, and the findings
with their remedies.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from vanishing.diagnosis.rules import diagnose
from vanishing.probing import LEVELS, SUMMARIES, probe


def define_flags() -> None:
    """The flags of this verb."""
    flags.DEFINE_string("model", None, "The function, as path/to/file.py:name.", required=True)
    flags.DEFINE_enum("level", "layer", LEVELS, "A row for each layer, or for each operation.")
    flags.DEFINE_bool("has_aux", False, "Does the loss return (value, aux)?")
    flags.DEFINE_integer("check", 0, "Rows to prove against perturbation gradients.", lower_bound=0)
    flags.DEFINE_bool("annotate", False, "Also print the source with the sizes beside it.")
    flags.DEFINE_string("plot", "", "Also write a picture to this file, such as trace.png.")


def run(options: flags.FlagValues) -> str:
    """The report on the model that the flags name.

    Raises:
      ValueError: there is no such model, or it is not what it must be.
    """
    made = load(options.model)()
    if not (isinstance(made, tuple) and len(made) == 3):
        raise ValueError(f"{options.model} must return (loss_fn, params, args).")
    loss, params, args = made
    return report(loss, params, tuple(args), options)


def load(model: str) -> Callable[[], tuple[Callable, Any, tuple]]:
    """The function named by "path/to/file.py:name".

    Raises:
      ValueError: there is no such file, or no such function in it.
    """
    file, colon, name = model.rpartition(":")
    if not colon or not file or not name:
        raise ValueError(f"model is {model!r}; write it as path/to/file.py:function.")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"model names {file}, which is no file.")
    sys.path.insert(0, str(path.parent.resolve()))  # as `python path/to/file.py` would
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model names {file}, which is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickles look for it there
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{file} has no function {name!r}.")
    return getattr(module, name)


def report(loss: Callable, params: Any, args: tuple, options: flags.FlagValues) -> str:
    """Everything that is said of a loss."""
    probed = probe(loss, has_aux=options.has_aux, level=options.level, summaries=SUMMARIES)
    trace = probed(params, *args).trace
    parts = [str(trace), str(trace.budget()), str(diagnose(trace))]
    if options.annotate:
        parts.append(trace.annotate())
    if options.check:
        parts.append(str(probed.check(params, *args, rows=options.check)))
    if options.plot:
        trace.plot().savefig(options.plot, dpi=150)
        parts.append(f"Picture: {options.plot}")
    return "\n\n".join(parts)
