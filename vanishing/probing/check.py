"""The check of a trace: its numbers beside those of perturbation gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vanishing import _text
from vanishing.probing.trace import Trace


class Checked(NamedTuple):
    """One number of a trace, and what it should be."""

    row: str
    quantity: str
    measured: float
    expected: float
    scale: float  # what an error is relative to: of a mean, the RMS of what it is the mean of

    @property
    def error(self) -> float:
        """Relative error; 0 where both are the same inf or nan."""
        return relative_error(self.measured, self.expected, self.scale)


class Check(NamedTuple):
    """How far off a trace's numbers are."""

    numbers: tuple[Checked, ...]
    value_error: float  # relative, of the loss
    grads_error: float  # relative, of the gradients: largest difference over largest magnitude

    @property
    def worst(self) -> float:
        """The largest of all the errors."""
        return max([self.value_error, self.grads_error, *(number.error for number in self.numbers)])

    def __str__(self) -> str:
        ranked = sorted(self.numbers, key=lambda number: -number.error)[:10]
        rows = [
            (n.row, n.quantity, f"{n.measured:.6g}", f"{n.expected:.6g}", f"{n.error:.1e}")
            for n in ranked
        ]
        header = ("row", "quantity", "measured", "expected", "relative error")
        checked = len({number.row for number in self.numbers})
        return (
            f"{len(self.numbers)} numbers of {checked} rows: worst relative error {self.worst:.1e} "
            f"(loss {self.value_error:.1e}, gradients {self.grads_error:.1e}).\n"
            + _text.table(header, rows, texts=2)
        )


def relative_error(measured: float, expected: float, scale: float) -> float:
    """|measured - expected| / |scale|; 0 for equal numbers, two nans, or two equal infs."""
    if measured == expected or (np.isnan(measured) and np.isnan(expected)):
        return 0.0
    if not (np.isfinite(measured) and np.isfinite(expected)) or scale == 0:
        return float("inf")
    return abs(measured - expected) / abs(scale)


def compare(
    trace: Trace,
    grads: Any,
    places: Sequence[tuple[int, int, tuple[int, ...]]],
    signals: Mapping[int, Any],
    cotangents: Mapping[int, Any],
    value: Any,
    expected_grads: Any,
) -> Check:
    """Compare a trace with whole signals and cotangents.

    Args:
      trace: what is checked.
      grads: the gradients that came with it.
      places: (row, number of the value, indices of its loops) of each row to check.
      signals: by number, with axes of loops in front.
      cotangents: the same.
      value: of the loss, by `jax.value_and_grad`.
      expected_grads: the same.
    """
    numbers = []
    for row, number, indices in places:
        signal = np.asarray(np.asarray(signals[number], np.float64)[indices])
        cotangent = np.asarray(np.asarray(cotangents[number], np.float64)[indices])
        ran = not np.isnan(signal).all() or not np.any(cotangent == 0)
        for what, summary, x in (
            ("forward", trace.forward, signal),
            ("backward", trace.backward, cotangent),
        ):
            found = summarise(x)
            for quantity in set(found).intersection(summary._fields):
                measured = float(np.asarray(getattr(summary, quantity))[row])
                expected = found[quantity] if ran else float("nan")
                scale = found["rms"] if quantity == "mean" else expected
                label = f"{what} {quantity}"
                numbers.append(Checked(trace.names[row], label, measured, expected, scale))
    return Check(
        tuple(numbers),
        relative_error(float(trace.value), float(value), float(value)),
        _tree_error(grads, expected_grads),
    )


def summarise(x: np.ndarray) -> dict[str, float]:
    """The summaries of `vanishing.probing.summary` that have a plain formula, in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.max(np.abs(x), initial=0.0)
        scale = largest if 0 < largest < np.inf else 1.0
        return {
            "mean": float(np.mean(x)),
            "rms": float(scale * np.sqrt(np.mean((x / scale) ** 2))),
            "largest": float(largest),
            "zeros": float(np.mean(x == 0)),
            "non_finite": float(np.sum(~np.isfinite(x))),
        }


def _tree_error(tree: Any, expected: Any) -> float:
    """The largest relative error of a leaf; a difference that is rounding of the whole is none."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64), np.finfo(b.dtype).eps)
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    ]
    sizes = [np.max(np.abs(b), initial=0.0, where=np.isfinite(b)) for _, b, _ in pairs]
    worst = 0.0
    for (a, b, eps), size in zip(pairs, sizes, strict=True):
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        with np.errstate(invalid="ignore"):
            difference = np.where((a == b) | np.isnan(a), 0.0, np.abs(a - b))
        difference = np.max(difference, initial=0.0)
        if difference > 16 * eps * max(sizes):
            worst = max(worst, float(difference / size) if size else float("inf"))
    return worst
