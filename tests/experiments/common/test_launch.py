import dataclasses
import json
import re
import subprocess
import sys

import pytest
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import groups, launch
from experiments.common.options import option
from tests.commands import command
from tests.helpers import slow
from vanishing.sweep import run_folder

SMALLEST = (
    *("--activations=tanh", "--depths=1", "--width=4", "--steps=1", "--record_every=1"),
    *("--seeds=1", "--learning_rates=0.1", "--batch_size=4"),
)


@dataclasses.dataclass(frozen=True)
class Config(launch.SweepOptions):
    depths: tuple[int, ...] = option((2, 3), "Depths.", at_least=1)
    name: str = option("a", "Name.", choices=("a", "b"))
    rate: float = option(0.1, "Rate.", more_than=0)


def measure(config, run):
    del run
    measure.calls += 1
    return xr.Dataset({"depth": ("i", list(config.depths))})


def execute(config, measure=measure, experiment="depth"):
    return launch.execute(
        config, measure, lambda d: f"sum {int(d.depth.sum())}", lambda d: Figure(), experiment
    )


@pytest.fixture(autouse=True)
def _count():
    measure.calls = 0


def test_execute_leaves_all_files_and_says_the_answer(tmp_path, capsys):
    execute(Config(out=str(tmp_path)))
    names = {path.name for path in tmp_path.iterdir() if path.name != ".lock"}
    data = {"data.nc", "data.sha256"}
    assert names == data | {"config.json", "verdict.txt", "figure.png", "figure.svg"}
    sums = ["sha256sum", "--check", "--status", "data.sha256"]
    assert subprocess.run(sums, cwd=tmp_path).returncode == 0
    stdout = capsys.readouterr().out
    assert "sum 5" in stdout
    assert str(tmp_path / "figure.png") in stdout
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"] == {
        "experiment": "depth",
        "depths": [2, 3],
        "name": "a",
        "rate": 0.1,
    }


def test_the_same_question_is_answered_from_the_folder(tmp_path, capsys):
    for _ in range(2):
        execute(Config(out=str(tmp_path)))
    assert measure.calls == 1
    assert "Reusing" in capsys.readouterr().out
    execute(Config(out=str(tmp_path), overwrite=True, name="b"))
    assert measure.calls == 2


def test_another_question_is_not_mixed_in(tmp_path):
    execute(Config(out=str(tmp_path)))
    before = (tmp_path / "data.nc").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds a run with depths=\[2, 3\], not \[2\]; give anoth"
    ):
        execute(Config(out=str(tmp_path), depths=(2,)))
    with pytest.raises(ValueError, match=r"holds a run with experiment=depth, not residual; give"):
        execute(Config(out=str(tmp_path)), experiment="residual")
    assert (tmp_path / "data.nc").read_bytes() == before


def test_results_of_another_code_version_are_not_mixed_in(tmp_path, monkeypatch):
    execute(Config(out=str(tmp_path)))
    code = run_folder.code_version(["vanishing.sweep.engine", "experiments.common.launch"])
    monkeypatch.setattr(run_folder, "code_version", lambda roots: code)
    first = "experiments.common.launch"
    monkeypatch.setitem(code.modules, first, "another hash")
    message = f"{first} has changed since {tmp_path} was written; give another --out, or --overwri"
    with pytest.raises(ValueError, match=re.escape(message)):
        execute(Config(out=str(tmp_path)))
    execute(Config(out=str(tmp_path), overwrite=True))
    assert measure.calls == 2


def test_results_of_another_version_of_the_users_file_are_not_mixed_in(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Given(groups.NetworkOptions, Config):
        pass

    file = tmp_path / "model.py"
    for text in ("width = 3", "# a comment\nwidth = 3"):
        file.write_text(text)
        config = Given(out=str(tmp_path / "run"), network=f"{file}:make")
        execute(config)
    assert measure.calls == 1
    file.write_text("width = 4")
    with pytest.raises(ValueError, match=r"model has changed since .* was written; give another"):
        execute(config)


def test_a_failed_measurement_leaves_no_folder(tmp_path):
    def fail(config, run):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        execute(Config(out=str(tmp_path / "new" / "run")), fail)
    with pytest.raises(RuntimeError):
        execute(Config(out=str(tmp_path)), fail)
    assert not list(tmp_path.iterdir())


def test_damaged_data_are_named_and_measured_again(tmp_path, caplog):
    for damage in (slice(100, 101), slice(50, None)):
        execute(Config(out=str(tmp_path)))
        whole = (tmp_path / "data.nc").read_bytes()
        damaged = bytearray(whole)
        damaged[damage] = b"" if damage.stop is None else bytes([damaged[100] ^ 1])
        (tmp_path / "data.nc").write_bytes(damaged)
        before = measure.calls
        execute(Config(out=str(tmp_path)))
        assert measure.calls == before + 1
        assert f"{tmp_path / 'data.nc'} is damaged; it is computed again." in caplog.text
        assert (tmp_path / "data.nc").read_bytes() == whole
        caplog.clear()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"config": null}', "\x00"])
