"""Figures of traces and of labelled datasets, in one style."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing.figures.curves import curve, line_and_dots, profile
    from vanishing.figures.layout import (
        at_least_two_decades,
        colors,
        legend,
        log_scale,
        note_if_empty,
        panels,
        panels_beside,
    )
    from vanishing.figures.rows import plot

__getattr__, __dir__ = attach(
    __name__,
    {
        "at_least_two_decades": "layout",
        "colors": "layout",
        "curve": "curves",
        "panels": "layout",
        "legend": "layout",
        "line_and_dots": "curves",
        "log_scale": "layout",
        "note_if_empty": "layout",
        "panels_beside": "layout",
        "plot": "rows",
        "profile": "curves",
    },
)
__all__ = [
    "at_least_two_decades",
    "colors",
    "curve",
    "legend",
    "line_and_dots",
    "log_scale",
    "note_if_empty",
    "panels",
    "panels_beside",
    "plot",
    "profile",
]
