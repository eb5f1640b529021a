"""Launching: flags as a view of an experiment's Config, its answer, its progress bar."""

import dataclasses
import functools
import math
import re
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
from vanishing import sweep
from vanishing.sweep import parallel, run_folder, storage

flags.disclaim_key_flags()  # `--help` then lists these flags under the experiment itself


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    more_than: float | None = None,
) -> Any:
    """A field of a Config, with what its flag's help says and what values it allows."""
    limits = {"choices": tuple(choices), "at_least": at_least, "more_than": more_than}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class Config:
    """What every experiment can be told; each adds fields of its own."""

    out: str = option("", "Folder of the results; runs/<experiment> if empty.")
    overwrite: bool = option(False, "Start afresh where the folder holds results already.")
    host_devices: int = option(
        0,
        "Devices that a CPU is presented as, which runs are dealt out to; 0: one a core.",
        at_least=0,
    )
    memory_gb: float = option(
        0.0, "Gigabytes that one device may use; 0: most of what it has.", at_least=0
    )
    checkpoint_every: float = option(
        60.0, "Seconds after which a long run keeps a checkpoint; 0: never.", at_least=0
    )
    distributed: bool = option(
        False,
        "Work together with the other processes that the cluster (Slurm, Kubernetes, Open MPI, "
        "Cloud TPU) has started, in a folder that they all see.",
    )
    coordinator: str = option("", "The first process's host:port, where no cluster tells it.")
    num_processes: int = option(0, "How many processes work together; 0: unknown.", at_least=0)
    process_id: int = option(-1, "The number of this one, from 0; -1: unknown.", at_least=-1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))

    def question(self) -> dict[str, Any]:
        """The part of the configuration that the results depend on."""
        place = {field.name for field in dataclasses.fields(Config)}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in place}


def check(field: dataclasses.Field, value: Any) -> None:
    """Refuse a value that a field's `option` does not allow.

    Raises:
      ValueError: in one line, with the name, the value and what is allowed.
    """
    limits = field.metadata
    if isinstance(field.default, tuple) and not value:
        raise ValueError(f"{field.name} is empty; it takes at least one value.")
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"{field.name} has {one}; it must be a finite number.")
        if limits["choices"] and one not in limits["choices"]:
            allowed = ", ".join(limits["choices"])
            raise ValueError(f"{field.name} has {one!r}; it must be one of {allowed}.")
        if limits["at_least"] is not None and not one >= limits["at_least"]:
            raise ValueError(f"{field.name} has {one}; it must be at least {limits['at_least']}.")
        if limits["more_than"] is not None and not one > limits["more_than"]:
            raise ValueError(f"{field.name} has {one}; it must be over {limits['more_than']}.")
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise ValueError(f"{field.name} names a value twice: {', '.join(map(str, value))}.")


def main(
    defaults: Config,
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
    fields = dataclasses.fields(defaults)
    for field in fields:
        _define_flag(field, getattr(defaults, field.name))

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            said = " ".join(str(error).split())
            # Our validators' lines say the flag and its value better than what absl puts before.
            sys.exit(
                f"{program}: {re.sub(r'^flag --([a-z_]+)=.*?: (?=[a-z_]+ (has|is) )', '', said)}"
            )

    def from_flags(argv):
        if argv[1:]:
            sys.exit(f"{program}: unexpected argument {argv[1]!r}; flags are written --name=value.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX tells at INFO of backends that are absent
        out = f"runs/{program}"
        try:
            values = {field.name: flags.FLAGS[field.name].value for field in fields}
            config = dataclasses.replace(defaults, **values)
            out = config.out or out
            config = dataclasses.replace(config, out=out)
            machine.set_up(config)
            failed = failures(execute(config, measure, verdict, figure, program))
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            logging.debug("Where it came from:", exc_info=True)  # shown with --verbosity=1
            machine.stop(f"{program}: {' '.join(str(error).split())}")
        except KeyboardInterrupt:
            machine.stop(f"{program}: interrupted; the same command goes on from {out}.")
        except Exception:
            if jax.distributed.is_initialized():
                machine.stop(traceback.format_exc())
            raise
        if failed:
            machine.stop(
                f"{program}: {len(failed)} of the networks failed, {failed[0]}; the same command "
                "tries them again."
            )

    app.run(from_flags, flags_parser=parse)


def execute(
    config: Config,
    measure: Callable[..., xr.Dataset],
    verdict: Callable[[xr.Dataset], str],
    figure: Callable[[xr.Dataset], Figure],
    experiment: str,
) -> xr.Dataset:
    """Measure what the folder does not hold already; then save, draw and say it.

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
    code = run_folder.code_version(("vanishing", "experiments"))
    with machine.claimed(Path(config.out), question, code, config.overwrite) as store:
        found = bool(parallel.broadcast_from_first(store.data.exists()))
        dataset = storage.load(store.data) if found else None
        if dataset is not None and not failures(dataset):
            _say(f"Reusing {store.data} (--overwrite starts afresh).")
        else:
            _say(f"Running on {storage.devices()}.")
            run = functools.partial(
                sweep.run,
                store=store,
                memory=config.memory_gb * 1e9 or math.inf,
                checkpoint_every=config.checkpoint_every or math.inf,
                progress=progress,
            )
            with machine.precision(question.get("precision", "float32")):
                dataset = measure(config, run)
            dataset = dataset.assign_attrs(storage.provenance(question), **code)
            if jax.process_index() == 0:
                store.finish(dataset, complete=not failures(dataset))
        if jax.process_index() == 0:
            _draw(figure(dataset), store.path)
            said = "\n".join([verdict(dataset), *(f"FAILED {why}" for why in failures(dataset))])
            storage.write(store.path / "verdict.txt", lambda draft: draft.write_text(said + "\n"))
            _say(f"\n{said}\n")
            _say(f"Dataset: {store.data}\nFigure:  {store.path / 'figure.png'}")
    return dataset


def failures(dataset: xr.Dataset) -> list[str]:
    """What each failed cell of a sweep was, and why it failed."""
    if "failure" not in dataset:
        return []
    reasons = dataset.failure

    def cell(at: tuple[int, ...]) -> str:
        return ", ".join(str(reasons[a].values[i]) for a, i in zip(reasons.dims, at, strict=True))

    return [f"{cell(at)}: {why}" for at, why in np.ndenumerate(reasons.values) if why]


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _draw(drawing: Figure, place: Path) -> None:
    for suffix in ("svg", "png"):
        storage.write(
            place / f"figure.{suffix}",
            lambda draft: drawing.savefig(draft, dpi=150, metadata=_undated(draft)),
        )
        drawing.set_layout_engine("none")  # it is laid out now, and stays so


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

    def valid(value):
        try:
            check(field, value)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    flags.register_validator(field.name, valid)


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


def _undated(path: Path) -> dict[str, None]:
    """Metadata without the time of drawing, so that the same data make the same file."""
    return {"Date": None} if path.suffix == ".svg" else {}
