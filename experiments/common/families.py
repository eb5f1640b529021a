"""The measurement, table, ranking and figure of experiments that compare a family of networks.

Their datasets have the structural axes of a sweep, one of which names the members of the family,
and the axes learning_rate, seed, step and layer.
"""

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import groups, training
from vanishing import _text, figures, sweep, theory, train
from vanishing.layers import Layer

_BEYOND = 1e3  # axis limit: multiple of the largest value at initialisation
LEARNS_AT = 0.9  # test accuracy from which a network learns
IN_PART_AT = 2  # test accuracy, over chance, from which it learns in part


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


def measure_networks(
    config: groups.RunOptions,
    run: Callable[..., xr.Dataset],
    members: Mapping[str, Sequence],
    network: Callable[..., Layer],
    examples: train.Data,
    predict_on: jax.Array | None = None,
) -> xr.Dataset:
    """The same where the members are networks that are all trained in the same way.

    Args:
      config: how to train them.
      run: `sweep.run`.
      members: the values of each axis.
      network: makes a network from a value of each axis, given by the axis's name.
      examples: the data.
      predict_on: the inputs of one training step, for a prediction of each network; none if None.
    """

    def cell(**member: Any) -> sweep.Cell:
        return training.cell(config, network(**member))

    dataset = measure(config, run, members, cell, examples)
    if predict_on is None:
        return dataset
    return with_prediction(dataset, members, network, predict_on)


def axes_of(dataset: xr.Dataset) -> list[str]:
    """The axes that distinguish one network from another."""
    of_runs = ("learning_rate", "seed", "step", "layer")
    return [str(axis) for axis in dataset.test_accuracy.dims if axis not in of_runs]


def chosen(dataset: xr.Dataset) -> xr.Dataset:
    """Each network's runs at the learning rate that suits it best."""
    return dataset.sel(learning_rate=training.best_learning_rate(dataset))


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def summary(dataset: xr.Dataset) -> xr.Dataset:
    """Each network at its best learning rate.

    Its accuracy over seeds, the fraction of the error signal that reaches its first layer, before
    and after training, and whether the learning rate is the first or the last of those compared.
    """
    best, rates, hidden = chosen(dataset), dataset.learning_rate, hidden_layers(dataset)
    accuracy = best.test_accuracy.isel(step=-1, drop=True)
    start, end = (best.cotangent_rms.isel(step=at, drop=True) for at in (0, -1))
    return xr.Dataset(
        {
            "learning_rate": best.learning_rate,
            "at_an_end": (best.learning_rate == rates[0]) | (best.learning_rate == rates[-1]),
            "accuracy": accuracy.mean("seed"),
            "spread": accuracy.std("seed"),
            "loss": best.loss.isel(step=-1, drop=True).astype(float).mean("seed"),
            "diverged": (best.outcome == train.Outcome.DIVERGED).sum("seed"),
            "log10_share": log10_share(start, hidden),
            "log10_share_after": log10_share(end, hidden),
            "hidden": hidden,
        }
    )


def hidden_layers(dataset: xr.Dataset) -> xr.DataArray:
    """The number of layers of each network without its read-out; 0 of one that failed.

    A layer is there if anything was measured at it in any run: where the error signal has exploded
    it is nan, as it is beyond a network's depth, but the weights have their size.
    """
    axes, last = axes_of(dataset), xr.DataArray(0)
    for values in dataset.data_vars.values():
        if "layer" in values.dims:
            there = values.notnull().any([d for d in values.dims if d not in (*axes, "layer")])
            last = xr.apply_ufunc(np.maximum, last, values.layer.where(there, 0).max("layer"))
    return (last - 1).clip(0)


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def log10_share(sizes: xr.DataArray, hidden: xr.DataArray) -> xr.DataArray:
    """log10 of a size at the first layer over that at the last hidden one; median over seeds."""
    logs = xr.apply_ufunc(np.log10, sizes.astype(float))
    last = logs.where(logs.layer == hidden).max("layer")
    return (logs.sel(layer=1, drop=True) - last).median("seed")


