"""Grids of computations: each cell is compiled once, and finished parts are kept."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing.sweep.engine import Progress, run
    from vanishing.sweep.grid import Cell, Grid, once, spread
    from vanishing.sweep.parallel import Task, gather
    from vanishing.sweep.run_folder import Folder

__getattr__, __dir__ = attach(
    __name__,
    {
        "Cell": "grid",
        "Folder": "run_folder",
        "Grid": "grid",
        "Progress": "engine",
        "Task": "parallel",
        "gather": "parallel",
        "once": "grid",
        "run": "engine",
        "spread": "grid",
    },
)
__all__ = [
    "Cell",
    "Folder",
    "Grid",
    "Progress",
    "Task",
    "gather",
    "once",
    "run",
    "spread",
]
