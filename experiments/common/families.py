"""What experiments share that compare the members of a family: their table, and their figure.

A dataset of theirs has the structural axes of a sweep, one of which are the members, and the axes
learning_rate, seed, step and layer.
"""

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import groups, training
from vanishing import _text, figures, sweep, theory, train
from vanishing.layers import Layer

_BEYOND = (
    1e3  # what grows to more than this, over all that there was at the start, leaves a picture
)
LEARNS_AT = 0.9  # the test accuracy from which a network is said to learn
IN_PART_AT = 2  # times chance, from which it is said to learn in part


def measure(
    config: groups.RunOptions,
    run: Callable[..., xr.Dataset],
    members: Mapping[str, Sequence],
    cell: Callable[..., sweep.Cell],
    examples: train.Data,
    numeric: Mapping[str, Sequence] | None = None,
) -> xr.Dataset:
    """Every combination of the members' axes, trained at every learning rate from every seed."""
    grid = sweep.Grid(structural=members, numeric=numeric or config.numeric_axes())
    dataset = run(grid, cell, shared=examples)
    dataset = dataset.set_coords("explanation") if "explanation" in dataset else dataset
    return dataset.assign_coords(chance=training.chance(examples))


def axes_of(dataset: xr.Dataset) -> list[str]:
    """The axes that tell one network from another."""
    ours = ("learning_rate", "seed", "step", "layer")
    return [str(axis) for axis in dataset.test_accuracy.dims if axis not in ours]


def chosen(dataset: xr.Dataset) -> xr.Dataset:
    """Each network's runs at the learning rate that suits it best."""
    return dataset.sel(learning_rate=training.best_learning_rate(dataset))


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """Each network at its best learning rate.

    Its accuracy over seeds, the share of the error signal that reaches its first layer, before and
    after training, and whether the learning rate is the first or the last on offer.
    """
    best, rates = chosen(dataset), dataset.learning_rate
    accuracy = best.test_accuracy.isel(step=-1, drop=True)
    start, end = (best.cotangent_rms.isel(step=at, drop=True) for at in (0, -1))
    return xr.Dataset(
        {
            "learning_rate": best.learning_rate,
            "at_an_end": (best.learning_rate == rates[0]) | (best.learning_rate == rates[-1]),
            "accuracy": accuracy.mean("seed"),
            "spread": accuracy.std("seed"),
            "loss": best.loss.isel(step=-1, drop=True).mean("seed"),
            "diverged": (best.outcome == train.Outcome.DIVERGED).sum("seed"),
            "log10_share": log10_share(start),
            "log10_share_after": log10_share(end),
            "hidden": hidden_layers(start),
        }
    )


def hidden_layers(sizes: xr.DataArray) -> xr.DataArray:
    """How many layers a network has, without its read-out: those of which a size is known."""
    return sizes.notnull().any("seed").sum("layer") - 1


def log10_share(sizes: xr.DataArray) -> xr.DataArray:
    """log10 of a size at the first layer over that at the last hidden one: median over seeds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = xr.apply_ufunc(np.log10, sizes)
        last = logs.where(logs.layer == hidden_layers(sizes)).max("layer")
        return (logs.sel(layer=1, drop=True) - last).median("seed")


def with_prediction(
    dataset: xr.Dataset,
    members: Mapping[str, Sequence],
    network: Callable[..., Layer],
    x: jax.Array,
) -> xr.Dataset:
    """The dataset, and what theory says of each member's `log10_share` at initialisation.

    Args:
      dataset: what `measure` returned.
      members: the axes that were given to it.
      network: makes a network from a value of each of them.
      x: the inputs of one training step.
    """
    found = [predicted_log10_share(network(*at), x) for at in itertools.product(*members.values())]
    shape = [len(values) for values in members.values()]
    variable = xr.Variable(tuple(members), np.reshape(found, shape), {"units": "1"})
    return dataset.assign(predicted_log10_share=variable)


def predicted_log10_share(network: Layer, x: jax.Array) -> float:
    """What theory says of `log10_share` at initialisation; nan where it cannot follow."""
    try:
        prediction = theory.predict(network, x)
    except ValueError:
        return float("nan")
    dense = [row for row, name in enumerate(prediction.names) if name.endswith(".dense")]
    logs = np.asarray(prediction.log_backward, np.float64)[dense]
    with np.errstate(invalid="ignore"):
        return float((logs[0] - logs[-2]) / 2 / np.log(10))


def predicted_factors(dataset: xr.Dataset) -> xr.DataArray:
    """A layer's factor as theory foretells it, in words; "-" where there is no layer between."""
    between = dataset.depth - 1
    factors = 10 ** (dataset.predicted_log10_share / np.maximum(between, 1))
    said = xr.apply_ufunc("{:.3f}".format, factors, vectorize=True)
    return said.where(between > 0, "-")


