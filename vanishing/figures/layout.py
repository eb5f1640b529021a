"""Figures with a title and panels, in one style."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from vanishing._extras import needs

with needs("figures"):
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    """The same grid, with a column of `side` wider axes to the left of it."""
    if not side:
        figure, grid = panels(rows, columns, title)
        return figure, np.empty(0, object), grid
    with rc_context(_STYLE):
        widths = (4.6, 1.5 + 3.6 * columns)
        figure = Figure(figsize=(sum(widths), 1.0 + 3.1 * max(rows, side)), layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=widths)[0]
        grid = right.subplots(rows, columns, squeeze=False, sharey="row")
        return figure, left.subplots(side, 1, squeeze=False)[:, 0], grid


def colors(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each name, the same for the same list."""
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(i % palette.N) for i, name in enumerate(names)}


def legend(axes: Axes, title: str | None = None) -> None:
    """A legend that stays within its panel: many names stand smaller and in two columns."""
    crowded = len(axes.get_legend_handles_labels()[1]) > 5
    axes.legend(title=title, loc="best", fontsize=7 if crowded else 10, ncols=1 + crowded)


def at_least_two_decades(axes: Axes) -> None:
    """Keep a flat line flat: a log axis, shared or not, spans a factor of 100 or more."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log" and high / low < 100:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10, middle * 10)


def log_scale(axes: Axes) -> bool:
    """Make the y axis logarithmic, if a line has a number that such an axis can show.

    Of lines of zeros, or of what is infinite or nan, it stays linear.

    Returns:
      Whether it is logarithmic now.
    """
    if any((np.isfinite(heights) & (heights > 0)).any() for heights in _heights(axes)):
        axes.set_yscale("log")
    return axes.get_yscale() == "log"


def note_if_empty(axes: Axes) -> None:
    """Say so on a panel whose lines hold no finite number, such as those of exploded networks."""
    if not any(np.isfinite(heights).any() for heights in _heights(axes)):
        place = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "no finite number to show", color="gray", **place)


def _heights(axes: Axes) -> list[np.ndarray]:
    """The heights of the points of each line."""
    return [np.ma.filled(np.ma.asarray(line.get_ydata(), float), np.nan) for line in axes.lines]
