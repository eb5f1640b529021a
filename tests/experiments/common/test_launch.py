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
    assert names == {"data.nc", "config.json", "verdict.txt", "figure.png", "figure.svg"}
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


def test_a_failed_measurement_leaves_no_results(tmp_path):
    def fail(config, run):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        execute(Config(out=str(tmp_path)), fail)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json"}
    execute(Config(out=str(tmp_path), depths=(2,)))  # a folder that holds nothing is anybody's


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


@pytest.mark.slow
def test_help_is_a_view_of_the_config():
    python = [sys.executable, "-m", "experiments.activation", "--help"]  # as a person would
    process = subprocess.run(python, capture_output=True, text=True)
    assert process.stdout.lstrip().startswith("Which activations let the gradient through")
    from experiments.activation import Config as ActivationConfig

    for field in dataclasses.fields(ActivationConfig):
        assert f"--{field.name}" in process.stdout.replace("[no]", "")
