"""Figures of the rows of a trace."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vanishing._extras import needs
from vanishing.figures.layout import at_least_two_decades, colors, log_scale

with needs("figures"):
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator


def require_picture(name: str, file: str) -> None:
    """Refuse a file that no picture can be written to, before what it shows is computed.

    Args:
      name: of the argument.
      file: its path.

    Raises:
      ValueError: there is no such folder or format, or the file cannot be written.
    """
    path, endings = Path(file), [f".{kind}" for kind in FigureCanvasBase.filetypes]
    if path.suffix.lower() not in endings:
        raise ValueError(f"{name} is {file!r}; it must end in one of {', '.join(endings)}.")
    if not path.parent.is_dir():
        raise ValueError(f"{name} is {file!r}; there is no folder {path.parent}: make it first.")
    is_new = not os.path.lexists(path)
    if not is_new and not path.is_file():
        raise ValueError(f"{name} is {file!r}, which is there and no file; give another name.")
    try:
        path.open("ab").close()
    except OSError as error:
        reason = f"which cannot be written: {error.strerror}"
        raise ValueError(f"{name} is {file!r}, {reason}.") from None
    if is_new:
        path.unlink()


def plot(names: Sequence[str], forward: np.ndarray, backward: np.ndarray, title: str) -> Figure:
    """Signal and gradient against layer, on log axes; returns the matplotlib figure."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    labels = ("signal RMS", "gradient RMS, dL/dh")
    palette = colors(labels)
    for axes, values, label in zip((upper, lower), (forward, backward), labels, strict=True):
        finite = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        marker = "o" if len(values) <= 60 else None
        axes.plot(finite, color=palette[label], marker=marker, markersize=3.5, linewidth=1.3)
        axes.set_ylabel(label)
        if log_scale(axes):
            at_least_two_decades(axes)
        axes.grid(alpha=0.25)
    lower.xaxis.set_major_locator(MaxNLocator(min(12, max(1, len(names))), integer=True))
    figure.draw_without_rendering()
    ticks = [int(tick) for tick in lower.get_xticks() if 0 <= tick < len(names)]
    lower.set_xticks(ticks, [names[tick] for tick in ticks], rotation=30, ha="right", fontsize=8)
    lower.set_xlabel("row, in forward order")
    upper.set_title(title, loc="left")
    return figure
