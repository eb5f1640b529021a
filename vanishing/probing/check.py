"""The check of a trace: its numbers beside those of gradients of perturbations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing import _text
from vanishing._types import PyTree
from vanishing.probing import row_names
from vanishing.probing.lineage import RowId
from vanishing.probing.plan import Plan, tapped
from vanishing.probing.summary import is_measured
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
    """|measured - expected| / |scale|; 0 for equal numbers, or two that are not finite.

    Of a signal that holds both inf and nan, the largest magnitude may be either.
    """
    if measured == expected or not (np.isfinite(measured) or np.isfinite(expected)):
        return 0.0
    if not (np.isfinite(measured) and np.isfinite(expected)) or scale == 0:
        return float("inf")
    return abs(measured - expected) / abs(scale)


class Perturbed(NamedTuple):
    """The whole signal and cotangent of one row, from a perturbation."""

    signal: np.ndarray
    cotangent: np.ndarray

    @property
    def ran(self) -> bool:
        """Was the branch taken that the row is in?"""
        return not np.isnan(self.signal).all() or not np.any(self.cotangent == 0)


class Expected(NamedTuple):
    """What a trace should say, computed without the tap and the summaries."""

    rows: Mapping[RowId, Perturbed]  # those to check
    value: Any  # of the loss, by `jax.value_and_grad`
    grads: PyTree  # likewise


def spread(count: int, wanted: int) -> list[RowId]:
    """Evenly spread rows.

    Args:
      count: how many rows there are.
      wanted: how many to choose; 0 for all of them.

    >>> spread(9, 3), spread(2, 0)
    ([0, 4, 8], [0, 1])
    """
    rows = np.unique(np.linspace(0, count - 1, min(wanted or count, count)).astype(int))
    return [RowId(int(row)) for row in rows]


def chosen(names: Sequence[str], wanted: int | str) -> list[RowId]:
    """Rows to check: evenly spread ones, or those that a pattern matches.

    Raises:
      ValueError: the pattern matches no row.
    """
    if not isinstance(wanted, str):
        return spread(len(names), wanted)
    rows = [RowId(i) for i, name in enumerate(names) if row_names.matches(wanted, name)]
    if names and not rows:
        raise row_names.no_match("rows", wanted, names[0])
    return rows


def perturb(plan: Plan, rows: Sequence[RowId]) -> Expected:
    """What the trace of a plan should say of these rows.

    The loss is replayed with a perturbation of zeros added to the signal of each row; the gradient
    of a perturbation is the cotangent.
    """
    watched = {plan.layout.instances[row].site for row in rows}
    zeros = {
        s.value: jnp.zeros((*s.site.lengths, *s.site.shape), s.site.dtype)
        for i, s in enumerate(plan.selected)
        if i in watched
    }

    def add(number, x, slot, local):
        del number, local
        return x + slot, jax.lax.stop_gradient(x)

    perturbed_loss = jax.jit(jax.value_and_grad(tapped(plan, add), (0, 1), has_aux=True))
    with jax.debug_nans(False):  # nan stands for a branch that did not run
        (_, (_, signals)), (_, cotangents) = perturbed_loss(plan.params, zeros, plan.others)
    plain_loss = jax.jit(jax.value_and_grad(lambda *leaves: plan.flat_loss(*leaves)[0]))
    loss, grads = plain_loss(plan.params, plan.arguments.traced(plan.static))
    perturbed = {}
    for row in rows:
        instance = plan.layout.instances[row]
        value = plan.selected[instance.site].value
        perturbed[row] = Perturbed(
            signal=_element(signals[value], instance.indices),
            cotangent=_element(cotangents[value], instance.indices),
        )
    grads = plan.arguments.structure.grads_like(grads)
    return Expected(rows=perturbed, value=loss, grads=grads)


def wide(x: Any) -> np.ndarray:
    """An array in float64, or in complex128."""
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def _element(x: Any, indices: tuple[int, ...]) -> np.ndarray:
    return np.asarray(wide(x)[indices])


def verify(trace: Trace, grads: PyTree, expected: Expected) -> Check:
    """The check of a trace, and of the gradients that came with it, against what they should be."""
    numbers = []
    for row, perturbed in expected.rows.items():
        numbers += _numbers(trace, row, "forward", perturbed.signal, perturbed.ran)
        numbers += _numbers(trace, row, "backward", perturbed.cotangent, perturbed.ran)
    return Check(
        numbers=tuple(numbers),
        value_error=relative_error(
            float(trace.value), float(expected.value), float(expected.value)
        ),
        grads_error=_tree_error(grads, expected.grads),
    )


def _numbers(trace: Trace, row: RowId, way: str, x: np.ndarray, ran: bool) -> list[Checked]:
    """The numbers of one row and one pass beside those of the whole signal or cotangent."""
    summary = trace.forward if way == "forward" else trace.backward
    kind = trace.sites[row].kind
    numbers = []
    for quantity, exact in (plain := summarize(x)).items():
        wanted = not np.isnan(np.asarray(getattr(summary, quantity, np.nan))).all()
        if wanted and is_measured(quantity, kind):
            expected = exact if ran else float("nan")
            numbers.append(
                Checked(
                    row=trace.names[row],
                    quantity=f"{way} {quantity}",
                    measured=float(np.asarray(getattr(summary, quantity))[row]),
                    expected=expected,
                    scale=plain["rms"] if quantity == "mean" else expected,
                )
            )
    return numbers


def summarize(x: np.ndarray) -> dict[str, float]:
    """The summaries of `vanishing.probing.summary` that have a plain formula, in float64.

    Of complex numbers they are those of the magnitudes.
    """
    x = np.abs(x) if np.iscomplexobj(x) else x
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.max(np.abs(x), initial=0.0)
        scale = largest if 0 < largest < np.inf else 1.0
        return {
            "mean": _mean(x),
            "rms": float(scale * np.sqrt(_mean((x / scale) ** 2))),
            "largest": float(largest),
            "zeros": _mean(x == 0),
            "non_finite": float(np.sum(~np.isfinite(x))),
        }


def _mean(x: Any) -> float:
    """The mean of an array, or of a single number; 0 of an array without elements."""
    return float(np.mean(x)) if np.size(x) else 0.0


def _tree_error(tree: Any, expected: Any) -> float:
    """The largest relative error of a leaf, without what is rounding of the largest leaf."""
    pairs = [
        (wide(a), wide(b), float(jnp.finfo(b.dtype).eps))
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
