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
    """The networks to train."""

    activations: tuple[str, ...] = option(
        ("sigmoid", "tanh", "relu"), "Activations to compare.", choices=tuple(layers.ACTIVATIONS)
    )
    depths: tuple[int, ...] = option((2, 10, 30), "Numbers of hidden layers.", at_least=1)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every activation at every depth, trained at every learning rate from every seed."""
    examples, classes = training.load(config)

    def network(activation: str, depth: int) -> layers.Layer:
        name = training.initializer_name(config, activation)
        return networks.mlp(
            classes,
            depth=depth,
            width=config.width,
            activation=activation,
            weights=initializers.by_name(name, config.scales()),
        )

    members = {"activation": config.activations, "depth": config.depths}
    dataset = families.measure_networks(config, run, members, network, examples)
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    names = [training.initializer_name(config, a) for a in config.activations]
    return dataset.assign_coords(initializer=("activation", names))


def verdict(dataset: xr.Dataset) -> str:
    """A table of the networks' outcomes, and where each error signal was lost."""
    lines = families.table(dataset)
    lines += ["", f"where the error signal went, at depth {int(dataset.depth[-1])}:"]
    for activation in dataset.activation.values:
        reason = (
            dataset.explanation.sel(activation=activation)
            .isel(depth=-1, learning_rate=0, seed=0)
            .item()
        )
        lines += textwrap.wrap(f"{activation}: {reason}", 90, subsequent_indent="  ")
    return "\n".join(lines)


def figure(dataset: xr.Dataset) -> Figure:
    """The activations and their slopes; signal and error signal by layer; and the losses."""
    title = "The signal, the error signal on its way back, and whether the network learns"
    drawing, (values, slopes), grid = families.canvas(dataset, "activation", title, beside=2)
    draw_functions(values, slopes, list(dataset.activation.values))
    families.draw(grid, dataset, "activation")
    return drawing


def draw_functions(values: Axes, slopes: Axes, names: Sequence[str]) -> None:
    """Draw each activation on one panel and its slope on another."""
    z = np.linspace(-6, 6, 601)
    color = figures.colors(names)
    for name in names:
        function = layers.ACTIVATIONS[name].function
        value, slope = jax.jvp(function, (jnp.asarray(z),), (jnp.ones(z.shape),))
        values.plot(z, value, color=color[name], label=name)
        slopes.plot(z, slope, color=color[name])
    values.set_ylim(-2.2, 4.2)
    values.set_title("The signal goes through f(z),", loc="left")
    slopes.set_title("the error signal is multiplied by f'(z)", loc="left")
    slopes.axhline(1.0, color="gray", ls=":", lw=1)
    slopes.set_xlabel("pre-activation z")
    figures.legend(values)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
