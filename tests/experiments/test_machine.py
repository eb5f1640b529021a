import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.experiments.test_launch import command

ROOT = Path(__file__).parents[2]
# Networks whose states outgrow a core's cache are advanced one by one, however many devices.
ONE_BY_ONE = (
    "--activations=tanh",
    "--depths=2,40",
    "--width=64",
    "--steps=6",
    "--record_every=2",
    "--seeds=4",
    "--learning_rates=0.01,0.1",
    "--batch_size=16",
)


def environment():
    return os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}


def python(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
    )


def dataset(folder):
    with xr.open_dataset(folder / "data.nc") as opened:
        return opened.load()


def test_a_sweep_that_is_killed_at_random_moments_ends_with_the_same_dataset(tmp_path):
    """At least 20 real processes die of SIGKILL: compiling, training, keeping checkpoints."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended = python("tests.walks", f"--out={whole}")
    assert ended.returncode == 0, ended.stderr
    victims = python("tests.victim", "22", killed)
    assert victims.returncode == 0, victims.stdout + victims.stderr
    left = re.findall(r"killed; .*: (\d+)((?: \d+)*)$", victims.stdout, re.MULTILINE)
    assert len(left) == 22
    assert len({parts for parts, _ in left}) >= 2, f"too few died between two cells: {left}"
    assert len({chunks for _, chunks in left}) >= 3, f"too few died with a checkpoint: {left}"
    assert (killed / "data.nc").read_bytes() == (whole / "data.nc").read_bytes()


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    ended = command(*ONE_BY_ONE, f"--out={out}", "--host_devices=1")
    assert ended.returncode == 0, ended.stderr
    return dataset(out)


def assert_same_results(found, expected):
    """Bit for bit where each network runs by itself, else to the rounding of float32."""
    xr.testing.assert_equal(found.sel(depth=40), expected.sel(depth=40))
    numbers = [name for name in expected.data_vars if expected[name].dtype.kind == "f"]
    xr.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-4, atol=1e-12)


def test_eight_devices_give_the_results_of_one(tmp_path, on_one_device):
    ended = command(*ONE_BY_ONE, f"--out={tmp_path}", "--host_devices=8")
    assert ended.returncode == 0, ended.stderr
    assert "Running on 8 x cpu" in ended.stdout
    assert_same_results(dataset(tmp_path), on_one_device)


def test_two_processes_share_one_result_that_is_that_of_one_device(tmp_path, on_one_device):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    joined = ("--num_processes=2", f"--coordinator={address}", "--host_devices=2")
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.activation", *ONE_BY_ONE, *joined),
                *(f"--process_id={number}", f"--out={tmp_path}", "--checkpoint_every=0.1"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for number in (0, 1)
    ]
    said, errors = zip(*(process.communicate(timeout=240) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "Running on 4 x cpu" in said[0]
    assert "Dataset" not in said[1], "only the first process speaks"
    assert_same_results(dataset(tmp_path), on_one_device)


def test_processes_that_are_not_told_apart_are_refused(tmp_path):
    ended = command("--coordinator=localhost:1234", f"--out={tmp_path}")
    assert ended.returncode != 0
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert "coordinator, num_processes and process_id belong together; give all" in ended.stderr


def test_a_second_process_in_the_same_folder_stops_and_the_first_can_be_interrupted(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.activation", f"--out={tmp_path}", "--steps=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as first:
        assert first.stdout
        assert "Running" in first.stdout.readline()
        second = command(f"--out={tmp_path}", "--steps=100000")
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert second.returncode != 0
    assert len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert f"{tmp_path} is in use by another process" in second.stderr
    assert first.returncode == 1
    assert said.strip() == f"activation: interrupted; the same command goes on from {tmp_path}."


def test_a_network_that_fails_is_said_and_the_others_are_there(tmp_path):
    flags = ("--activations=identity,tanh", "--depths=2", "--width=8", "--steps=16")
    rates = ("--record_every=2", "--seeds=2", "--learning_rates=1e8", "--abort_nonfinite")
    ended = command(*flags, *rates, "--batch_size=16", f"--out={tmp_path}")
    assert ended.returncode == 1
    assert "FAILED identity, 2: a loss is infinite or nan at step" in ended.stdout
    assert "1 of the networks failed, identity, 2: a loss" in ended.stderr
    found = dataset(tmp_path)
    assert np.isfinite(found.loss.sel(activation="tanh")).all()
    assert np.isnan(found.loss.sel(activation="identity")).all()


def test_networks_that_no_device_has_room_for_are_refused_with_their_size(tmp_path):
    ended = command("--depths=2", "--activations=tanh", "--memory_gb=1e-6", f"--out={tmp_path}")
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert re.search(
        r"one point needs 0\.\d+ GB of memory on a device that has 1e-06", ended.stderr
    )
