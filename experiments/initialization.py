"""Which initial weights let a deep network learn, and with which activation?

    python -m experiments.initialization --initializers=glorot_normal,he_normal --depths=20

Three minutes on two CPU cores. Expected, of 20 layers: from zeros nothing is learnt, as no gradient
reaches a weight; weights that are too small lose the error signal, and those that are too
large saturate tanh and blow ReLU up. Xavier suits tanh, and He ReLU, of which Xavier halves the
mean-square gradient at every layer. Sigmoid learns, in part, from N(0, 1) alone, which at 64 units
is eight times the usual scale: theory has it critical at ten times (`theory.critical`).
"""

import dataclasses
import functools
from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import initializers, layers, networks, sweep
from vanishing.initializers import Scales, by_name

WEIGHTS = {
    "zeros": by_name("zeros"),
    "too_small": by_name("normal", Scales(0.01)),  # for a width of about a hundred
    "too_large": initializers.scaled(4.0),
    "unit_normal": by_name("textbook"),
    "lecun_normal": by_name("lecun_normal"),
    "xavier_normal": by_name("xavier_normal"),
    "he_normal": by_name("he_normal"),
    "orthogonal": by_name("orthogonal"),
}


@dataclasses.dataclass(frozen=True)
class Config(groups.ClassifierOptions):
    """The initial weights to compare."""

    initializers: tuple[str, ...] = option(
        tuple(WEIGHTS),
        "Initial weights to compare: too_small is N(0, 0.01^2), too_large 4 times LeCun's, and "
        "unit_normal N(0, 1), biases too.",
        choices=tuple(WEIGHTS),
    )
    activations: tuple[str, ...] = option(
        ("sigmoid", "tanh", "relu"), "Activations to try.", choices=tuple(layers.ACTIVATIONS)
    )
    depths: tuple[int, ...] = option((20,), "Numbers of hidden layers.", at_least=1)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.0003, 0.001, 0.003, 0.01, 0.1)
    )


def network(
    config: Config, classes: int, initializer: str, activation: str, depth: int
) -> layers.Layer:
    """The multilayer perceptron with these weights."""
    weights = WEIGHTS[initializer]
    return networks.mlp(
        classes, depth=depth, width=config.width, activation=activation, weights=weights
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every initialiser, activation and depth, trained at every learning rate from every seed."""
    examples, classes = training.load(config)
    members = {
        "initializer": config.initializers,
        "activation": config.activations,
        "depth": config.depths,
    }
    make = functools.partial(network, config, classes)
    return families.measure_networks(config, run, members, make, examples, examples.x_train)


def verdict(dataset: xr.Dataset) -> str:
    """A table of measured and predicted outcomes, and the best weights for each activation."""
    predicted = xr.apply_ufunc(training.power, dataset.predicted_log10_share, vectorize=True)
    notes = ["predicted: the signal left that mean-field theory predicts."]
    return families.verdict(dataset, "initializer", {"predicted": predicted}, notes)


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, before and after training, and the losses."""
    title = "Initial weights: the signal, the error signal on its way back, and the loss"
    return families.figure(dataset, "initializer", title)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
