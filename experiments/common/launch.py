"""Launching an experiment: flags from its Config, its answer, its progress bar."""

import dataclasses
import functools
import io
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from absl import app, flags, logging
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.common import machine
from experiments.common.options import Options, option
from vanishing import sweep
from vanishing._loading import from_home
from vanishing._text import one_line, say
from vanishing.probing.blame import blamed, users_place
from vanishing.sweep import parallel, run_folder, sources, storage

_OURS = Path(__file__).parents[1]  # the experiments' own code

flags.disclaim_key_flags()  # `--help` then lists these flags under the experiment itself


@dataclasses.dataclass(frozen=True)
class OutputOptions(Options):
    """Where the results of an experiment go; every experiment has these."""

    out: str = option("", "Folder of the results; runs/<experiment> if empty.", in_question=False)
    overwrite: bool = option(
        False, "Start afresh where the folder holds results already.", in_question=False
    )

    def __post_init__(self):
        super().__post_init__()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, instead in self.without_effect().items():
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(f"{name} is {value}, but {instead}; leave it out.")

    def without_effect(self) -> dict[str, str]:
        """The options that nothing reads, beside these others, and what is so instead."""
        return {}

    def sources(self) -> dict[str, Path]:
        """The user's own files that the results depend on, by the option that names them."""
        return {}


@dataclasses.dataclass(frozen=True)
class SweepOptions(OutputOptions, machine.MachineOptions):
    """Options of an experiment that runs a grid."""

    memory_gb: float = option(
        0.0,
        "Gigabytes that one device may use; 0: most of what it has.",
        at_least=0,
        in_question=False,
    )
    checkpoint_every: float = option(
        60.0,
        "Seconds after which a long run keeps a checkpoint; 0: never.",
        at_least=0,
        in_question=False,
    )

    def limits(self) -> dict[str, float]:
        """The limits that `sweep.run` takes."""
        return {
            "memory": self.memory_gb * 1e9 or math.inf,
            "checkpoint_every": self.checkpoint_every or math.inf,
        }


def main(
    defaults: OutputOptions,
    measure: Callable[..., xr.Dataset],
    verdict: Callable[[xr.Dataset], str],
    figure: Callable[[xr.Dataset], Figure],
) -> None:
    """Run an experiment from the command line.

    Args:
      defaults: the experiment's Config, whose fields become the flags.
      measure: maps (config, run) to the dataset, where `run` is called as `sweep.run` is.
      verdict: maps the dataset to the answer in words.
      figure: maps the dataset to a picture.
    """
    program = Path(sys.argv[0]).stem
    for field in dataclasses.fields(defaults):
        _define_flag(field, getattr(defaults, field.name))
    answer = functools.partial(
        execute, measure=measure, verdict=verdict, figure=figure, experiment=program
    )
    app.run(
        functools.partial(_run, program, defaults, answer),
        flags_parser=functools.partial(_parse, program),
    )


def _parse(program: str, argv: Sequence[str]) -> Sequence[str]:
    """What absl leaves of the command line; one line on a flag that it cannot read."""
    try:
        remaining = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"{program}: {one_line(error)}")
    if remaining[1:]:
        sys.exit(
            f"{program}: unexpected argument {remaining[1]!r}; flags are written --name=value."
        )
    return remaining


def _run(
    program: str,
    defaults: OutputOptions,
    answer: Callable[[OutputOptions], xr.Dataset],
    argv: Sequence[str],
) -> None:
    """Answer the question that the flags ask; whatever fails ends in one line."""
    del argv  # the flags hold it
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX reports absent back ends at INFO
    out = f"runs/{program}"
    try:
        config = _config(defaults)
        out = str(from_home(config.out, "out")) if config.out else out
        config = dataclasses.replace(config, out=out)
        devices = config if isinstance(config, SweepOptions) else machine.MachineOptions()
        machine.set_up(devices, Path(out, "cache"))
        failed = failures(answer(config))
    except KeyboardInterrupt:
        machine.stop(f"{program}: interrupted; the same command goes on from {out}.")
    except SystemExit as error:  # of the user's code, whose exit code would be taken for ours
        machine.stop(f"{program}: the program was ended by {blamed(error, _OURS)}.")
    except Exception as error:
        logging.debug("Where it came from:", exc_info=True)  # shown with --verbosity=1
        expected = isinstance(error, ValueError | OSError | jax.errors.JaxRuntimeError)
        if expected and not users_place(error, _OURS):
            machine.stop(f"{program}: {one_line(error)}")
        if expected or users_place(error, _OURS):
            machine.stop(f"{program}: {blamed(error, _OURS)}")
        if jax.distributed.is_initialized():
            machine.stop(traceback.format_exc())
        raise
    if failed:
        machine.stop(
            f"{program}: {len(failed)} of the networks failed, {failed[0]}; the same command "
            "tries them again."
        )


def _config(defaults: OutputOptions) -> OutputOptions:
    """The configuration that the flags name; it checks its values itself."""
    names = [field.name for field in dataclasses.fields(defaults)]
    return dataclasses.replace(defaults, **{name: flags.FLAGS[name].value for name in names})


