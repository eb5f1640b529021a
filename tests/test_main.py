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


BROKEN = """
import sys
def divide():
    return 1 / 0
def key():
    return {}["width"]
def ends():
    sys.exit(0)
def late():
    def loss(w):
        assert w.shape == (3,), "three weights"
        return w.sum()
    import jax.numpy as jnp
    return loss, jnp.ones(2), ()
def several():
    raise RuntimeError("no\\nwidth")
"""


@pytest.mark.parametrize(
    ("name", "reason", "line"),
    [
        ("divide", "ZeroDivisionError: division by zero", 4),
        ("key", "KeyError: 'width'", 6),
        ("ends", "the program was ended by SystemExit: 0", 8),
        ("late", "AssertionError: three weights", 11),
        ("several", "RuntimeError: no width", 16),
    ],
)
def test_an_error_in_the_users_code_is_one_line_with_theirs(name, reason, line, tmp_path):
    file = tmp_path / "own_model.py"
    file.write_text(BROKEN)
    process = run("diagnose", f"--model={file}:{name}")
    assert process.returncode == 2
    (text,) = process.stderr.splitlines()
    assert text.startswith(f"vanishing diagnose: {reason} (")
    assert f"{file}:{line}; --verbosity=1 shows the traceback)" in text


def test_a_model_that_is_no_python_is_named_by_its_line(tmp_path):
    file = tmp_path / "own_model.py"
    file.write_text("def make():\n    return (1,\n")
    process = run("diagnose", f"--model={file}:make")
    (text,) = process.stderr.splitlines()
    assert "SyntaxError" in text
    assert f"{file}:2; --verbosity=1" in text


def test_verbosity_shows_the_traceback(tmp_path):
    file = tmp_path / "own_model.py"
    file.write_text(BROKEN)
    process = run("diagnose", f"--model={file}:divide", "--verbosity=1")
    assert process.returncode == 2
    assert f'File "{file}", line 4, in divide' in process.stderr
    assert process.stderr.splitlines()[-1].startswith("vanishing diagnose: ZeroDivisionError")


def test_the_console_command_is_the_module():
    """It is called as the script calls it that an installer writes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["vanishing"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    script = [sys.executable, "-c", program, "--help"]
    process = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert process.stdout == run("--help").stdout
