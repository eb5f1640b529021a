import json
import types

import jax.numpy as jnp
import pytest

from tests.commands import Running
from vanishing.diagnosis import command, diagnose

MODEL = """
import jax, jax.numpy as jnp
def make_loss():
    def loss(params, x):
        for w in params:
            x = jax.nn.sigmoid(x @ w)
        return jnp.mean(x)
    return loss, [jnp.eye(8)] * 12, (jnp.ones((4, 8)),)
def healthy():
    return lambda w: jnp.mean(jnp.tanh(jnp.eye(8) @ w) ** 2), jnp.eye(8), ()
def unseen():
    return lambda w: jnp.sum(jnp.linalg.slogdet(w)[1]), 2 * jnp.eye(8), ()
def wrong():
    return 1
def broken():
    return jnp.ones(2) @ jnp.ones(3)
def shapes():
    def loss(params, x):
        return jnp.sum(
            x @ params)
    return loss, jnp.ones((4, 3)), (jnp.ones((2, 3)),)
def one():
    return jnp.sum, jnp.ones(3), jnp.ones(3)
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def run(*flags, **options):
    return Running("vanishing", "diagnose", *flags, **options).ended()


def test_a_model_of_the_user_is_measured_explained_and_diagnosed(model, tmp_path):
    picture = tmp_path / "trace.png"
    flags = (f"--model={model}:make_loss", "--annotate", "--check=3", "--plot=~/trace.png")
    process = run(*flags, home=tmp_path)
    assert process.returncode == 1, process.stderr
    assert "decades lost between" in process.stdout
    assert "were lost in sigmoid at model.py:6" in process.stdout
    assert "vanishing at [0], model.py:6 (high)" in process.stdout
    assert "x = jax.nn.sigmoid(x @ w)" in process.stdout
    assert "worst relative error" in process.stdout
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("{}:absent", "has no function 'absent'"),
        ("{}:wrong", "must return (loss_fn, params, args)"),
        ("{}:broken", "model.py:16; --verbosity=1 shows the traceback"),
        ("{}:shapes", "model.py:20; --verbosity=1 shows the traceback"),
        ("{}:one", "args is float32[3]; it must be a tuple, such as (x,)"),
        ("nowhere.py:make_loss", "is no file"),
        ("nonsense", "path/to/file.py:function"),
    ],
)
def test_a_bad_model_ends_in_one_line(model, flag, reason):
    process = run(f"--model={flag.format(model)}")
    assert process.returncode == 2
    (line,) = [
        line for line in process.stderr.splitlines() if "INFO" not in line and line[:2] != "I1"
    ]
    assert reason in line


@pytest.mark.parametrize(("name", "code"), [("make_loss", 1), ("healthy", 0), ("unseen", 0)])
def test_a_program_gets_json_and_an_exit_code(model, name, code):
    process = run(f"--model={model}:{name}", "--json")
    assert process.returncode == code, process.stderr
    result = json.loads(process.stdout)
    assert [finding["kind"] for finding in result["findings"]] == ["vanishing"] * (code == 1)
    assert result["rows"]  # of operations, where no layer is known


def test_json_is_no_report(model):
    process = run(f"--model={model}:healthy", "--json", "--annotate")
    assert process.returncode == 2
    assert "--json prints no report; leave --annotate out." in process.stderr


def test_a_picture_that_cannot_be_written_is_refused_before_the_model_is_looked_at():
    process = run("--model=nowhere.py:make_loss", "--plot=trace.foo")
    assert process.returncode == 2
    assert "plot is 'trace.foo'; it must end in one of" in process.stderr


def test_a_picture_that_cannot_be_written_does_not_cost_the_report(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    diagnosed, w = diagnose(lambda w: jnp.mean(jnp.tanh(jnp.eye(4) @ w))), jnp.eye(4)
    options = types.SimpleNamespace(every_row=False, annotate=False, check=0)
    text = command.report(diagnosed, diagnosed(w), (w,), options, "trace.png")
    assert "Columns:" in text
    assert text.endswith("No picture: trace.png cannot be written: No space left on device")
