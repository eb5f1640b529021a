"""Which optimiser trains a network whose gradient vanishes, each at its own best learning rate?

    python -m experiments.optimizer --optimizers=sgd,momentum,adam --activations=sigmoid,relu

Five minutes on two CPU cores. Expected: where the error signal arrives (ReLU), all of them learn
once each has found its rate, which differs by a factor of a thousand between them. Where it
vanishes (sigmoid, 6 layers, 0.07 % of it left), those that follow the gradient itself stay at
chance, and so does Adagrad, whose sum of squares starts at 0.1 and dwarfs such gradients. RMSprop
learns in part, since its epsilon of 1e-8 stands for gradients of 1e-4. The steps of Adam, AdamW and
Lion do not depend on the size of the gradient; they learn.
"""

import dataclasses
from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import initializers, layers, networks, optimizers, sweep


@dataclasses.dataclass(frozen=True)
class Config(
    groups.DataOptions,
    groups.NetworkOptions,
    groups.WidthOptions,
    groups.ScaledInitializerOptions,
    groups.LossOptions,
    groups.PenaltyOptions,
    groups.ClippingOptions,
    groups.UpdateOptions,
    groups.NumericsOptions,
):
    """The optimisers to compare."""

    own_network = ("activations", "depth", "width", *groups.WEIGHTS)

    optimizers: tuple[str, ...] = option(
        tuple(optimizers.OPTIMIZERS),
        "Optimisers to compare (gradient_descent takes all examples at every step).",
        choices=tuple(optimizers.OPTIMIZERS),
    )
    activations: tuple[str, ...] = option(
        ("sigmoid", "relu"), "Nonlinearities to train.", choices=tuple(layers.ACTIVATIONS)
    )
    depth: int = option(6, "Number of hidden layers.", at_least=1)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    )

    def without_effect(self) -> dict[str, str]:
        """The numbers that none of the optimisers reads."""
        instead = f"optimizers has only {', '.join(self.optimizers)}, which do not read it"
        return super().without_effect() | dict.fromkeys(groups.unread_by(self.optimizers), instead)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every optimiser on every network, at every learning rate from every seed."""
    examples, classes = training.load(config)

    if config.network:
        given = training.given_network(config.network, examples, classes)
        members = {"optimizer": config.optimizers}
    else:
        given = None
        members = {"optimizer": config.optimizers, "activation": config.activations}

    def cell(optimizer: str, activation: str = "") -> sweep.Cell:
        network = given or mlp(config, classes, activation)
        return training.cell(config, network, optimizer=optimizer)

    return families.measure(config, run, members, cell, examples)


def mlp(config: Config, classes: int, activation: str) -> layers.Layer:
    """The experiment's own network with this nonlinearity."""
    name = training.initializer_name(config, activation)
    return networks.mlp(
        classes,
        depth=config.depth,
        width=config.width,
        activation=activation,
        weights=initializers.by_name(name, config.scales()),
    )


def verdict(dataset: xr.Dataset) -> str:
    """A table of the optimisers' outcomes, and the best of them for each network."""
    return families.verdict(dataset, "optimizer")


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, before and after training, and the losses."""
    title = "Optimisers: the signal, the error signal on its way back, and the loss"
    return families.figure(dataset, "optimizer", title)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