def answer(accuracy: float, chance: float, diverged: int, seeds: int) -> str:
    """What a network did, in a word or two."""
    if diverged:
        return f"diverges ({diverged} of {seeds} seeds)"
    if np.isnan(accuracy):
        return "failed"
    if accuracy < IN_PART_AT * chance:
        return "does not learn"
    return "learns" if accuracy >= LEARNS_AT else "learns in part"


def table(dataset: xr.Dataset, columns: Mapping[str, xr.DataArray] | None = None) -> list[str]:
    """The lines of a table of what each network did, and how to read it.

    Args:
      dataset: what `measure` returned. Coordinates along the first axis alone, such as each
        activation's initialiser, get a column.
      columns: texts of further columns by their heading, with the axes of the networks.
    """
    found, axes = summary(dataset), axes_of(dataset)
    seeds, chance = dataset.sizes["seed"], float(dataset.chance)
    said = [name for name in dataset.coords if dataset[name].dims == (axes[0],) and name != axes[0]]
    axes.sort(key=lambda axis: dataset[axis].dtype.kind in "if")  # names first, then numbers
    names = [axes[0], *map(str, said), *axes[1:]]
    rows = []
    for place in itertools.product(*(dataset[axis].values for axis in axes)):
        at = dict(zip(axes, place, strict=True))
        row = found.sel(at)
        mark = "*" if row.at_an_end and dataset.sizes["learning_rate"] > 1 else " "
        factor = float(row.log10_share) / max(int(row.hidden) - 1, 1)
        rows.append(
            [
                *(str(dataset[name].sel(_only(at, dataset[name])).item()) for name in names),
                power(float(row.log10_share)),
                power(float(row.log10_share_after)),
                f"{10**factor:.3f}",
                *(str(column.sel(_only(at, column)).item()) for column in (columns or {}).values()),
                f"{float(row.learning_rate):g}{mark}",
                training.mean_and_spread(float(row.accuracy), float(row.spread), seeds),
                answer(float(row.accuracy), chance, int(row.diverged), seeds),
            ]
        )
    longest = max(len(row[-1]) for row in rows)
    rows = [[*row[:-1], row[-1].ljust(longest)] for row in rows]
    header = [*names, "signal left", "after", "a layer", *(columns or {}), "rate ", "test accuracy"]
    texts = sum(dataset[name].dtype.kind not in "if" for name in names)
    return [
        *_text.table([*header, ""], rows, texts).splitlines(),
        "",
        "signal left: the error signal (gradient with respect to pre-activations) of the first",
        "layer over that of the last hidden one, at initialisation; after: the same after",
        "training; a layer: one layer's factor at initialisation.",
        f"rate: of {dataset.sizes['learning_rate']} learning rates, the one with the lowest "
        "training loss; * the lowest or highest of them.",
        f"test accuracy: {training.over_seeds(seeds)}; chance is {chance:.1%}. "
        f"To learn is to reach {LEARNS_AT:.0%},",
        f"to learn in part {IN_PART_AT * chance:.1%}, twice chance.",
    ]


def ranking(dataset: xr.Dataset, member: str) -> list[str]:
    """For each combination of the other axes: who is best, and who cannot be told from the best."""
    found, lines = summary(dataset), []
    others = [axis for axis in axes_of(dataset) if axis != member]
    stacked = found.stack(rest=others) if others else found.expand_dims("rest")
    for i in range(stacked.sizes["rest"]):
        row = stacked.isel(rest=i)
        accuracy = row.accuracy.where(row.diverged == 0)
        place = ", ".join(f"{axis} {row[axis].item()}" for axis in others)
        place = f" at {place}" if place else ""
        if accuracy.isnull().all():
            lines.append(f"None of them stayed finite{place}.")
            continue
        if float(accuracy.max()) < IN_PART_AT * float(dataset.chance):
            lines.append(f"None of them learns{place}.")
            continue
        first = accuracy.argmax(member)
        apart = accuracy.isel({member: first}) - accuracy
        error = row.spread / max(dataset.sizes["seed"] - 1, 1) ** 0.5  # of the mean
        doubt = 2 * np.hypot(error.isel({member: first}), error)
        near = [
            str(name)
            for name in row[member].values[np.asarray(apart <= doubt)]
            if name != row[member].values[int(first)]
        ]
        sure = "" if dataset.sizes["seed"] > 1 else " of one seed"
        sentence = f"Best{place}{sure}: {row[member].values[int(first)]}"
        if near:
            sentence += f"; within two standard errors of it: {', '.join(near)}"
        lines += textwrap.wrap(sentence + ".", 90, subsequent_indent="  ")
    return lines


