"""Training runs as pure functions, probed as they go, and their history as a labelled dataset."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing.train.history import History, Outcome, outcome
    from vanishing.train.labelled import profiles, to_dataset, trunk
    from vanishing.train.problem import Data, Problem, State
    from vanishing.train.run import Run, fit, make_run, task
    from vanishing.train.steps import DTYPES, Recipe

__getattr__, __dir__ = attach(
    __name__,
    {
        "DTYPES": "steps",
        "Data": "problem",
        "History": "history",
        "Outcome": "history",
        "Problem": "problem",
        "Recipe": "steps",
        "Run": "run",
        "State": "problem",
        "fit": "run",
        "make_run": "run",
        "outcome": "history",
        "profiles": "labelled",
        "task": "run",
        "to_dataset": "labelled",
        "trunk": "labelled",
    },
)
__all__ = [
    "DTYPES",
    "Data",
    "History",
    "Outcome",
    "Problem",
    "Recipe",
    "Run",
    "State",
    "fit",
    "make_run",
    "outcome",
    "profiles",
    "task",
    "to_dataset",
    "trunk",
]
