"""Summaries, tables and rankings of datasets whose answers are known beforehand."""

import numpy as np
import pytest
import xarray as xr

from experiments.common import families


def dataset(accuracies, losses=None, factors=(0.1, 1.0)):
    """Two members with 4 layers (3 hidden), two rates, two steps.

    The error signal of member i is multiplied by its factor at each layer on its way back.
    """
    members, rates, seeds = ["a", "b"], [0.1, 1.0], len(accuracies[0])
    shape = (2, 2, seeds, 2)
    dims = ("member", "learning_rate", "seed", "step")
    accuracy = np.zeros(shape)
    accuracy[..., -1] = np.asarray(accuracies, float)[:, None, :]
    loss = np.ones(shape)
    loss[:, 1] = 2.0  # the first rate is the better one
    loss = loss if losses is None else losses(loss)
    depths = np.arange(4)
    sizes = np.stack([np.power(f, 3.0 - depths) for f in factors])
    cotangents = np.broadcast_to(sizes[:, None, None, None, :], (*shape, 4))
    return xr.Dataset(
        {
            "test_accuracy": (dims, accuracy),
            "loss": (dims, loss),
            "outcome": (dims[:3], (~np.isfinite(loss)).any(-1).astype(np.int8)),
            "cotangent_rms": ((*dims, "layer"), cotangents),
        },
        {
            "member": members,
            "learning_rate": rates,
            "seed": range(seeds),
            "step": [0, 10],
            "layer": range(1, 5),
            "chance": 0.1,
        },
    )


def test_the_share_is_that_of_the_first_layer_over_the_last_hidden_one():
    summary = families.summary(dataset(np.full((2, 3), 0.5)))
    np.testing.assert_allclose(summary.log10_share, [-2.0, 0.0])  # two layers between 1 and 3
    assert summary.hidden.values.tolist() == [3, 3]
    assert summary.learning_rate.values.tolist() == [0.1, 0.1]
    assert summary.at_an_end.all()


def test_a_shallower_network_ends_where_its_layers_do():
    results = dataset(np.full((2, 3), 0.5))
    results["cotangent_rms"] = results.cotangent_rms.where(
        (results.member != "a") | (results.layer < 4)
    )
    summary = families.summary(results)
    np.testing.assert_allclose(summary.log10_share, [-1.0, 0.0])
    assert summary.hidden.values.tolist() == [2, 3]


def test_the_ranking_tells_apart_what_the_seeds_tell_apart():
    far = dataset([[0.90, 0.91, 0.92], [0.70, 0.71, 0.72]])
    assert families.ranking(far, "member") == ["Best: a."]
    # standard deviations of 0.08 over three seeds: means 0.02 apart say nothing
    near = dataset([[0.80, 0.90, 1.00], [0.78, 0.88, 0.98]])
    assert families.ranking(near, "member") == ["Best: a; within two standard errors of it: b."]


def test_nobody_is_best_where_nobody_learns():
    at_chance = dataset([[0.10, 0.12, 0.11], [0.13, 0.12, 0.10]])
    assert families.ranking(at_chance, "member") == ["None of them learns."]


def test_one_seed_has_no_spread():
    results = dataset([[0.9], [0.5]])
    assert families.ranking(results, "member") == ["Best of one seed: a."]
    lines = families.table(results)
    assert "90.0%  learns" in lines[1]
    assert "±" not in "".join(lines)


def test_what_diverged_is_said_and_cannot_be_best():
    def diverge(loss):
        loss[0, :, 0, 1] = np.nan
        return loss

    results = dataset([[0.9, 0.9, 0.9], [0.5, 0.5, 0.5]], diverge)
    assert families.ranking(results, "member") == ["Best: b."]
    lines = families.table(results)
    assert lines[1].endswith("diverges (1 of 3 seeds)")
    assert lines[2].endswith("learns in part")


@pytest.mark.parametrize(
    ("accuracy", "diverged", "word"),
    [
        (0.95, 0, "learns"),
        (0.5, 0, "learns in part"),
        (0.15, 0, "does not learn"),
        (0.95, 2, "diverges (2 of 3 seeds)"),
        (np.nan, 0, "failed"),
    ],
)
def test_words(accuracy, diverged, word):
    assert families.answer(accuracy, 0.1, diverged, 3) == word


def test_layers_whose_error_signal_has_exploded_are_layers_all_the_same():
    """Beyond a network's depth, which is that of its weights, nothing is measured."""
    results = dataset(np.full((2, 3), 0.5))
    beyond = (results.member == "a") & (results.layer == 4)
    exploded = (results.member == "b") & (results.layer <= 2)
    cotangents = results.cotangent_rms.where(~beyond)
    results["kernel_norm"] = xr.ones_like(cotangents).where(~beyond)
    results["cotangent_rms"] = cotangents.where(~exploded)
    assert families.hidden_layers(results).values.tolist() == [2, 3]
    summary = families.summary(results)
    np.testing.assert_allclose(summary.log10_share, [-1.0, np.nan])
    lines = families.table(results)
    assert any(line.startswith("nan: the error signal of both is 0, or") for line in lines)
    drawing = families.figure(results.assign(output_rms=results.cotangent_rms), "member", "")
    drawing.draw_without_rendering()
    of_b = drawing.axes[1].lines[2]  # each member has a line before training and one after
    assert of_b.get_xdata().tolist() == [1, 2, 3]
    assert np.isfinite(of_b.get_ydata()).tolist() == [False, False, True]


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, 1.0])
def test_losses_of_one_value_are_drawn(value):
    results = dataset(np.full((2, 3), 0.5), lambda loss: np.full_like(loss, value))
    results["cotangent_rms"] = xr.full_like(results.cotangent_rms, value)
    drawing = families.figure(results.assign(output_rms=results.cotangent_rms), "member", "")
    drawing.draw_without_rendering()
    empty = [axes for axes in drawing.axes if axes.texts]
    assert len(empty) == (0 if value == 1.0 else 2)  # signal and error signal
