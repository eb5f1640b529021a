"""Measures your own model, layer by layer, and explains the faults of its gradient.

    vanishing diagnose --model=path/to/file.py:make_loss

`make_loss` takes nothing and returns `(loss_fn, params, args)`; the loss is called as
`loss_fn(params, *args)` and returns a real scalar, or with `--has_aux` a pair of it and anything
else. Prints a table of signal and gradient, layer by layer, what its columns say, the operations
that lost the gradient, and the findings with their remedies; or with `--json` all of it for a
program. Ends with exit code 0 where nothing is found, 1 where there is a finding, and 2 where the
model could not be diagnosed.
"""

from absl import flags

from vanishing import _arguments
from vanishing._loading import from_home, load_function
from vanishing.diagnosis.findings import Diagnosis
from vanishing.diagnosis.transform import Diagnose, diagnose
from vanishing.probing import LEVELS

USUAL = "model"  # the flag that an argument without a flag is meant for


def define_flags() -> None:
    """Define the flags of this verb."""
    flags.DEFINE_string("model", None, "The function, as path/to/file.py:name.")
    flags.DEFINE_enum("level", "layer", LEVELS, "A row for each layer, or for each operation.")
    flags.DEFINE_bool("has_aux", False, "Does the loss return (value, aux)?")
    flags.DEFINE_bool("every_row", False, "Also print the middle of long repeats.")
    flags.DEFINE_integer("check", 0, "Rows to prove against perturbation gradients.", lower_bound=0)
    flags.DEFINE_bool("annotate", False, "Also print the source with the sizes beside it.")
    flags.DEFINE_bool("json", False, "Print a document of JSON, and nothing else.")
    flags.DEFINE_string("plot", "", "Also write a picture to this file, such as trace.png.")


def run(options: flags.FlagValues) -> tuple[str, int]:
    """The report on the model that the flags name, and the exit code.

    Raises:
      ValueError: there is no such model, or it is not what it must be; or two flags do not go
        together.
    """
    if not options.model:
        raise ValueError("model is missing; write --model=path/to/file.py:make_loss.")
    beside = [name for name in ("annotate", "check", "every_row", "plot") if options[name].value]
    if options.json and beside:
        raise ValueError(f"--json prints no report; leave --{beside[0]} out.")
    picture = str(from_home(options.plot, "plot")) if options.plot else ""
    if picture:
        from vanishing.figures.rows import require_picture

        require_picture("plot", picture)
    result = load_function(options.model, "model")()
    if not (isinstance(result, tuple) and len(result) == 3):
        raise ValueError(f"{options.model} must return (loss_fn, params, args).")
    loss, params, args = result
    _arguments.instance("args", args, (tuple, list), "a tuple, such as (x,) for a single argument")
    diagnosed = diagnose(loss, has_aux=options.has_aux, level=options.level)
    diagnosis = diagnosed(params, *args)
    code = 1 if diagnosis.findings else 0 if diagnosis.rows else 2
    if options.json:
        return diagnosis.to_json(indent=2), code
    return report(diagnosed, diagnosis, (params, *args), options, picture), code


def report(
    diagnosed: Diagnose,
    diagnosis: Diagnosis,
    args: tuple,
    options: flags.FlagValues,
    picture: str = "",
) -> str:
    """The trace, the budget and the diagnosis, and what the options ask for beside.

    A picture that cannot be written, as on a full disk, does not cost the report.
    """
    trace = diagnosis.trace
    assert trace is not None  # a diagnosis of a loss has one
    columns = f"Columns:\n{trace.legend()}"
    parts = [trace.table(options.every_row), columns, str(trace.budget()), str(diagnosis)]
    if options.annotate:
        parts.append(trace.annotate())
    if options.check:
        parts.append(str(diagnosed.probe.check(*args, rows=options.check)))
    if picture:
        try:
            trace.plot().savefig(picture, dpi=150)
            parts.append(f"Picture: {picture}")
        except OSError as error:
            parts.append(f"No picture: {picture} cannot be written: {error.strerror or error}")
    return "\n\n".join(parts)
