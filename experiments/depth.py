"""Are more hidden layers better, and how fast does each of them learn?

    python -m experiments.depth --depths=1,2,3,4 --data=mnist

Three minutes on two CPU cores. The networks of a textbook: 30 sigmoid units per layer, weights N(0,
1 / fan_in), biases N(0, 1), cross-entropy, gradient descent on all examples. Expected: at the start
each hidden layer learns about 5 times more slowly than the next one. Of four, the speeds are 0.002,
0.009, 0.045 and 0.24; Nielsen's, on MNIST, 0.003, 0.017, 0.070 and 0.285 (Neural networks and deep
learning, 2015, chapter 5). Deeper networks wait longer before they learn and end no better:
Nielsen's validation accuracies are 96.5, 96.9, 96.6 and 96.5 % with one to four hidden layers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import _text, figures, initializers, layers, networks, sweep


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ClassifierOptions):
    """The networks to train."""

    depths: tuple[int, ...] = option((1, 2, 3, 4), "Numbers of hidden layers.", at_least=1)
    activation: str = new_default(groups.ActivationOptions, "activation", "sigmoid")
    width: int = new_default(groups.WidthOptions, "width", 30)
    loss: str = new_default(groups.LossOptions, "loss", "binary_cross_entropy")
    optimizer: str = new_default(groups.OptimizerOptions, "optimizer", "sgd")
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.1, 0.3, 1.0, 3.0)
    )
    batch_size: int = new_default(groups.RunOptions, "batch_size", 0)
    steps: int = new_default(groups.RunOptions, "steps", 2000)
    record_every: int = new_default(groups.RunOptions, "record_every", 20)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every depth, trained at every learning rate from every seed."""
    examples, classes = training.load(config)

    def network(depth: int) -> layers.Layer:
        return networks.mlp(
            classes,
            depth=depth,
            width=config.width,
            activation=config.activation,
            weights=initializers.scaled(1.0, 1.0),
        )

    dataset = families.measure_networks(config, run, {"depth": config.depths}, network, examples)
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    return dataset


def speeds(dataset: xr.Dataset) -> xr.DataArray:
    """The speed of learning of each hidden layer: the norm of the gradient of its biases.

    (depth, layer, seed, step), at each network's best learning rate; nan beyond its depth. With all
    examples in a batch it is the length of the mean error signal, Nielsen's |delta|.
    """
    norms = families.chosen(dataset).bias_gradient_norm
    return norms.where(norms.layer <= norms.depth).transpose("depth", "layer", "seed", "step")


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def verdict(dataset: xr.Dataset) -> str:
    """Tables of the outcome and of the speeds at each depth, and the best depths."""
    of_layers = speeds(dataset)
    first = of_layers.isel(step=0).median("seed")
    ratio = _last_over_first(of_layers).median("seed")
    lines = [*families.table(dataset), "", "speed of learning (norm of the bias gradient):"]
    rows = []
    for depth in dataset.depth.values:
        start = first.sel(depth=depth, layer=slice(None, int(depth)))
        over = ratio.sel(depth=depth)
        rows.append(
            [
                str(depth),
                ", ".join(f"{float(speed):.2g}" for speed in start),
                f"{float(over.isel(step=0)):.3g}",
                f"{float(over.median('step')):.3g}",
                f"{float(over.isel(step=-1)):.3g}",
            ]
        )
    header = ["depth", "at the start, first to last hidden layer", "last/first", "median", "end"]
    lines += [
        *_text.table(header, rows, texts=2).splitlines(),
        "",
        "last/first: speed of the last hidden layer over that of the first, at the start; median:",
        "over all of training; end: at its end. All of these are medians over seeds.",
        "",
        *families.ranking(dataset, "depth"),
    ]
    return "\n".join(lines)


def _last_over_first(of_layers: xr.DataArray) -> xr.DataArray:
    last = of_layers.where(of_layers.layer == of_layers.depth).max("layer")
    return last / of_layers.sel(layer=1, drop=True)


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def figure(dataset: xr.Dataset) -> Figure:
    """The speed of each layer over training, one panel a depth, and accuracy against depth."""
    of_layers, depths = speeds(dataset), list(dataset.depth.values)
    drawing, side, grid = figures.panels_beside(
        2, 1, len(depths), "How fast each hidden layer learns, and accuracy by depth"
    )
    color = figures.colors([str(layer) for layer in range(1, max(depths) + 1)])
    for axes, depth in zip(grid[0], depths, strict=True):
        for layer in range(1, int(depth) + 1):
            speed = of_layers.sel(depth=depth, layer=layer)
            middle = speed.median("seed")
            style = {"color": color[str(layer)], "lw": 1.3}
            axes.plot(middle.step, middle, label=f"hidden layer {layer}", **style)
            axes.fill_between(
                middle.step,
                speed.min("seed"),
                speed.max("seed"),
                color=color[str(layer)],
                alpha=0.15,
                linewidth=0,
            )
        figures.log_scale(axes)
        figures.note_if_empty(axes)
        axes.set_title(f"{depth} hidden layer{'' if depth == 1 else 's'}")
        axes.set_xlabel("training step")
        figures.legend(axes)
    grid[0, 0].set_ylabel("speed of learning: |dL/db|")
    best = families.chosen(dataset)
    names = figures.colors([str(depth) for depth in depths])
    for depth in depths:
        curve = best.test_accuracy.sel(depth=depth)
        figures.curve(side[0], curve, color=names[str(depth)], lw=1, label=f"depth {depth}")
    side[0].set_xlabel("training step")
    side[0].set_ylabel("test accuracy")
    figures.legend(side[0])
    end = best.test_accuracy.isel(step=-1)
    side[1].errorbar(depths, end.mean("seed"), end.std("seed"), fmt="o-", color="black", capsize=4)
    side[1].set_xticks(depths)
    side[1].set_xlabel("hidden layers")
    side[1].set_ylabel("test accuracy at the end")
    return drawing


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