def execute(
    config: OutputOptions,
    measure: Callable[..., xr.Dataset],
    verdict: Callable[[xr.Dataset], str],
    figure: Callable[[xr.Dataset], Figure],
    experiment: str,
) -> xr.Dataset:
    """Measure what the folder does not hold yet; then save the dataset, draw and print the answer.

    Leaves `data.nc`, `config.json`, `verdict.txt`, `figure.png` and `figure.svg` in the folder
    `config.out`.

    Args:
      config, measure, verdict, figure: as `main` takes them.
      experiment: its name; a folder holds one experiment.

    Raises:
      ValueError: the folder holds the results of another experiment, configuration or code version,
        or another process works in it.
      OSError: the folder cannot be written to.
    """
    question = {"experiment": experiment, **config.question()}
    code = run_folder.code_version([*_modules(measure), *config.sources().values()])
    with machine.claimed(Path(config.out), question, code, config.overwrite) as store:
        is_first = jax.process_index() == 0
        stored = bool(parallel.broadcast_from_first(is_first and store.is_finished()))
        dataset = storage.load(store.data) if stored else None
        if dataset is not None and not failures(dataset):
            _say(f"Reusing {store.data} (--overwrite starts afresh).")
        else:
            _say(f"Running on {storage.devices()}.")
            limits = config.limits() if isinstance(config, SweepOptions) else {}
            run = functools.partial(sweep.run, store=store, progress=progress, **limits)
            with machine.precision(question.get("precision", "float32")):
                dataset = measure(config, run)
            dataset = dataset.assign_attrs(storage.provenance(question), **code.attributes())
            if is_first:
                store.finish(dataset, complete=not failures(dataset))
        if is_first:
            _draw(figure(dataset), store.path)
            text = "\n".join(
                [verdict(dataset), *(f"FAILED {reason}" for reason in failures(dataset))]
            )
            storage.write(store.path / "verdict.txt", text + "\n")
            _say(f"\n{text}\n")
            _say(f"Dataset: {store.data}\nFigure:  {store.path / 'figure.png'}")
    return dataset


def _modules(measure: Callable[..., xr.Dataset]) -> list[str | Path]:
    """The modules that results depend on: this one, and that of the experiment."""
    experiment = sources.module_of(measure)
    return [__name__] if experiment is None else [experiment, __name__]


def failures(dataset: xr.Dataset) -> list[str]:
    """Each failed cell of a sweep, with the reason."""
    if "failure" not in dataset:
        return []
    reasons = dataset.failure

    def cell(at: tuple[int, ...]) -> str:
        return ", ".join(str(reasons[a].values[i]) for a, i in zip(reasons.dims, at, strict=True))

    return [f"{cell(at)}: {reason}" for at, reason in np.ndenumerate(reasons.values) if reason]


def _say(text: str) -> None:
    if jax.process_index() == 0:
        say(text)


def _draw(drawing: Figure, folder: Path) -> None:
    for suffix in ("svg", "png"):
        picture = io.BytesIO()
        # without the time of drawing the same data make the same file
        undated = {"Date": None} if suffix == "svg" else {}
        drawing.savefig(picture, format=suffix, dpi=150, metadata=undated)
        storage.write(folder / f"figure.{suffix}", picture.getvalue())
        drawing.set_layout_engine("none")  # the layout of the first file holds for the second


def progress(items: Iterable, label: str = "") -> Iterable:
    """The items, with a bar on a terminal that shows how many are done."""
    off = True if jax.process_index() else None  # None: where there is no terminal
    return tqdm(items, desc=label, disable=off, leave=False)


def _define_flag(field: dataclasses.Field, default: Any) -> None:
    limits = field.metadata
    help = limits["help"] + (f" One of: {', '.join(limits['choices'])}." * bool(limits["choices"]))
    if isinstance(default, tuple):
        parser = _TupleParser(type(default[0]))
        flags.DEFINE(parser, field.name, default, help, serializer=_TupleSerializer())
    elif isinstance(default, bool):
        flag = flags.BooleanFlag(field.name, default, help)
        flag.parser = _BooleanParser()
        flags.DEFINE_flag(flag)
    else:
        kind = {int: "integer", float: "float", str: "string"}[type(default)]
        getattr(flags, f"DEFINE_{kind}")(field.name, default, help)


class _BooleanParser(flags.BooleanParser):
    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError("expected true or false") from None


class _TupleParser(flags.ArgumentParser):
    syntactic_help = "a comma-separated list"

    def __init__(self, kind: type):
        self.kind = kind

    def parse(self, argument: Any) -> tuple:
        if isinstance(argument, tuple):
            return argument
        try:
            return tuple(self.kind(part.strip()) for part in argument.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"expected {self.kind.__name__} values separated by commas") from None

    def flag_type(self) -> str:
        return f"{self.kind.__name__}, comma-separated"


class _TupleSerializer(flags.ArgumentSerializer):
    def serialize(self, value: tuple) -> str:
        return ",".join(map(str, value))
