"""Every experiment judges and draws networks whose numbers are all infinite, nan, 0 or one."""

import importlib
import io

import numpy as np
import pytest

from experiments.common import catalog, launch
from tests.helpers import slow
from vanishing import train

TRAINED = {
    "width": 8,
    "steps": 2,
    "record_every": 1,
    "seeds": 2,
    "learning_rates": (0.01, 0.1),
    "batch_size": 8,
}
SMALLEST = {
    "activation": {"activations": ("tanh",), "depths": (1, 3), **TRAINED},
    "initialization": {"initializers": ("zeros",), "activations": ("relu",), **TRAINED},
    "residual": {"blocks": ("plain", "fixup"), "counts": (1,), **TRAINED},
    "normalization": {"norms": ("layer_norm",), "depths": (2,), **TRAINED},
    "optimizer": {"optimizers": ("sgd",), "activations": ("relu",), "depth": 2, **TRAINED},
    "clipping": {"clippings": ("none", "value"), "thresholds": (0.1, 1.0), "depth": 2, **TRAINED},
    "regularization": {"l1": (1e-3,), "l2": (1e-3,), "dropout": (0.2,), "depth": 2, **TRAINED},
    "depth": {"depths": (1, 2), **TRAINED},
    "convolution": {"blocks": ("plain",), "norms": ("none",), "depths": (8,), **TRAINED},
    "recurrent": {"cells": ("gru",), "length": 10, "units": 4, "examples": 100},
    "surrogate": {"functions": ("sign",), "surrogates": ("none",), "depths": (1, 3), **TRAINED},
    "backprop": {"depth": 2, "width": 4, "batch_size": 4, "precision": "float32"},
    "mean_field": {
        "activations": ("tanh",),
        "blocks": ("plain",),
        "width": 8,
        "seeds": 2,
        "depth": 4,
        "skip": 1,
        "batch_size": 4,
    },
    "phase_diagram": {"points": 4, "dots": 1, "depth": 8, "width": 8, "seeds": 2},
    "trainability": {"depths": (1, 2), "sigma_ws": (1.0, 2.0), **TRAINED},
    "extreme_depth": {"depths": (2, 3), **TRAINED},
}
SMALLEST["recurrent"] |= {name: value for name, value in TRAINED.items() if name != "width"}
# By theory, as options, or counted: no run makes these infinite.
GIVEN = ("predicted", "line_", "multiple", "learns_at", "memoryless", "flops", "bytes")
QUICK = ("depth", "phase_diagram")
VALUES = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan, "0": 0.0, "one": 1.0, "largest": 3e38}


def measured(dataset):
    """The names of the numbers that a run may make infinite, nan, 0 or whatever."""
    return [
        name
        for name, values in dataset.data_vars.items()
        if values.dtype.kind == "f" and not any(word in name for word in GIVEN)
    ]


def filled(dataset, value):
    """The dataset with every measured number the same; accuracies are at most 1, or nan."""
    changed = {
        name: dataset[name].copy(
            data=np.full(
                dataset[name].shape,
                min(value, 1.0) if "accuracy" in name and value > 0 else value,
                dataset[name].dtype,
            )
        )
        for name in measured(dataset)
    }
    if "outcome" in dataset and not np.isfinite(value):
        diverged = np.full_like(dataset.outcome.values, train.Outcome.DIVERGED)
        changed["outcome"] = dataset.outcome.copy(data=diverged)
    return dataset.assign(changed)


def mixed(dataset):
    """The dataset with numbers of all sizes, infinities and nan at random places."""
    random = np.random.default_rng(0)
    sizes = np.array([1e-30, 1.0, 1e30, np.inf, np.nan, 0.0], np.float32)
    return dataset.assign(
        {
            name: dataset[name].copy(
                data=random.choice(sizes, dataset[name].shape).astype(dataset[name].dtype)
            )
            for name in measured(dataset)
            if "accuracy" not in name
        }
    )


@pytest.mark.parametrize("name", [*QUICK, *slow(*sorted(SMALLEST.keys() - set(QUICK)))])
def test_whatever_the_numbers_there_is_a_verdict_and_a_figure(name):
    module = importlib.import_module(f"experiments.{name}")
    dataset = module.measure(module.Config(**SMALLEST[name]))
    cases = {text: filled(dataset, value) for text, value in VALUES.items()}
    for text, case in {**cases, "mixed": mixed(dataset), "as measured": dataset}.items():
        assert module.verdict(case).strip(), text
        module.figure(case).savefig(io.BytesIO(), dpi=20)


def test_the_smallest_sizes_are_those_of_every_experiment():
    assert set(SMALLEST) == set(catalog.questions())


def test_a_network_that_explodes_is_answered_from_the_command_line(tmp_path, capsys):
    """At 1e25 times the usual scale the second of three hidden layers is infinite."""
    from experiments import activation

    config = activation.Config(
        activations=("relu",),
        depths=(3,),
        initializer="scaled",
        sigma_w=1e25,
        out=str(tmp_path),
        **TRAINED,
    )
    answer = (activation.measure, activation.verdict, activation.figure)
    dataset = launch.execute(config, *answer, "activation")
    forward = dataset.signal_rms.isel(step=0, learning_rate=0, seed=0, activation=0, depth=0)
    assert np.isfinite(forward).values.tolist() == [True, False, False, False]
    stdout = capsys.readouterr().out
    assert "diverges (2 of 2 seeds)" in stdout
    assert (tmp_path / "figure.png").stat().st_size > 10_000
