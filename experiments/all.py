"""Runs every experiment and makes a page of their figures and verdicts.

    python -m experiments.all --preset=quick

About eleven minutes on two CPU cores; `--preset=full` takes sizes as in papers, on MNIST and
CIFAR-10, for an accelerator and a day. Each experiment runs in a process of its own and keeps its
folder below `--out`, so that the same command goes on where it was stopped. If one fails, the
others run all the same; it is named at the end and on the page.
"""

import html
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.common import catalog
from vanishing import layers
from vanishing._loading import from_home
from vanishing._text import one_line, say
from vanishing.sweep import storage

_MNIST = "--data=mnist --steps=20000 --record_every=500 --seeds=5"
PRESETS: dict[str, dict[str, str]] = {  # the flags of each experiment that differ from its defaults
    "quick": {
        "activation": "--depths=2,20 --steps=300 --seeds=2",
        "initialization": "--activations=relu --depths=10 --steps=200 --seeds=2 "
        "--learning_rates=0.001,0.01,0.1",
        "residual": "--counts=16 --steps=200 --seeds=2 --learning_rates=0.001,0.01,0.1",
        "normalization": "--depths=20 --steps=200 --seeds=2 --learning_rates=0.003,0.03,0.1",
        "optimizer": "--activations=sigmoid --steps=200 --seeds=2 --learning_rates=0.001,0.01,0.1",
        "clipping": "--steps=400 --seeds=1",
        "regularization": "--steps=300 --seeds=2 --learning_rates=0.01,0.03",
        "depth": "--steps=800 --learning_rates=1,3",
        "convolution": "--depths=14 --steps=60 --learning_rates=0.01",
        "recurrent": "--task=temporal_order --steps=300 --seeds=1 --learning_rates=0.003,0.01",
        "surrogate": "--functions=sign --depths=6 --steps=300 --seeds=2 --learning_rates=0.01,0.1",
        "backprop": "",
        "mean_field": "--activations=tanh,relu --width=256 --seeds=4",
        "phase_diagram": "",
        "trainability": "--depths=5,20,60 --sigma_ws=0.9,1.1,1.3,1.5,1.9,2.6 --steps=300 --seeds=1",
        "extreme_depth": "--depths=100,1000",
    },
    "full": {
        "activation": f"{_MNIST} --depths=2,10,30,100 --activations={','.join(layers.ACTIVATIONS)}",
        "initialization": f"{_MNIST} --depths=10,20,30,50",
        "residual": f"{_MNIST} --counts=8,32,128",
        "normalization": f"{_MNIST} --depths=10,30,100",
        "optimizer": f"{_MNIST} --depth=10",
        "clipping": f"{_MNIST} --thresholds=0.01,0.1,1,10,100",
        "regularization": f"{_MNIST} --examples=1000 --l1=1e-5,1e-4,1e-3 --l2=1e-4,1e-3,1e-2 "
        "--dropout=0.1,0.2,0.5",
        "depth": "--data=mnist --steps=20000 --record_every=200 --seeds=5",
        "convolution": "--data=cifar10 --depths=8,20,32,56 --width=16 --batch_size=128 "
        "--steps=64000 --record_every=1000 --learning_rates=0.03,0.1 --schedule=cosine --seeds=3",
        "recurrent": "--task=adding --length=200 --units=128 --steps=20000 --record_every=500 "
        "--seeds=5 --learning_rates=1e-4,3e-4,1e-3,3e-3,1e-2",
        "surrogate": f"{_MNIST} --depths=1,2,3,5,10",
        "backprop": "--data=mnist --depth=10 --width=128 --batch_size=128",
        "mean_field": "--seeds=16 --blocks=plain,residual,pre_activation,batch_norm,layer_norm",
        "phase_diagram": "--width=1000 --seeds=16",
        "trainability": "--data=mnist --width=300 --steps=14000 --record_every=1000 --seeds=3",
        "extreme_depth": "--data=mnist",
    },
}


class Ran(NamedTuple):
    """The outcome of one experiment of the page."""

    name: str
    command: str
    seconds: float
    failed: str  # the reason, in a line; empty if it succeeded


