"""Figures: what is drawn from a record, in one style."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "vanishing",  # the same data make the same file
}


def panels(
    rows: int,
    columns: int,
    title: str,
    size: tuple[float, float] | None = None,
    share_rows: bool = True,
) -> tuple[Figure, np.ndarray]:
    """A figure with a title and a grid of axes, (rows, columns), that share each row's scale.

    Its size in inches grows with the number of axes unless it is given.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        size = size or (1.5 + 3.6 * columns, 1.0 + 3.1 * rows)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(
            textwrap.fill(title, 38 * columns), fontsize=14, fontweight="bold", x=0.01, ha="left"
        )
        sharey = "row" if share_rows else False
        return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def panels_beside(
    side: int, rows: int, columns: int, title: str
) -> tuple[Figure, np.ndarray, np.ndarray]:
    """The same grid with a column of so many wider axes of their own to the left of it."""
    if not side:
        figure, grid = panels(rows, columns, title)
        return figure, np.empty(0, object), grid
    from matplotlib import rc_context

    with rc_context(_STYLE):
        widths = (4.6, 1.5 + 3.6 * columns)
        figure = Figure(figsize=(sum(widths), 1.0 + 3.1 * max(rows, side)), layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=widths)[0]
        grid = right.subplots(rows, columns, squeeze=False, sharey="row")
        return figure, left.subplots(side, 1, squeeze=False)[:, 0], grid


def colors(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each name, the same for the same list."""
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(i % palette.N) for i, name in enumerate(names)}


def legend(axes: Axes, title: str | None = None) -> None:
    """A legend that stays within its panel: many names stand smaller and in two columns."""
    crowded = len(axes.get_legend_handles_labels()[1]) > 5
    axes.legend(title=title, loc="best", fontsize=7 if crowded else 10, ncols=1 + crowded)


def profile(axes: Axes, sizes: xr.DataArray, **style) -> None:
    """Sizes by layer on a log axis: the median over seeds, and a band from the least to the most.

    Args:
      axes: where to draw.
      sizes: dimensions (seed, layer); layers with nan or 0 in a seed are left out of its curve.
      **style: of the line.
    """
    positive = sizes.where((sizes > 0) & np.isfinite(sizes))
    middle = positive.median("seed")
    (line,) = axes.plot(middle.layer, middle, **style)
    axes.fill_between(
        middle.layer,
        positive.min("seed"),
        positive.max("seed"),
        color=line.get_color(),
        alpha=0.15,
        linewidth=0,
    )
    if bool(positive.notnull().any()):  # matplotlib refuses a log axis without a number
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(LogLocator(numticks=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, float(sizes.layer[-1]) + 0.5)


def at_least_two_decades(axes: Axes) -> None:
    """Keep a flat line flat: a log axis, shared or not, spans a factor of 100 or more."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log" and high / low < 100:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10, middle * 10)


def curve(axes: Axes, values: xr.DataArray, **style) -> None:
    """A quantity over training steps, one thin line a seed; a cross marks where a run diverged.

    Args:
      axes: where to draw.
      values: dimensions (seed, step).
      **style: of the lines; a label goes to the first of them.
    """
    label = style.pop("label", None)
    steps = values.step.values
    for heights in values.transpose("seed", "step").values:
        broken = np.flatnonzero(~np.isfinite(heights))
        end = broken[0] if len(broken) else len(steps)
        (line,) = axes.plot(steps[:end], heights[:end], label=label, **style)
        label = None
        if len(broken):
            last = max(end - 1, 0)
            height = heights[last] if end else axes.get_ylim()[1]
            axes.plot(steps[last], height, "x", color=line.get_color(), ms=9, mew=2)


def line_and_dots(
    axes: Axes,
    predicted: xr.DataArray,
    measured: xr.DataArray,
    spread: xr.DataArray | None = None,
    **style,
) -> None:
    """A prediction by layer as a line, its spread as a band, the measured seeds as dots.

    Args:
      axes: where to draw.
      predicted: dimension (layer,).
      measured: dimensions (seed, layer); at most a dozen layers get dots.
      spread: dimension (layer,); the band is two of it to each side.
      **style: color and label.
    """
    axes.plot(predicted.layer, predicted, lw=1.5, **style)
    if spread is not None:
        low, high = predicted - 2 * spread, predicted + 2 * spread
        axes.fill_between(
            predicted.layer, low, high, color=style.get("color"), alpha=0.12, linewidth=0
        )
    shown = measured.isel(layer=slice(None, None, max(1, measured.sizes["layer"] // 12)))
    for seed in shown.transpose("seed", "layer").values:
        axes.plot(shown.layer, seed, "o", ms=2.5, alpha=0.5, color=style.get("color"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
