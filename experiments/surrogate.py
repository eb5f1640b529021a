"""Which slope, put in a step's place on the way back, lets a network of steps learn, and how deep?

    python -m experiments.surrogate --functions=step,sign --depths=1,3,10

Four minutes on two CPU cores. Expected, on handwritten digits: a bare step sends nothing back, so
that the read-out alone learns, 50 to 60 % with 3 layers. A surrogate multiplies the error signal by
what theory foretells of its slope: at a layer of signs by 0.33 (hard sigmoid), 0.42 (sigmoid) or
1.00 (triangular), and of 10 layers they learn 22, 90 and 92 %; at a layer of steps, which rise half
as far, by 0.17, 0.22 or 0.58, and they learn 11, 25 and 88 %. Straight-through starts at 1 too, but
takes no notice of saturation: as the weights grow so does its error signal, to 1e26 and more over
10 layers, and it learns 48 and 16 %.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import figures, initializers, layers, networks, sweep
from vanishing import surrogate as steps

SMOOTH = {"step": "sigmoid", "sign": "tanh"}  # what each step is the sharp form of
MEMBERS = (*steps.SURROGATES, "smooth")


@dataclasses.dataclass(frozen=True)
class Config(groups.ScaledInitializerOptions, groups.ClassifierOptions):
    """Which steps and surrogates to compare."""

    functions: tuple[str, ...] = option(
        ("step", "sign"), "What goes forward.", choices=tuple(steps.STEPS)
    )
    surrogates: tuple[str, ...] = option(
        MEMBERS,
        "Whose slope goes back; with `smooth` no step at all: the sigmoid for step, tanh for sign.",
        choices=MEMBERS,
    )
    depths: tuple[int, ...] = option((1, 3, 10), "Numbers of hidden layers.", at_least=1)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    )
    sharpness: float = option(1.0, "How much steeper and narrower the surrogates are.", more_than=0)


def activation(function: str, name: str, sharpness: float) -> layers.Activation:
    """The nonlinearity of one member."""
    if name == "smooth":
        return layers.ACTIVATIONS[SMOOTH[function]]
    return steps.activation(function, name, sharpness)


def network(config: Config, classes: int, function: str, name: str, depth: int) -> layers.Layer:
    """The multilayer perceptron of one member."""
    nonlinearity = activation(function, name, config.sharpness)
    drawn = nonlinearity.initializer if config.initializer == "derived" else config.initializer
    return networks.mlp(
        classes,
        depth=depth,
        width=config.width,
        activation=nonlinearity,
        weights=initializers.by_name(drawn, config.scales()),
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every surrogate of every step at every depth, at every learning rate, from every seed."""
    examples, classes = training.load(config)

    def make(function: str, surrogate: str, depth: int) -> layers.Layer:
        return network(config, classes, function, surrogate, depth)

    def cell(function: str, surrogate: str, depth: int) -> sweep.Cell:
        return training.cell(config, make(function, surrogate, depth))

    members = {
        "function": config.functions,
        "surrogate": config.surrogates,
        "depth": config.depths,
    }
    dataset = families.measure(config, run, members, cell, examples)
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    batch = examples.x_train[: config.examples_per_step() or None]
    dataset = families.with_prediction(dataset, members, make, batch)
    return dataset.assign_attrs(sharpness=config.sharpness)


def verdict(dataset: xr.Dataset) -> str:
    """A table of what each surrogate did, with theory's word, and the best of them."""
    return "\n".join(
        [
            *families.table(dataset, {"theory": families.predicted_factors(dataset)}),
            "theory: what mean-field theory foretells of a layer, from the slope that goes back",
            "and the variance of the step that goes forward; over 1 gradients explode.",
            "nan: with none, the step's own slope of 0, there is no error signal to compare.",
            "",
            *families.ranking(dataset, "surrogate"),
        ]
    )


def figure(dataset: xr.Dataset) -> Figure:
    """The slopes; signal and error signal by layer, before and after training; and the losses."""
    functions, names = list(dataset.function.values), list(dataset.surrogate.values)
    sharpness = float(dataset.attrs["sharpness"])

    def draw_slopes(side: Sequence[Axes]) -> None:
        z = np.linspace(-4, 4, 801)
        color = figures.colors(names)
        for axes, function in zip(side, functions, strict=False):
            for name in names:
                f = activation(function, name, sharpness).function
                slope = jax.jvp(f, (jnp.asarray(z),), (jnp.ones(z.shape),))[1]
                axes.plot(z, slope, color=color[name], label=name)
            axes.set_title(f"What goes back in place of {function}'s slope", loc="left")
            axes.set_xlabel("pre-activation z")
        for unused in side[len(functions) :]:
            unused.set_visible(False)
        side[0].margins(y=0.35)  # room for the legend
        figures.legend(side[0])

    title = "Networks of steps: the signal, the error signal that a surrogate sends back, the loss"
    return families.figure(dataset, "surrogate", title, aside=draw_slopes)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