def test_a_damaged_config_is_named_and_written_anew_and_the_data_are_kept(text, tmp_path, caplog):
    execute(Config(out=str(tmp_path)))
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged, and .*data.nc may be of anoth"):
        execute(Config(out=str(tmp_path), depths=(7,)))
    execute(Config(out=str(tmp_path)))
    assert measure.calls == 1
    assert f"{tmp_path / 'config.json'} is damaged; it is written anew." in caplog.text
    assert (tmp_path / "config.json").read_text() == whole
    (tmp_path / "config.json").write_text(text)
    execute(Config(out=str(tmp_path), depths=(7,), overwrite=True))
    assert measure.calls == 2


def test_the_tilde_of_out_is_the_home_folder(tmp_path):
    process = command("--out=~/run", *SMALLEST, cwd=tmp_path, home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "home" / "run" / "data.nc").exists()
    assert not (tmp_path / "~").exists()
    process = command("--out=~nobody-of-this-name/run", *SMALLEST, cwd=tmp_path)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("activation: out is '~nobody-of-this-name/run': ")


def test_failed_cells_are_said_and_tried_again(tmp_path, capsys):
    def half(config, run):
        del run
        half.calls += 1
        cells = {"depth": [2, 3], "failure": ("depth", ["", "out of memory."])}
        return xr.Dataset({"y": ("depth", [1.0, float("nan")])}, cells).reset_coords("failure")

    half.calls = 0
    for _ in range(2):
        dataset = execute(Config(out=str(tmp_path)), half)
    assert launch.failures(dataset) == ["3: out of memory."]
    assert "FAILED 3: out of memory." in capsys.readouterr().out
    assert half.calls == 2


@pytest.mark.parametrize(
    ("flag", "fragment"),
    [
        (
            "--activations=sigmoyd",
            ": activations has 'sigmoyd'; it must be one of identity, sigmoid",
        ),
        ("--subset=maybe", "--subset=maybe: expected true or false"),
        ("--depths=-3", "depths has -3; it must be at least 1"),
        ("--depths=2,x", "expected int values separated by commas"),
        ("--dept=2", "Did you mean: depths ?"),
        ("--steps=many", "--steps"),
        ("--steps=7", "steps is 7; it must be a multiple of record_every (10)"),
        ("--momentum=1", "momentum is 1.0; it must be under 1"),
        ("stray", "unexpected argument 'stray'"),
        ("--out=taken", "out is taken, which is a file"),
        ("--out=taken/run", "Not a directory"),
        ("--learning_rates=1e-50", "learning_rates has 1e-50, which JAX holds as 0.0; sizes of"),
        *slow(
            ("--data_dir=/no/such --data=mnist", "data_dir /no/such is no folder"),
            ("--batch_size=5000", "batch_size is 5000, but there are 1437 examples"),
        ),
    ],
)
def test_a_bad_value_ends_in_one_clear_line(tmp_path, flag, fragment):
    (tmp_path / "taken").write_text("a file, not a folder")
    process = command(*flag.split(), cwd=tmp_path)
    assert process.returncode != 0
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert fragment in process.stderr
    assert "verbosity" not in process.stderr, "it is no line of code that is wrong"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"], "it leaves no folder behind"


NETWORKS = """
import sys
def divide():
    return 1 / 0
def ends():
    sys.exit()
def late():
    class Net:
        def __call__(self, rngs):
            raise KeyError("kernel")
    return Net()
"""


@pytest.mark.parametrize(
    ("text", "name", "reason", "line"),
    [
        (NETWORKS, "divide", "ZeroDivisionError: division by zero", 4),
        (NETWORKS, "ends", "the program was ended by SystemExit", 6),
        *slow((NETWORKS, "late", "KeyError: 'kernel'", 10)),
        ("import no_such\n", "f", "ModuleNotFoundError: No module named 'no_such'", 1),
        ("def f(:\n", "f", "SyntaxError: invalid syntax", 1),
    ],
)
def test_an_error_in_the_users_network_is_one_line_with_theirs(text, name, reason, line, tmp_path):
    file = tmp_path / "own_network.py"
    file.write_text(text)
    flags = (f"--network={file}:{name}", "--optimizers=sgd", f"--out={tmp_path / 'run'}")
    process = command(*flags, experiment="optimizer")
    assert process.returncode == 1
    (message,) = process.stderr.splitlines()
    assert message.startswith(f"optimizer: {reason}")
    assert f"{file}:{line}; --verbosity=1 shows the traceback)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_is_a_view_of_the_config():
    python = [sys.executable, "-m", "experiments.activation", "--help"]  # as a person would
    process = subprocess.run(python, capture_output=True, text=True)
    assert process.stdout.lstrip().startswith("Which activations let the gradient through")
    from experiments.activation import Config as ActivationConfig

    for field in dataclasses.fields(ActivationConfig):
        assert f"--{field.name}" in process.stdout.replace("[no]", "")