def run(name: str, preset: str, out: Path, overwrite: bool) -> Ran:
    """Run one experiment in a process of its own, and write its output to `out`/`name`.log."""
    folder = out / name
    command = ["-m", f"experiments.{name}", *PRESETS[preset][name].split(), f"--out={folder}"]
    before = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *command, *(["--overwrite"] if overwrite else [])],
        capture_output=True,
        text=True,
    )
    (out / f"{name}.log").write_text(process.stdout + process.stderr)
    last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    seconds = time.perf_counter() - before
    return Ran(name, " ".join(["python", *command]), seconds, last if process.returncode else "")


def page(preset: str, ran: Sequence[Ran], out: Path) -> str:
    """The page: for each experiment its question, figure, verdict and command."""
    questions = catalog.questions()
    links = "".join(
        f'<li><a href="#{r.name}">{html.escape(questions[r.name])}</a></li>' for r in ran
    )
    return _PAGE.format(
        preset=preset,
        links=links,
        sections="".join(_section(r, questions[r.name], out) for r in ran),
    )


def _section(ran: Ran, question: str, out: Path) -> str:
    verdict = out / ran.name / "verdict.txt"
    complete = not ran.failed and verdict.exists()
    figure = (
        f'<a href="{ran.name}/figure.svg"><img src="{ran.name}/figure.png" alt="{question}"></a>'
    )
    return _SECTION.format(
        name=ran.name,
        question=html.escape(question),
        figure=figure if complete else f"<p class=failed>Failed: {html.escape(ran.failed)}</p>",
        verdict=html.escape(verdict.read_text()) if complete else "",
        command=html.escape(ran.command),
        seconds=ran.seconds,
    )


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vanishing gradients: every experiment</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; }}
img {{ max-width: 100%; }}
pre {{ font-size: 13px; line-height: 1.35; overflow-x: auto; background: #f6f6f4; padding: 1rem; }}
section {{ border-top: 1px solid #ccc; margin-top: 3rem; }}
.failed {{ color: #a00; font-weight: bold; }}
</style>
<h1>Vanishing gradients: every experiment</h1>
<p>Preset {preset}. A figure leads to its vector graphic; the numbers are in each folder's
<code>data.nc</code>.</p>
<ol>{links}</ol>
{sections}
</html>
"""
_SECTION = """<section id="{name}">
<h2>{question}</h2>
{figure}
<pre>{verdict}</pre>
<p><code>{command}</code>, {seconds:.0f} s; <a href="{name}/data.nc">data.nc</a></p>
</section>
"""


def main(argv: Sequence[str]) -> None:
    """Run them one after another and write the page after each."""
    if argv[1:]:
        sys.exit(f"all: unexpected argument {argv[1]!r}; flags are written --name=value.")
    options = flags.FLAGS
    names = options.only or list(PRESETS[options.preset])
    unknown = [name for name in names if name not in PRESETS[options.preset]]
    if unknown:
        allowed = ", ".join(PRESETS[options.preset])
        sys.exit(f"all: only has {unknown[0]!r}; it must be one of {allowed}.")
    try:
        _run_all(names, options)
    except (OSError, ValueError) as error:  # a full disk, or no such folder
        sys.exit(f"all: {one_line(error)}")


def _run_all(names: Sequence[str], options: flags.FlagValues) -> None:
    out = from_home(options.out or f"runs/all-{options.preset}", "out")
    out.mkdir(parents=True, exist_ok=True)
    ran = []
    for number, name in enumerate(names, start=1):
        say(f"[{number}/{len(names)}] {name} ...")
        ran.append(run(name, options.preset, out, options.overwrite))
        say(f"    {ran[-1].failed or 'done'} ({ran[-1].seconds:.0f} s)")
        storage.write(out / "index.html", page(options.preset, ran, out))
    say(f"Page: {out / 'index.html'}")
    failed = [entry.name for entry in ran if entry.failed]
    if failed:
        sys.exit(f"all: {len(failed)} of {len(ran)} failed: {', '.join(failed)}.")


if __name__ == "__main__":
    flags.DEFINE_enum("preset", "quick", list(PRESETS), "How large the experiments are.")
    flags.DEFINE_string("out", "", "Folder of the page; runs/all-PRESET if empty.")
    flags.DEFINE_list("only", "", "Names of experiments to run; all of them if empty.")
    flags.DEFINE_bool("overwrite", False, "Start afresh where a folder holds results already.")
    app.run(main)
