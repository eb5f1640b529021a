"""Tests of the command line: `python -m vanishing` and the console command."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vanishing
from tests.commands import Running

ROOT = Path(__file__).parent.parent


def run(*flags):
    return Running("vanishing", *flags).ended()


@pytest.mark.parametrize("flags", [(), ("--help",)], ids=["nothing", "help"])
def test_the_verbs_are_listed(flags):
    process = run(*flags)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: vanishing VERB [flags]")
    assert "diagnose  Measures your own model" in process.stdout


def test_the_version_is_printed():
    assert run("--version").stdout == f"vanishing {vanishing.__version__}\n"


def test_a_verb_lists_its_flags():
    process = run("diagnose", "--help")
    assert process.returncode == 0, process.stderr
    assert "vanishing diagnose --model=path/to/file.py:make_loss" in process.stdout
    for flag in ("model", "level", "has_aux", "check", "annotate", "plot"):
        assert f"--{flag}" in process.stdout.replace("[no]", "")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("diagnos",), "vanishing: verb is 'diagnos'; it must be one of diagnose."),
        (("diagnose",), "model is missing; write --model=path/to/file.py:make_loss."),
        (("diagnose", "--modle=a.py:f"), "Did you mean: model"),
        (
            ("diagnose", "--model=a.py:f", "--level=net"),
            "--level=net: value should be one of <layer|op>",
        ),
        (("diagnose", "--model=a.py:f", "more"), "'more'; write flags as --name=value."),
        (("diagnose", "a.py:f"), "unexpected argument 'a.py:f'; write --model=a.py:f."),
    ],
    ids=["unknown verb", "no model", "unknown flag", "bad value", "no flag", "model without flag"],
)
def test_a_wrong_command_ends_in_one_line(flags, reason):
    process = run(*flags)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert reason in line


def test_the_console_command_is_the_module():
    """It is called as the script calls it that an installer writes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["vanishing"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    script = [sys.executable, "-c", program, "--help"]
    process = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert process.stdout == run("--help").stdout
