import numpy as np
import pytest
import xarray as xr

from experiments import recurrent
from tests.commands import command
from tests.helpers import assert_refuses, slow
from vanishing import data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three cells and a hundred steps, through the command line."""
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--task=temporal_order", "--length=100", "--cells=rnn,irnn,chrono_lstm", "--steps=200"),
        *("--record_every=50", "--examples=2000", "--learning_rates=0.01", "--seeds=1"),
        f"--out={out}",
        experiment="recurrent",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_over_a_hundred_steps_gated_cells_keep_what_tanh_loses(run):
    decades = recurrent.summary(run[1]).decades
    assert float(decades.sel(cell="rnn")) < -8
    assert float(decades.sel(cell="chrono_lstm")) > -2  # six orders of magnitude more is left
    assert abs(float(decades.sel(cell="irnn"))) < 0.5  # rectified units that are off lose some


@pytest.mark.slow
def test_the_gated_cell_learns_what_the_plain_one_cannot(run):
    summary = recurrent.summary(run[1])
    assert float(summary.score.sel(cell="chrono_lstm")) > 0.9
    assert float(summary.loss.sel(cell="chrono_lstm")) < 0.3
    assert float(summary.loss.sel(cell="rnn")) > 0.9
    assert float(summary.score.sel(cell="rnn")) < 0.4


@pytest.mark.slow
def test_theory_of_the_plain_cell_is_drawn_and_right_for_the_nearest_steps(run):
    start = run[1].sel(cell="rnn").isel(learning_rate=0, seed=0, step=0)
    # one-hot inputs of six features, whose kernels have the variance 1/6: sigma_x^2 is 1/6
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    weight, q = weight / weight.sum(), 1.0
    for _ in range(200):
        q = weight @ np.tanh(q**0.5 * z) ** 2 + 1 / 6
    a_step = np.log10(weight @ np.cosh(q**0.5 * z) ** -4) / 2
    np.testing.assert_allclose(np.diff(start.predicted_log10_left), a_step, rtol=1e-4)
    measured = float(start.log10_h.sel(lag=20) - start.log10_h.sel(lag=1)) / 19
    assert measured == pytest.approx(a_step, abs=0.04)  # 32 units; a tenth either way of a step
    assert run[1].predicted_log10_left.sel(cell="irnn").isnull().all()


@pytest.mark.slow
def test_lags_count_back_from_the_last_state(run):
    dataset = run[1]
    assert dataset.lag.values.tolist() == list(range(100))
    # the gradient enters at the last state: nothing is larger in a cell whose steps contract
    assert (dataset.log10_h.sel(cell="rnn").isel(step=0).argmax("lag") == 0).all()
    assert dataset.log10_c.sel(cell="chrono_lstm").notnull().all()
    assert dataset.log10_c.sel(cell="rnn").isnull().all()


@pytest.mark.slow
def test_the_verdict_and_the_figure_say_it(run):
    stdout, dataset = run
    rows = {line.split()[0]: line for line in stdout.splitlines() if " 0.01 " in line}
    assert rows["rnn"].endswith("stays at the memoryless baseline")
    assert rows["chrono_lstm"].split()[-1] in ("learns", "part")
    assert "From the lowest test loss to the highest: chrono_lstm" in stdout
    loss, gradient = recurrent.figure(dataset).axes
    curve = gradient.lines[0]  # the first cell, at initialisation
    expected = dataset.log10_h.sel(cell="rnn").isel(learning_rate=0, seed=0, step=0)
    np.testing.assert_allclose(curve.get_ydata(), expected)
    flat = [line for line in loss.lines if line.get_label() == "without memory"]
    np.testing.assert_allclose(flat[0].get_ydata(), np.log(4))


@pytest.mark.parametrize("task", ["adding", *slow("copy_memory", "pixels")])
def test_what_knows_nothing_scores_the_memoryless_loss(task):
    goal = recurrent.goal(recurrent.Config(task=task, length=20, examples=2000))
    y = goal.examples.y_train
    if task == "adding":
        ignorant, expected = np.ones((len(y), 1), np.float32), 0.04 * (2 - 0.04)
    elif task == "copy_memory":  # the blank for certain, then one of 8 symbols
        ignorant = np.full((*y.shape, 9), -100.0, np.float32)
        ignorant[:, :-10, data.sequences.BLANK] = ignorant[:, -10:, :8] = 0.0
        expected = 1 / 8
    else:
        ignorant, expected = np.zeros((len(y), 10), np.float32), np.mean(np.asarray(y) == 0)
    assert float(goal.loss(ignorant, y)) == pytest.approx(goal.memoryless, rel=0.05)
    # of 2000 answers or more, three standard errors are under 0.025
    assert float(goal.score(ignorant, y)) == pytest.approx(float(expected), abs=0.025)


@pytest.mark.parametrize(
    ("loss", "diverged", "word"),
    [
        (1.0, 0, "stays at the memoryless baseline"),
        (0.5, 0, "learns in part"),
        (0.05, 0, "learns"),
        (0.05, 1, "diverges (1 of 3 seeds)"),
        (np.nan, 0, "failed"),
    ],
)
def test_words(loss, diverged, word):
    assert recurrent.answer(loss, diverged, 3) == word


def test_options_that_do_not_fit_are_refused_in_one_line():
    assert_refuses(lambda: recurrent.Config(steps=150, record_every=100), "steps is 150")
    assert_refuses(lambda: recurrent.Config(cells=("elman",)), "'elman'", "one of rnn, irnn")
    assert_refuses(lambda: recurrent.Config(length=5), "length has 5", "at least 10")
