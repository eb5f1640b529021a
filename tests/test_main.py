"""Tests of the command line: `python -m vanishing` and the console command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Running

ROOT = Path(__file__).parent.parent


def run(*flags):
    return Running("vanishing", *flags).ended()


@pytest.mark.parametrize("flags", [(), ("--help",)], ids=["nothing", "help"])
def test_the_verbs_are_listed(flags):
    ended = run(*flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("usage: vanishing VERB [flags]")
    assert "diagnose  Measures your own model" in ended.stdout


def test_a_verb_lists_its_flags():
    ended = run("diagnose", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "vanishing diagnose --model=path/to/file.py:make_loss" in ended.stdout
    for flag in ("model", "level", "has_aux", "check", "annotate", "plot"):
        assert f"--{flag}" in ended.stdout.replace("[no]", "")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("diagnos",), "vanishing: verb is 'diagnos'; it must be one of diagnose."),
        (("diagnose",), "vanishing diagnose: flag --model"),
        (("diagnose", "--modle=a.py:f"), "Did you mean: model"),
        (
            ("diagnose", "--model=a.py:f", "--level=net"),
            "--level=net: value should be one of <layer|op>",
        ),
        (("diagnose", "--model=a.py:f", "more"), "unexpected argument 'more'"),
    ],
    ids=["unknown verb", "no model", "unknown flag", "bad value", "no flag"],
)
def test_a_wrong_command_ends_in_one_line(flags, reason):
    ended = run(*flags)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert reason in line


def test_the_console_command_is_the_module():
    script = Path(sys.executable).with_name("vanishing")
    if not script.exists():
        pytest.skip("the package is not installed here")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([script, "--help"], capture_output=True, text=True, env=env)
    assert ended.stdout == run("--help").stdout, ended.stderr
