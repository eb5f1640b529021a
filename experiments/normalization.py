"""Which normalisation keeps the gradient of a deep network, and what does it cost at the start?

    python -m experiments.normalization --norms=none,batch_norm,layer_norm --depths=10,30

Three minutes on two CPU cores. Expected: with ReLU and He's weights 10 layers learn with or without
a norm, with batch normalisation at a learning rate 30 times as large. Its price at
initialisation: before ReLU it makes the error signal grow by 1.22 at every layer on its way back
(batches of 64; 1.21 for large ones), 370 times over 30 layers, which no initial scale of the
weights can change; there it learns least of all. (Yang et al., A mean field theory of batch
normalization, ICLR 2019.) With --activation=sigmoid 10 layers learn with batch normalisation only.
Standardised weights of gain 2^(1/2) keep the gradient; the part of the signal that differs between
inputs shrinks by 0.68 per layer.
"""

import dataclasses
import functools
from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import initializers, layers, networks, sweep

NORMS = ("none", "batch_norm", "layer_norm", "rms_norm", "group_norm", "weight_standardization")


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ScaledInitializerOptions, groups.ClassifierOptions):
    """The norms to compare."""

    norms: tuple[str, ...] = option(NORMS, "Norms between weights and nonlinearity.", choices=NORMS)
    depths: tuple[int, ...] = option((10, 30), "Numbers of hidden layers.", at_least=2)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    )
    groups: int = option(4, "Groups of group_norm; must divide the width.", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if "group_norm" in self.norms and self.width % self.groups:
            raise ValueError(f"groups is {self.groups}; it must divide the width ({self.width}).")


def network(config: Config, classes: int, norm: str, depth: int) -> layers.Layer:
    """The multilayer perceptron with this norm in every hidden layer."""
    makers = {
        # a momentum that follows a run of some hundred steps
        "batch_norm": lambda: layers.batch_norm(momentum=0.9),
        "layer_norm": layers.layer_norm,
        "rms_norm": layers.rms_norm,
        "group_norm": lambda: layers.group_norm(config.groups),
    }
    gain = 2**0.5 if config.activation == "relu" else 1.0

    def wrap_weights(weights: layers.Layer) -> layers.Layer:
        if norm == "weight_standardization":
            return layers.weight_standardized(weights, gain)
        return weights

    name = training.initializer_name(config, config.activation)
    return networks.mlp(
        classes,
        depth=depth,
        width=config.width,
        activation=config.activation,
        weights=initializers.by_name(name, config.scales()),
        norm=makers[norm]() if norm in makers else None,
        wrap_weights=wrap_weights,
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every norm at every depth, trained at every learning rate from every seed."""
    examples, classes = training.load(config)
    members = {"norm": config.norms, "depth": config.depths}
    batch = examples.x_train[: config.examples_per_step() or None]
    make = functools.partial(network, config, classes)
    return families.measure_networks(config, run, members, make, examples, batch)


def verdict(dataset: xr.Dataset) -> str:
    """A table of measured and predicted outcomes, and the best norm at each depth."""
    predicted = families.predicted_factors(dataset)
    notes = [
        "predicted: the factor per layer that mean-field theory predicts; over 1 gradients explode."
    ]
    return families.verdict(dataset, "norm", {"predicted": predicted}, notes)


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, before and after training, and the losses."""
    title = "Normalisation: the signal, the error signal on its way back, and the loss"
    return families.figure(dataset, "norm", title)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
