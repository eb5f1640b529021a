"""What is wrong with the gradient of a model of one's own?

    python -m experiments.diagnose --model=path/to/file.py:make_loss

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

from absl import app, flags, logging

from vanishing import diagnose, probe
from vanishing.probe import LEVELS, SUMMARIES

MODEL = flags.DEFINE_string("model", None, "The function, as path/to/file.py:name.", required=True)
LEVEL = flags.DEFINE_enum("level", "layer", LEVELS, "A row for each layer, or for each operation.")
HAS_AUX = flags.DEFINE_bool("has_aux", False, "Does the loss return (value, aux)?")
CHECK = flags.DEFINE_integer(
    "check", 0, "Rows to prove against perturbation gradients.", lower_bound=0
)
ANNOTATE = flags.DEFINE_bool("annotate", False, "Also print the source with the sizes beside it.")
PLOT = flags.DEFINE_string("plot", "", "Also write a picture to this file, such as trace.png.")


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


def report(loss: Callable, params: Any, args: tuple) -> str:
    """Everything that is said of a loss."""
    probed = probe(loss, has_aux=HAS_AUX.value, level=LEVEL.value, summaries=SUMMARIES)
    trace = probed(params, *args).trace
    parts = [str(trace), str(trace.budget()), str(diagnose(trace))]
    if ANNOTATE.value:
        parts.append(trace.annotate())
    if CHECK.value:
        parts.append(str(probed.check(params, *args, rows=CHECK.value)))
    if PLOT.value:
        trace.plot().savefig(PLOT.value, dpi=150)
        parts.append(f"Picture: {PLOT.value}")
    return "\n\n".join(parts)


def main(argv: list[str]) -> None:
    """Print the report; a bad value ends in one line."""
    if argv[1:]:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX tells at INFO of backends that are absent
    try:
        made = load(MODEL.value)()
        if not (isinstance(made, tuple) and len(made) == 3):
            raise ValueError(f"{MODEL.value} must return (loss_fn, params, args).")
        loss, params, args = made
        print(report(loss, params, tuple(args)))
    except (ValueError, TypeError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    app.run(main)
