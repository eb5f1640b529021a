"""The page of all experiments: its presets name real flags, and failures are said."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import all as every
from experiments.common import catalog

ROOT = Path(__file__).parents[2]


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.all", *flags], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("preset", every.PRESETS)
def test_presets_name_every_experiment_and_values_that_it_allows(preset):
    assert set(every.PRESETS[preset]) == set(catalog.questions())
    for name, text in every.PRESETS[preset].items():
        config = importlib.import_module(f"experiments.{name}").Config()
        changes = {}
        for flag in text.split():
            field, value = flag.removeprefix("--").split("=")
            now = getattr(config, field)
            of = type(now[0]) if isinstance(now, tuple) else type(now)
            changes[field] = (
                tuple(map(of, value.split(","))) if isinstance(now, tuple) else of(value)
            )
        dataclasses.replace(config, **changes)  # raises where a value is not allowed


@pytest.mark.slow
def test_the_page_shows_figures_and_says_what_failed(tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    (folder / "data.nc").write_text("no dataset")
    process = run("--only=backprop,depth", f"--out={tmp_path}")
    assert process.returncode == 1
    assert process.stderr.strip() == "all: 1 of 2 failed: depth."
    page = (tmp_path / "index.html").read_text()
    assert '<img src="backprop/figure.png"' in page
    assert (tmp_path / "backprop" / "figure.png").exists()
    assert (tmp_path / "backprop" / "verdict.txt").read_text().split()[0] in page
    assert "Failed: depth:" in page
    assert "depth/figure.png" not in page


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "taken").touch()
    process = run(f"--out={tmp_path / 'taken' / 'page'}")
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("all: ")
    assert "Not a directory" in line


def test_an_unknown_name_is_refused_in_one_line():
    process = run("--only=depths")
    assert process.returncode == 1
    assert process.stderr.startswith("all: only has 'depths'; it must be one of activation, ")
    assert len(process.stderr.strip().splitlines()) == 1