def figure(
    dataset: xr.Dataset,
    member: str,
    title: str,
    *,
    forward: str = "output_rms",
    backward: str = "cotangent_rms",
    words: tuple[str, str] = ("signal: RMS of activations", "error signal: RMS of dL/dh"),
    layer: str = "layer (1 is next to the input)",
    aside: Callable[[Sequence[Axes]], None] | None = None,
) -> Figure:
    """Signal and error signal by layer, at initialisation and after training, and the loss.

    A column for each combination of the axes other than `member`, whose values are the colours.

    Args:
      dataset: what `measure` returned.
      member: the axis whose values are compared.
      title: of the figure.
      forward: the variable of the upper row, with the dimension `layer`.
      backward: that of the middle row.
      words: what they are called.
      layer: what the horizontal axis of both is called.
      aside: draws on two more axes, to the left of the others.
    """
    best = chosen(dataset)
    names = list(dataset[member].values)
    color = figures.colors(list(map(str, names)))
    others = [axis for axis in axes_of(dataset) if axis != member]
    stacked = best.stack(rest=others) if others else best.expand_dims("rest")
    drawing, side, grid = figures.panels_beside(2 if aside else 0, 3, stacked.sizes["rest"], title)
    if aside:
        aside(list(side))
    for column in range(stacked.sizes["rest"]):
        runs_here = stacked.isel(rest=column)
        signal, error, loss = grid[:, column]
        for name in names:
            runs = runs_here.sel({member: name})
            hidden = int(hidden_layers(runs[backward].isel(step=0)))
            for axes, quantity in ((signal, forward), (error, backward)):
                draw_profiles(axes, runs[quantity], hidden, color[str(name)])
            accuracy = f"{float(runs.test_accuracy.isel(step=-1).mean('seed')):.0%}"
            end = "diverged" if (runs.outcome == train.Outcome.DIVERGED).any() else accuracy
            figures.curve(loss, runs.loss, color=color[str(name)], lw=1, label=f"{name}: {end}")
        place = ", ".join(_heading(runs_here[axis]) for axis in others)
        signal.set_title(place or " ")
        error.set_xlabel(layer)
        loss.set_xlabel("training step")
        figures.legend(loss, title="test accuracy")
    for row, quantity in zip(grid, (forward, backward), strict=False):
        figures.at_least_two_decades(row[0])
        largest = float(best[quantity].isel(step=0).max())
        if row[0].get_ylim()[1] > _BEYOND**2 * largest > 0:
            row[0].set_ylim(top=_BEYOND * largest)
    start = float(best.loss.isel(step=0).median())
    highest = float(best.loss.where(np.isfinite(best.loss)).max())
    # what grows beyond leaves the picture, and the legend has room above
    grid[2, 0].set_ylim(0, min(highest, 2 * start) * 1.4)
    for axes, label in zip(grid[:, 0], (*words, "training loss"), strict=True):
        axes.set_ylabel(label)
    grid[1, 0].plot([], [], color="gray", marker="o", ms=3, label="at initialisation")
    grid[1, 0].plot([], [], color="gray", ls="--", lw=1, label="after training")
    figures.legend(grid[1, 0])
    return drawing


def draw_profiles(axes: Axes, sizes: xr.DataArray, layers: int, color: Any) -> None:
    """A size by layer, of so many: dots at initialisation, a dashed line after training."""
    sizes = sizes.isel(layer=slice(None, layers))
    figures.profile(axes, sizes.isel(step=0), color=color, marker="o", ms=3)
    figures.profile(axes, sizes.isel(step=-1), color=color, ls="--", lw=1)


def _heading(values: xr.DataArray) -> str:
    """A value of an axis as it stands over a column: "10 hidden layers", "norm: batch_norm"."""
    counted = values.attrs.get("long_name", "").removeprefix("number of ")
    if counted == values.attrs.get("long_name", ""):
        return f"{values.name}: {values.item()}"
    return f"{values.item()} {counted.replace('layers', 'layer') if values == 1 else counted}"


def power(log10: float) -> str:
    """10 to a power that may be out of the range of floating-point numbers."""
    if not np.isfinite(log10):
        return "nan" if np.isnan(log10) else "inf" if log10 > 0 else "0"
    exponent = int(np.floor(round(log10, 2)))
    return f"{10 ** (log10 - exponent):.1f}e{exponent:+03d}"


def _only(at: Mapping[str, Any], of: xr.DataArray) -> dict[str, Any]:
    return {axis: value for axis, value in at.items() if axis in of.dims}
