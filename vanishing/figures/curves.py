"""Curves of labelled quantities: profiles by layer, and histories by training step."""

import numpy as np

from vanishing._extras import needs
from vanishing.figures.layout import log_scale

with needs("figures"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogLocator, MaxNLocator
with needs("sweeps"):
    import xarray as xr


def profile(axes: Axes, sizes: xr.DataArray, **style) -> None:
    """Sizes by layer on a log axis: the median over seeds, and a band from the least to the most.

    Args:
      axes: where to draw.
      sizes: dimensions (seed, layer); layers with nan or 0 in a seed are left out of its curve.
      **style: of the line.
    """
    positive = sizes.where((sizes > 0) & np.isfinite(sizes)).astype(float)
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
    if log_scale(axes):
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(LogLocator(numticks=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, float(sizes.layer[-1]) + 0.5)


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
    dots = measured.isel(layer=slice(None, None, max(1, measured.sizes["layer"] // 12)))
    for seed in dots.transpose("seed", "layer").values:
        axes.plot(dots.layer, seed, "o", ms=2.5, alpha=0.5, color=style.get("color"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
