"""Which activations let the gradient through a deep network, and does the network then learn?

    python -m experiments.activation --activations=sigmoid,tanh,relu --depths=2,10,30

About a minute on two CPU cores. Expected, on handwritten digits: with sigmoid the error signal of
the first layer is about 1e-18 of the last one's at depth 30, a factor 0.24 a layer, and the network
learns nothing at depths 10 and 30; with tanh and ReLU the signal arrives and the network learns.
"""

import dataclasses
import textwrap
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import option
from vanishing import figures, initializers, layers, networks, sweep


@dataclasses.dataclass(frozen=True)
class Config(groups.ScaledInitializerOptions, groups.ClassifierOptions):
    """Which networks to train."""

    activations: tuple[str, ...] = option(
        ("sigmoid", "tanh", "relu"), "Activations to compare.", choices=tuple(layers.ACTIVATIONS)
    )
    depths: tuple[int, ...] = option((2, 10, 30), "Numbers of hidden layers.", at_least=1)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every activation at every depth, trained at every learning rate from every seed."""
    examples, classes = training.load(config)

    def cell(activation: str, depth: int) -> sweep.Cell:
        name = training.initializer_name(config, activation)
        network = networks.mlp(
            classes,
            depth=depth,
            width=config.width,
            activation=activation,
            weights=initializers.by_name(name, config.scales()),
        )
        return training.cell(config, network)

    members = {"activation": config.activations, "depth": config.depths}
    dataset = families.measure(config, run, members, cell, examples)
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    names = [training.initializer_name(config, a) for a in config.activations]
    return dataset.assign_coords(initializer=("activation", names))


def verdict(dataset: xr.Dataset) -> str:
    """A table of what each network did, and what the error signal has to do with it."""
    lines = families.table(dataset)
    lines += ["", f"where the error signal went, at depth {int(dataset.depth[-1])}:"]
    for activation in dataset.activation.values:
        why = (
            dataset.explanation.sel(activation=activation)
            .isel(depth=-1, learning_rate=0, seed=0)
            .item()
        )
        lines += textwrap.wrap(f"{activation}: {why}", 90, subsequent_indent="  ")
    return "\n".join(lines)


def figure(dataset: xr.Dataset) -> Figure:
    """The activations and their slopes; signal and error signal by layer; and the losses."""
    names = list(dataset.activation.values)

    def draw_functions(side: Sequence[Axes]) -> None:
        z = np.linspace(-6, 6, 601)
        color = figures.colors(names)
        for name in names:
            function = layers.ACTIVATIONS[name].function
            value, slope = jax.jvp(function, (jnp.asarray(z),), (jnp.ones(z.shape),))
            side[0].plot(z, value, color=color[name], label=name)
            side[1].plot(z, slope, color=color[name])
        side[0].set_ylim(-2.2, 4.2)
        side[0].set_title("What is done to the signal: f(z)", loc="left")
        side[1].set_title("and to the error signal: f'(z)", loc="left")
        side[1].axhline(1.0, color="gray", ls=":", lw=1)
        side[1].set_xlabel("pre-activation z")
        figures.legend(side[0])

    title = "The signal, the error signal on its way back, and whether it learns"
    return families.figure(dataset, "activation", title, aside=draw_functions)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