def with_prediction(
    dataset: xr.Dataset,
    members: Mapping[str, Sequence],
    network: Callable[..., Layer],
    x: jax.Array,
) -> xr.Dataset:
    """The dataset with the `log10_share` at initialisation that theory predicts of each member.

    Args:
      dataset: what `measure` returned.
      members: the axes that were given to it.
      network: makes a network from a value of each axis, given by the axis's name.
      x: the inputs of one training step.
    """
    predictions = [
        predicted_log10_share(network(**dict(zip(members, values, strict=True))), x)
        for values in itertools.product(*members.values())
    ]
    shape = [len(values) for values in members.values()]
    variable = xr.Variable(tuple(members), np.reshape(predictions, shape), {"units": "1"})
    return dataset.assign(predicted_log10_share=variable)


def predicted_log10_share(network: Layer, x: jax.Array) -> float:
    """`log10_share` at initialisation as theory predicts it; nan where it cannot."""
    try:
        prediction = theory.predict(network, x)
    except ValueError:
        return float("nan")
    dense = [row for row, name in enumerate(prediction.names) if name.endswith(".dense")]
    logs = np.asarray(prediction.log_backward, np.float64)[dense]
    with np.errstate(invalid="ignore"):
        return float((logs[0] - logs[-2]) / 2 / np.log(10))


def predicted_factors(dataset: xr.Dataset) -> xr.DataArray:
    """The predicted factor per layer as text; "-" where there is only one hidden layer."""
    between = dataset.depth - 1
    factors = 10 ** (dataset.predicted_log10_share / np.maximum(between, 1))
    texts = xr.apply_ufunc("{:.3f}".format, factors, vectorize=True)
    return texts.where(between > 0, "-")


def answer(accuracy: float, chance: float, diverged: int, seeds: int) -> str:
    """The outcome of a network in a word or two."""
    if diverged:
        return f"diverges ({diverged} of {seeds} seeds)"
    if np.isnan(accuracy):
        return "failed"
    if accuracy < IN_PART_AT * chance:
        return "does not learn"
    return "learns" if accuracy >= LEARNS_AT else "learns in part"


