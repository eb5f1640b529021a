"""Histories: the recorded steps of training runs, and how each run ended."""

import enum
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from vanishing import _arguments
from vanishing._types import PyTree
from vanishing.probing import Trace


class History(NamedTuple):
    """The recorded steps of a run, each measured before the step is taken."""

    step: Int[Array, "*record"]
    loss: Float[Array, "*record"]  # of the step's batch, penalty included
    accuracy: Float[Array, "*record"]  # of the step's batch, 0 to 1
    test_loss: Float[Array, "*record"]
    test_accuracy: Float[Array, "*record"]
    trace: Trace | None  # of the step's batch, the record axis in front; None if not probed
    params: PyTree = None  # before the step, the record axis in front; None if not asked for

    def at(self, *index: int) -> "History":
        """The part at an index of the leading axes.

        `history.at(0, -1)` is the last record of the first run of `train.fit`: its `trace` prints
        as a table, and `vanishing.diagnose` takes it.
        """
        return jax.tree.map(lambda leaf: leaf[index], self)


class Outcome(enum.IntEnum):
    """How a run ended."""

    FINITE = 0
    DIVERGED = 1  # the loss became infinite or nan


@_arguments.checked
def outcome(history: History) -> np.ndarray:
    """The `Outcome` of each run of a `fit`, as an int8 array with one entry a run."""
    _arguments.instance("history", history, History, "a History of `train.fit`")
    finite = np.isfinite(history.loss).all(axis=-1)
    return np.where(finite, Outcome.FINITE, Outcome.DIVERGED).astype(np.int8)
