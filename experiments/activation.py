"""Which activations let the gradient through a deep network, and does the network then learn?

    python -m experiments.activation --activations=sigmoid,tanh,relu --depths=2,10,30

About a minute on two CPU cores. Expected, on handwritten digits: with sigmoid the error signal of
the first layer is about 1e-18 of the last one's at depth 30, a factor 0.24 a layer, and the network
learns nothing at depths 10 and 30; with tanh and ReLU the signal arrives and the network learns.
"""

import dataclasses
import textwrap
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments import launch, training
from experiments.launch import option
from vanishing import figures, initializers, layers, networks, sweep, train


@dataclasses.dataclass(frozen=True)
class Config(training.InitializedConfig):
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

    grid = sweep.Grid(
        structural={"activation": config.activations, "depth": config.depths},
        numeric=training.numeric_axes(config),
    )
    dataset = run(grid, cell, shared=examples).set_coords("explanation")
    dataset.depth.attrs.update(long_name="number of hidden layers", units="1")
    return dataset.assign_coords(
        initializer=(
            "activation",
            [training.initializer_name(config, a) for a in config.activations],
        ),
        chance=training.chance(examples),
    )


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """Each network at its best learning rate: accuracy, and what is left of the error signal."""
    best = training.best_learning_rate(dataset)
    chosen = dataset.sel(learning_rate=best)
    accuracy = chosen.test_accuracy.isel(step=-1, drop=True)
    start = chosen.cotangent_rms.isel(step=0, drop=True)
    first = start.sel(layer=1, drop=True)
    last = start.where(start.layer == start.depth).max("layer")
    with np.errstate(divide="ignore", invalid="ignore"):
        log10_share = (np.log10(first) - np.log10(last)).median("seed")
    return xr.Dataset(
        {
            "learning_rate": best,
            "accuracy": accuracy.mean("seed"),
            "spread": accuracy.std("seed"),
            "diverged": (chosen.outcome == train.Outcome.DIVERGED).sum("seed"),
            "log10_share": log10_share,
            "log10_factor": log10_share / np.maximum(dataset.depth - 1, 1),
        }
    )


def answer(accuracy: float, chance: float, diverged: int) -> str:
    """What a network did, in a word or two."""
    if diverged:
        return "diverges"
    if np.isnan(accuracy):
        return "failed"
    if accuracy < 2 * chance:
        return "does not learn"
    return "learns" if accuracy >= 0.9 else "learns in part"


def verdict(dataset: xr.Dataset) -> str:
    """A table of what each network did, and what the error signal has to do with it."""
    table, chance = summary(dataset), float(dataset.chance)
    seeds = dataset.sizes["seed"]
    lines = [
        f"{'activation':<13}{'initializer':<16}{'depth':>5}  {'signal left':>11}  {'a layer':>8}  "
        f"{'rate':>6}  {'test accuracy':>15}  "
    ]
    for activation in dataset.activation.values:
        for depth in dataset.depth.values:
            row = table.sel(activation=activation, depth=depth)
            share, factor = float(row.log10_share), float(row.log10_factor)
            word = answer(float(row.accuracy), chance, int(row.diverged))
            if row.diverged:
                word += f" ({int(row.diverged)} of {seeds} seeds)"
            spread = f"{float(row.accuracy):7.1%} ± {float(row.spread):5.1%}"
            name = str(dataset.initializer.sel(activation=activation).values)
            lines.append(
                f"{activation:<13}{name:<16}{depth:>5}  {_power(share):>11}  "
                f"{10**factor:>8.3f}  {float(row.learning_rate):>6g}  {spread:>15}  {word}"
            )
    lines += [
        "",
        "signal left: the error signal (gradient with respect to pre-activations) of the first",
        "hidden layer over that of the last, at initialisation; a layer: one layer's factor.",
        f"rate: of {dataset.sizes['learning_rate']} learning rates, the one with the lowest "
        "training loss.",
        f"test accuracy: mean ± standard deviation over {seeds} seeds; chance is {chance:.1%}.",
        "",
        f"where the error signal went, at depth {int(dataset.depth[-1])}:",
    ]
    for activation in dataset.activation.values:
        why = (
            dataset.explanation.sel(activation=activation)
            .isel(depth=-1, learning_rate=0, seed=0)
            .item()
        )
        lines += textwrap.wrap(f"{activation}: {why}", 90, subsequent_indent="  ")
    return "\n".join(lines)


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, at initialisation and after training, and the curves."""
    best = training.best_learning_rate(dataset)
    chosen = dataset.sel(learning_rate=best)
    names, depths = list(dataset.activation.values), list(dataset.depth.values)
    color = figures.colors(names)
    drawing, grid = figures.panels(
        3, len(depths), "The signal, the error signal on its way back, and whether it learns"
    )
    for column, depth in enumerate(depths):
        forward, backward, loss = grid[:, column]
        for name in names:
            runs = chosen.sel(activation=name, depth=depth)
            hidden = runs.sel(layer=slice(None, int(depth)))
            for axes, rms in ((forward, hidden.output_rms), (backward, hidden.cotangent_rms)):
                figures.profile(axes, rms.isel(step=0), color=color[name], marker="o", ms=3)
                figures.profile(axes, rms.isel(step=-1), color=color[name], ls="--", lw=1)
            accuracy = f"{float(runs.test_accuracy.isel(step=-1).mean('seed')):.0%}"
            end = "diverged" if (runs.outcome == train.Outcome.DIVERGED).any() else accuracy
            figures.curve(loss, runs.loss, color=color[name], lw=1, label=f"{name}: {end}")
        layers_word = "hidden layer" if depth == 1 else "hidden layers"
        forward.set_title(f"{depth} {layers_word}")
        backward.set_xlabel("layer (1 is next to the input)")
        loss.set_xlabel("training step")
        figures.legend(loss, title="test accuracy")
    grid[2, 0].set_ylim(bottom=0)
    grid[0, 0].set_ylabel("signal: RMS of activations")
    grid[1, 0].set_ylabel("error signal: RMS of dL/dh")
    grid[2, 0].set_ylabel("training loss")
    grid[1, 0].plot([], [], color="gray", marker="o", ms=3, label="at initialisation")
    grid[1, 0].plot([], [], color="gray", ls="--", lw=1, label="after training")
    figures.legend(grid[1, 0])
    return drawing


def _power(log10: float) -> str:
    """10 to a power that may be out of the range of floating-point numbers."""
    if not np.isfinite(log10):
        return "nan" if np.isnan(log10) else "inf" if log10 > 0 else "0"
    exponent = int(np.floor(round(log10, 2)))
    return f"{10 ** (log10 - exponent):.1f}e{exponent:+03d}"


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