def verdict(
    dataset: xr.Dataset,
    member: str,
    columns: Mapping[str, xr.DataArray] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The table, notes on its columns, and the ranking of the members."""
    return "\n".join([*table(dataset, columns), *notes, "", *ranking(dataset, member)])


def table(dataset: xr.Dataset, columns: Mapping[str, xr.DataArray] | None = None) -> list[str]:
    """The lines of a table with the outcome of each network, and how to read it.

    Args:
      dataset: what `measure` returned. Coordinates along the first axis alone, such as each
        activation's initialiser, get a column.
      columns: texts of further columns by their heading, with the axes of the networks.
    """
    axes = axes_of(dataset)
    beside_first = [
        str(name) for name in dataset.coords if dataset[name].dims == (axes[0],) and name != axes[0]
    ]
    axes.sort(key=lambda axis: dataset[axis].dtype.kind in "if")  # names first, then numbers
    names = [axes[0], *beside_first, *axes[1:]]
    results = summary(dataset)
    rows = []
    for values in itertools.product(*(dataset[axis].values for axis in axes)):
        place = dict(zip(axes, values, strict=True))
        named = _texts([dataset[name] for name in names], place)
        added = _texts((columns or {}).values(), place)
        signal, outcome = _row(results.sel(place), dataset)
        rows.append([*named, *signal, *added, *outcome])
    header = [*names, "signal left", "after", "a layer", *(columns or {}), "rate ", "test accuracy"]
    left = sum(dataset[name].dtype.kind not in "if" for name in names)
    return [*_text.table([*header, ""], rows, left).splitlines(), "", *_legend(dataset, results)]


def _texts(columns: Iterable[xr.DataArray], place: Mapping[str, Any]) -> list[str]:
    """The text of each column at one place of the grid."""

    def at(column):
        return {axis: place[axis] for axis in column.dims}

    return [str(column.sel(at(column)).item()) for column in columns]


def _row(result: xr.Dataset, dataset: xr.Dataset) -> tuple[list[str], list[str]]:
    """The texts of one network's signal and of its training."""
    seeds = dataset.sizes["seed"]
    mark = "*" if result.at_an_end and dataset.sizes["learning_rate"] > 1 else " "
    factor = float(result.log10_share) / max(int(result.hidden) - 1, 1)
    signal = [
        training.power(float(result.log10_share)),
        training.power(float(result.log10_share_after)),
        f"{10**factor:.3f}",
    ]
    accuracy = float(result.accuracy)
    return signal, [
        f"{float(result.learning_rate):g}{mark}",
        training.mean_and_spread(accuracy, float(result.spread), seeds),
        answer(accuracy, float(dataset.chance), int(result.diverged), seeds),
    ]


def _legend(dataset: xr.Dataset, results: xr.Dataset) -> list[str]:
    """How to read the table."""
    chance = float(dataset.chance)
    undefined = results[["log10_share", "log10_share_after"]].isnull().any().to_array().any()
    return [
        "signal left: the error signal (gradient with respect to pre-activations) of the first",
        "layer over that of the last hidden one, at initialisation; after: the same after",
        "training; a layer: one layer's factor at initialisation.",
        *["nan: the error signal of both is 0, or one is infinite or nan."][: int(undefined)],
        f"rate: of {dataset.sizes['learning_rate']} learning rates, the one with the lowest "
        "training loss; * the lowest or highest of them.",
        f"test accuracy: {training.over_seeds(dataset.sizes['seed'])}; chance is {chance:.1%}. "
        f"To learn is to reach {LEARNS_AT:.0%},",
        f"to learn in part {IN_PART_AT * chance:.1%}, twice chance.",
    ]


def ranking(dataset: xr.Dataset, member: str) -> list[str]:
    """The best member for each combination of the other axes, and those as good as it."""
    results, lines = summary(dataset), []
    others = [axis for axis in axes_of(dataset) if axis != member]
    stacked = results.stack(rest=others) if others else results.expand_dims("rest")
    for i in range(stacked.sizes["rest"]):
        place = ", ".join(f"{axis} {stacked.isel(rest=i)[axis].item()}" for axis in others)
        sentence = _best(stacked.isel(rest=i), member, f" at {place}" if place else "", dataset)
        lines += textwrap.wrap(sentence, 90, subsequent_indent="  ")
    return lines


def _best(results: xr.Dataset, member: str, place: str, dataset: xr.Dataset) -> str:
    """A sentence on the best of the members, and those that seeds do not distinguish from it."""
    accuracy = results.accuracy.where(results.diverged == 0)
    if accuracy.isnull().all():
        return f"None of them stayed finite{place}."
    if float(accuracy.max()) < IN_PART_AT * float(dataset.chance):
        return f"None of them learns{place}."
    seeds, first = dataset.sizes["seed"], accuracy.argmax(member)
    behind = accuracy.isel({member: first}) - accuracy
    error = results.spread / max(seeds - 1, 1) ** 0.5  # of the mean
    doubt = 2 * np.hypot(error.isel({member: first}), error)
    names = results[member].values
    best = names[int(first)]
    near = [str(name) for name in names[np.asarray(behind <= doubt)] if name != best]
    sentence = f"Best{place}{'' if seeds > 1 else ' of one seed'}: {best}"
    if near:
        sentence += f"; within two standard errors of it: {', '.join(near)}"
    return sentence + "."


@dataclasses.dataclass(frozen=True)
class Profiles:
    """The two quantities by layer that a figure shows, and their names in it."""

    forward: str = "output_rms"
    backward: str = "cotangent_rms"
    forward_label: str = "signal: RMS of activations"
    backward_label: str = "error signal: RMS of dL/dh"
    layer_label: str = "layer (1 is next to the input)"


def figure(dataset: xr.Dataset, member: str, title: str, profiles: Profiles = Profiles()) -> Figure:
    """Signal and error signal by layer, at initialisation and after training, and the loss.

    A column for each combination of the axes other than `member`, whose values are the colours.
    """
    drawing, _, grid = canvas(dataset, member, title)
    draw(grid, dataset, member, profiles)
    return drawing


def canvas(
    dataset: xr.Dataset, member: str, title: str, beside: int = 0
) -> tuple[Figure, np.ndarray, np.ndarray]:
    """An empty figure, so many wider axes to the left, and the grid of axes for `draw`."""
    others = [dataset.sizes[axis] for axis in axes_of(dataset) if axis != member]
    return figures.panels_beside(beside, 3, int(np.prod(others)), title)


def draw(
    grid: np.ndarray, dataset: xr.Dataset, member: str, profiles: Profiles = Profiles()
) -> None:
    """Draw what `figure` shows on a grid of axes, (quantity, combination of the other axes)."""
    best = chosen(dataset).assign_coords(hidden=hidden_layers(dataset))
    color = figures.colors(list(map(str, dataset[member].values)))
    others = [axis for axis in axes_of(dataset) if axis != member]
    stacked = best.stack(rest=others) if others else best.expand_dims("rest")
    for column in range(stacked.sizes["rest"]):
        runs = stacked.isel(rest=column)
        for name in dataset[member].values:
            _draw_network(grid[:, column], runs.sel({member: name}), name, color, profiles)
        place = ", ".join(_heading(runs[axis]) for axis in others)
        grid[0, column].set_title(place or " ")
        grid[1, column].set_xlabel(profiles.layer_label)
        grid[2, column].set_xlabel("training step")
        figures.legend(grid[2, column], title="test accuracy")
    _limit(grid, best, profiles)
    labels = (profiles.forward_label, profiles.backward_label, "training loss")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    for axes in grid.flat:
        figures.note_if_empty(axes)
    grid[1, 0].plot([], [], color="gray", marker="o", ms=3, label="at initialisation")
    grid[1, 0].plot([], [], color="gray", ls="--", lw=1, label="after training")
    figures.legend(grid[1, 0])


def _draw_network(
    column: np.ndarray,
    runs: xr.Dataset,
    name: Any,
    color: Mapping[str, Any],
    profiles: Profiles,
) -> None:
    """One network's profiles and losses on the three axes of a column."""
    for axes, quantity in zip(column, (profiles.forward, profiles.backward), strict=False):
        draw_profiles(axes, runs[quantity], int(runs.hidden), color[str(name)])
    accuracy = f"{float(runs.test_accuracy.isel(step=-1).astype(float).mean('seed')):.0%}"
    end = "diverged" if (runs.outcome == train.Outcome.DIVERGED).any() else accuracy
    figures.curve(column[2], runs.loss, color=color[str(name)], lw=1, label=f"{name}: {end}")


def _limit(grid: np.ndarray, best: xr.Dataset, profiles: Profiles) -> None:
    """Limits that keep what grows beyond all bounds from flattening the rest."""
    for row, quantity in zip(grid, (profiles.forward, profiles.backward), strict=False):
        figures.at_least_two_decades(row[0])
        largest = float(_finite(best[quantity].isel(step=0)).max())
        if row[0].get_ylim()[1] > _BEYOND**2 * largest > 0:
            row[0].set_ylim(top=_BEYOND * largest)
    losses = _finite(best.loss)
    start, highest = float(losses.isel(step=0).median()), float(losses.max())
    top = float(np.fmin(2 * start, highest))  # of the two, one may be nan
    if top > 0:
        grid[2, 0].set_ylim(0, top * 1.4)  # the legend has room above


def _finite(values: xr.DataArray) -> xr.DataArray:
    return values.where(np.isfinite(values)).astype(float)


def draw_profiles(axes: Axes, sizes: xr.DataArray, layers: int, color: Any) -> None:
    """A size in the first so many layers: dots at initialisation, a dashed line after training."""
    if not layers:  # the network failed
        return
    sizes = sizes.isel(layer=slice(None, layers))
    figures.profile(axes, sizes.isel(step=0), color=color, marker="o", ms=3)
    figures.profile(axes, sizes.isel(step=-1), color=color, ls="--", lw=1)


def _heading(values: xr.DataArray) -> str:
    """The heading of a column for a value of an axis: "10 hidden layers", "norm: batch_norm"."""
    counted = values.attrs.get("long_name", "").removeprefix("number of ")
    if counted == values.attrs.get("long_name", ""):
        return f"{values.name}: {values.item()}"
    return f"{values.item()} {counted.replace('layers', 'layer') if values == 1 else counted}"
