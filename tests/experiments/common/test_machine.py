import random
import re
import signal
import socket
import time

import numpy as np
import pytest
import xarray as xr

from experiments.common import machine
from tests.commands import Running, command
from tests.helpers import assert_refuses
from tests.victim import left_behind

# Networks whose states outgrow a core's cache are advanced one by one, however many devices.
ONE_BY_ONE = (
    "--activations=tanh",
    "--depths=2,40",
    "--width=64",
    "--steps=12",
    "--record_every=2",
    "--seeds=4",
    "--learning_rates=0.01,0.1",
    "--batch_size=16",
)


def dataset(folder):
    with xr.open_dataset(folder / "data.nc") as file:
        return file.load()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_a_sweep_killed_at_random_moments_ends_with_the_same_dataset(kills, tmp_path):
    """Real processes die of SIGKILL: compiling, training, keeping checkpoints."""
    reference, folder = tmp_path / "whole", tmp_path / "killed"
    process = Running("tests.walks", f"--out={reference}").ended()
    assert process.returncode == 0, process.stderr
    victims = Running("tests.victim", str(kills), str(folder)).ended()
    assert victims.returncode == 0, victims.stdout + victims.stderr
    leftovers = re.findall(r"killed; .*: (\d+)((?: \d+)*)$", victims.stdout, re.MULTILINE)
    assert len(leftovers) == kills
    if kills >= 20:
        assert len({parts for parts, _ in leftovers}) >= 2, (
            f"too few died between two cells: {leftovers}"
        )
        assert len({chunks for _, chunks in leftovers}) >= 3, (
            f"too few died with a checkpoint: {leftovers}"
        )
    assert (folder / "data.nc").read_bytes() == (reference / "data.nc").read_bytes()


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    process = command(*ONE_BY_ONE, f"--out={out}", "--host_devices=1")
    assert process.returncode == 0, process.stderr
    return dataset(out)


def assert_same_results(actual, expected):
    """Bit for bit where each network runs by itself, else to the rounding of float32."""
    xr.testing.assert_equal(actual.sel(depth=40), expected.sel(depth=40))
    numbers = [name for name in expected.data_vars if expected[name].dtype.kind == "f"]
    xr.testing.assert_allclose(actual[numbers], expected[numbers], rtol=1e-4, atol=1e-12)


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one(tmp_path, on_one_device):
    process = command(*ONE_BY_ONE, f"--out={tmp_path}", "--host_devices=8")
    assert process.returncode == 0, process.stderr
    assert "Running on 8 x cpu" in process.stdout
    assert_same_results(dataset(tmp_path), on_one_device)


