"""Pictures of the rows of a trace."""

from collections.abc import Sequence

import numpy as np

from vanishing._extras import needs

with needs("figures"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator


def plot(names: Sequence[str], forward: np.ndarray, backward: np.ndarray, title: str) -> Figure:
    """Signal and gradient against layer, on log axes; returns the matplotlib figure."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, values, label, color in (
        (upper, forward, "signal RMS", "#0072b2"),
        (lower, backward, "gradient RMS, dL/dh", "#d55e00"),
    ):
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        marker = "o" if len(values) <= 60 else None
        axes.plot(shown, color=color, marker=marker, markersize=3.5, linewidth=1.3)
        axes.set_ylabel(label)
        positive = shown[~np.isnan(shown)]
        if len(positive):
            axes.set_yscale("log")
            middle = np.sqrt(positive.min() * positive.max())
            if positive.max() / positive.min() < 100:  # keep a flat line flat
                axes.set_ylim(middle / 10, middle * 10)
        axes.grid(alpha=0.25)
    lower.xaxis.set_major_locator(MaxNLocator(min(12, len(names)), integer=True))
    figure.draw_without_rendering()
    ticks = [int(tick) for tick in lower.get_xticks() if 0 <= tick < len(names)]
    lower.set_xticks(ticks, [names[tick] for tick in ticks], rotation=30, ha="right", fontsize=8)
    lower.set_xlabel("row, in forward order")
    upper.set_title(title, loc="left")
    return figure
