"""Training runs as pure functions, probed as they go, and their history as a labelled dataset."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing.train.labelled import profiles, to_dataset, trunk
    from vanishing.train.run import (
        DTYPES,
        Data,
        History,
        Outcome,
        Problem,
        Run,
        State,
        fit,
        make_run,
        outcome,
        task,
    )

__getattr__, __dir__ = attach(
    __name__,
    {
        "DTYPES": "run",
        "Data": "run",
        "Outcome": "run",
        "Problem": "run",
        "History": "run",
        "Run": "run",
        "State": "run",
        "fit": "run",
        "make_run": "run",
        "outcome": "run",
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