def together(out, module="experiments.activation", question=ONE_BY_ONE):
    """A command as two processes of two devices each, which find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = ("--num_processes=2", f"--coordinator={address}", "--host_devices=2", f"--out={out}")
    flags = (*question, *options, "--checkpoint_every=0.001")
    return [Running(module, *flags, f"--process_id={n}") for n in (0, 1)]


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    processes = [process.ended() for process in together(out)]
    assert [process.returncode for process in processes] == [0, 0], processes
    return out, processes


@pytest.mark.slow
def test_two_processes_share_one_result_that_is_that_of_one_device(on_two_processes, on_one_device):
    out, (first, second) = on_two_processes
    assert "Running on 4 x cpu" in first.stdout
    assert "Dataset" not in second.stdout, "only the first process speaks"
    assert_same_results(dataset(out), on_one_device)


@pytest.mark.slow
def test_two_processes_go_on_after_both_or_one_of_them_was_killed(tmp_path):
    """One that is left alone ends by itself: its next exchange with the dead one fails."""
    walks = {"module": "tests.walks", "question": ("--sizes=2,3", "--chunks=20")}
    reference, folder = tmp_path / "whole", tmp_path / "disturbed"
    moments = random.Random(0)
    for victims in ((0, 1), (1,), (0,)):
        pair, before = together(folder, **walks), left_behind(folder)
        pair[0].wait_until(lambda before=before: left_behind(folder) not in (before, (0,)))
        time.sleep(moments.uniform(0.0, 0.1))
        for number in victims:
            pair[number].kill()
        processes = [process.ended(120.0) for process in pair]
        dead = tuple(n for n in (0, 1) if processes[n].returncode == -signal.SIGKILL)
        assert dead == victims, f"not all the others ended: {processes}"
        assert all(process.returncode for process in processes)
        assert not (folder / "data.nc").exists()
    for out in (folder, reference):
        processes = [process.ended() for process in together(out, **walks)]
        assert [process.returncode for process in processes] == [0, 0], processes
    assert (folder / "data.nc").read_bytes() == (reference / "data.nc").read_bytes()


def test_processes_that_are_not_told_apart_are_refused(tmp_path):
    process = command("--coordinator=localhost:1234", f"--out={tmp_path}")
    assert process.returncode != 0
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert "coordinator, num_processes and process_id belong together; give all" in process.stderr


@pytest.mark.slow
def test_a_second_process_in_the_same_folder_stops_and_the_first_can_be_interrupted(tmp_path):
    # long in all, but short from one chunk to the next: Ctrl-C waits for the end of a chunk
    small = ("--activations=tanh", "--depths=2", "--width=8", "--seeds=1", "--batch_size=16")
    flags = (*small, "--learning_rates=0.01,0.1", "--steps=400000", f"--out={tmp_path}")
    first = Running("experiments.activation", *flags)
    first.wait_until(lambda: "Running" in first.stdout())
    second = command(*flags)
    first.interrupt()
    process = first.ended(60.0)
    assert second.returncode != 0
    assert len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert f"{tmp_path} is in use by another process" in second.stderr
    assert process.returncode == 1
    message = f"activation: interrupted; the same command goes on from {tmp_path}."
    assert process.stderr.strip() == message


@pytest.mark.slow
def test_a_network_that_fails_is_said_and_the_others_are_there(tmp_path):
    flags = ("--activations=identity,tanh", "--depths=2", "--width=8", "--steps=16")
    rates = ("--record_every=2", "--seeds=2", "--learning_rates=1e8", "--abort_nonfinite")
    process = command(*flags, *rates, "--batch_size=16", f"--out={tmp_path}")
    assert process.returncode == 1
    assert "FAILED identity, 2: a loss is infinite or nan at step" in process.stdout
    assert "1 of the networks failed, identity, 2: a loss" in process.stderr
    results = dataset(tmp_path)
    assert np.isfinite(results.loss.sel(activation="tanh")).all()
    assert np.isnan(results.loss.sel(activation="identity")).all()


def test_networks_that_no_device_has_room_for_are_refused_with_their_size(tmp_path):
    small = ("--depths=2", "--activations=tanh", "--width=8", "--seeds=1", "--batch_size=16")
    process = command(*small, "--learning_rates=0.01", "--memory_gb=1e-6", f"--out={tmp_path}")
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert re.search(
        r"one point needs 0\.\d+ GB of memory on a device that has 1e-06", process.stderr
    )


@pytest.mark.parametrize(
    ("address", "process", "message"),
    [
        ("localhost", 0, "coordinator is 'localhost'; it must be host:port, as 10.0.0.1:1234."),
        ("http://localhost:1", 0, "coordinator is 'http://localhost:1'; it must be host:port"),
        ("localhost:port", 0, "coordinator is 'localhost:port'; it must be host:port"),
        ("[::1]:1234", 2, "process_id is 2; of 2 processes it must be at most 1."),
    ],
)
def test_addresses_that_are_none_are_refused_before_anyone_waits(address, process, message):
    options = machine.MachineOptions(coordinator=address, num_processes=2, process_id=process)
    assert_refuses(lambda: machine._join(options), message)
