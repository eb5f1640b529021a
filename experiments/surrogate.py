"""Which surrogate slope lets a network of step functions learn, and how deep can it be?

    python -m experiments.surrogate --functions=step,sign --depths=1,3,10

Four minutes on two CPU cores. Expected, on handwritten digits: a bare step sends no gradient back,
so that the read-out alone learns, 50 to 60 % with 3 layers. A surrogate multiplies the error signal
by the factor that theory predicts: at a layer of signs by 0.33 (hard sigmoid), 0.42 (sigmoid) or
1.00 (triangular), and with 10 layers they learn 22, 90 and 92 %; at a layer of steps, which rise
half as far, by 0.17, 0.22 or 0.58, and they learn 11, 25 and 88 %. Straight-through starts at 1,
but ignores saturation: as the weights grow so does its error signal, to 1e26 and more over 10
layers, and it learns 48 and 16 %.
"""

import dataclasses
import functools
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

SMOOTH = {"step": "sigmoid", "sign": "tanh"}  # of which each step is the sharp form
MEMBERS = (*steps.SURROGATES, "smooth")


@dataclasses.dataclass(frozen=True)
class Config(groups.ScaledInitializerOptions, groups.ClassifierOptions):
    """The steps and surrogates to compare."""

    functions: tuple[str, ...] = option(
        ("step", "sign"), "Activations of the forward pass.", choices=tuple(steps.STEPS)
    )
    surrogates: tuple[str, ...] = option(
        MEMBERS,
        "Slopes of the backward pass; `smooth`: no step, but sigmoid for step and tanh for sign.",
        choices=MEMBERS,
    )
    depths: tuple[int, ...] = option((1, 3, 10), "Numbers of hidden layers.", at_least=1)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    )
    sharpness: float = option(1.0, "Factor of the surrogates' steepness.", more_than=0)


def activation(function: str, name: str, sharpness: float) -> layers.Activation:
    """The nonlinearity of one member."""
    if name == "smooth":
        return layers.ACTIVATIONS[SMOOTH[function]]
    return steps.activation(function, name, sharpness)


def network(
    config: Config, classes: int, function: str, surrogate: str, depth: int
) -> layers.Layer:
    """The multilayer perceptron of one member."""
    nonlinearity = activation(function, surrogate, config.sharpness)
    derived = nonlinearity.initializer
    initializer = derived if config.initializer == "derived" else config.initializer
    return networks.mlp(
        classes,
        depth=depth,
        width=config.width,
        activation=nonlinearity,
        weights=initializers.by_name(initializer, config.scales()),
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every surrogate of every step at every depth, at every learning rate, from every seed."""
    examples, classes = training.load(config)
    members = {
        "function": config.functions,
        "surrogate": config.surrogates,
        "depth": config.depths,
    }
    batch = examples.x_train[: config.examples_per_step() or None]
    make = functools.partial(network, config, classes)
    dataset = families.measure_networks(config, run, members, make, examples, batch)
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    return dataset.assign_attrs(sharpness=config.sharpness)


def verdict(dataset: xr.Dataset) -> str:
    """A table of measured and predicted outcomes, and the best surrogate of each step."""
    predicted = families.predicted_factors(dataset)
    notes = [
        "predicted: the factor per layer that mean-field theory predicts, from the surrogate's",
        "slope and the variance of the step; over 1 gradients explode.",
        "nan: with none, the step's own slope of 0, there is no error signal to compare.",
    ]
    return families.verdict(dataset, "surrogate", {"predicted": predicted}, notes)


def figure(dataset: xr.Dataset) -> Figure:
    """The slopes; signal and error signal by layer, before and after training; and the losses."""
    title = "Networks of steps: the signal, the error signal through a surrogate, and the loss"
    drawing, beside, grid = families.canvas(dataset, "surrogate", title, beside=2)
    draw_slopes(list(beside), dataset)
    families.draw(grid, dataset, "surrogate")
    return drawing


def draw_slopes(panels: Sequence[Axes], dataset: xr.Dataset) -> None:
    """The slopes of the surrogates of each step."""
    functions, names = list(dataset.function.values), list(dataset.surrogate.values)
    sharpness = float(dataset.attrs["sharpness"])
    z = np.linspace(-4, 4, 801)
    color = figures.colors(names)
    for axes, function in zip(panels, functions, strict=False):
        for name in names:
            f = activation(function, name, sharpness).function
            slope = jax.jvp(f, (jnp.asarray(z),), (jnp.ones(z.shape),))[1]
            axes.plot(z, slope, color=color[name], label=name)
        axes.set_title(f"Slopes used in place of that of {function}", loc="left")
        axes.set_xlabel("pre-activation z")
    for unused in panels[len(functions) :]:
        unused.set_visible(False)
    panels[0].margins(y=0.35)  # room for the legend
    figures.legend(panels[0])


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
