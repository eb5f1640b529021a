"""Measures your own model, layer by layer, and explains the faults of its gradient.

    vanishing diagnose --model=path/to/file.py:make_loss

`make_loss` takes nothing and returns `(loss_fn, params, args)`; the loss is called as
`loss_fn(params, *args)` and returns a real scalar, or with `--has_aux` a pair of it and anything
else. Prints a table of signal and gradient, layer by layer, the operations that lost the gradient,
and the findings with their remedies.
"""

from collections.abc import Callable
from typing import Any

from absl import flags

from vanishing import _arguments
from vanishing._loading import load_function
from vanishing.diagnosis.rules import diagnose
from vanishing.probing import LEVELS, SUMMARIES, probe

USUAL = "model"  # the flag that an argument without a flag is meant for


def define_flags() -> None:
    """Define the flags of this verb."""
    flags.DEFINE_string("model", None, "The function, as path/to/file.py:name.")
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
    if not options.model:
        raise ValueError("model is missing; write --model=path/to/file.py:make_loss.")
    if options.plot:
        from vanishing.figures.rows import require_picture

        require_picture("plot", options.plot)
    result = load_function(options.model, "model")()
    if not (isinstance(result, tuple) and len(result) == 3):
        raise ValueError(f"{options.model} must return (loss_fn, params, args).")
    loss, params, args = result
    _arguments.instance("args", args, (tuple, list), "a tuple, such as (x,) for a single argument")
    return report(loss, params, tuple(args), options)


def report(loss: Callable, params: Any, args: tuple, options: flags.FlagValues) -> str:
    """The trace, the budget and the diagnosis of a loss, and what the options ask for beside."""
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
