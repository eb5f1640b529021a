"""Findings in terms of what is known: a default, the scale an activation needs, a slope at 0."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing import facts
from vanishing._text import english, number
from vanishing.diagnosis.findings import Finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.settings import Setting
from vanishing.facts.kernels import Drawn
from vanishing.layers import ACTIVATIONS
from vanishing.probing import SiteKind, Trace

NEAR = 0.05
"""Relative difference of a kernel's scale from the critical one that no depth in use shows."""


class Terms(NamedTuple):
    """What is added to a finding."""

    says: str
    evidence: dict[str, Any]


_NOTHING = Terms("", {})


def initial_scale(trace: Trace, rows: Sequence[int], around: Setting, known: Known) -> Terms:
    """How the kernels of these rows are drawn, whose default that is, and what would be right."""
    kernels = [kernel for row in rows if (kernel := _drawn(trace, row, known))]
    if not kernels or around.recurrent or around.cause != "initial_scale":
        return _NOTHING
    scales = [kernel.scale for kernel in kernels]
    low, scale, high = min(scales), float(np.median(scales)), max(scales)
    shown = number(scale) if high < 1.1 * low else f"{number(low)} to {number(high)}"
    says = f"; the kernels are drawn at {shown} / sqrt(fan_in)"
    evidence: dict[str, Any] = {"kernel_scale": scale}
    if alike := _defaults(facts.drawn_as(kernels)):
        says += f", {english(_owners(alike))}"
        layers = {row.framework: f"{row.layer} of {row.version}" for row in reversed(alike)}
        evidence["drawn_like"] = ", ".join(reversed(layers.values()))
    op = "" if around.residual or around.normalized else _activation(trace, rows)
    critical = facts.critical_scale(op)
    if critical and abs(scale / critical - 1) > NEAR:
        what = "a layer without an activation" if op == "identity" else op
        says += f", while {what} keeps its gradient at {number(critical)}"
        evidence["critical_scale"] = critical
    return Terms(says, evidence)


def _drawn(trace: Trace, row: int, known: Known) -> Drawn | None:
    """The one kernel that a row's signal is multiplied with, if its shape tells its axes."""
    name, features = trace.layout.kernel(row), trace.sites[row].shape
    if name not in trace.layout.param_names or not features:
        return None
    param = trace.layout.param_names.index(name)
    leaf = trace.layout.param_leaves[param]
    shape = trace.layout.leaves[leaf].own_shape
    fans = _fans(name, shape, features)
    norm = float(trace.params.weight[param])
    if fans is None or not norm > 0 or not math.isfinite(norm):
        return None
    fan_in, fan_out = fans
    peak = known.leaves[leaf].peak if known.leaves else math.nan
    return Drawn(norm / math.sqrt(math.prod(shape) / fan_in), fan_in, fan_out, peak)


def _fans(name: str, shape: Sequence[int], signal: Sequence[int]) -> tuple[int, int] | None:
    """The fan-in and fan-out of a matrix, or of the kernel of a convolution over an image.

    Args:
      name: of the kernel.
      shape: of the kernel.
      signal: shape of what it makes.

    >>> _fans("kernel", (8, 4), (16, 4)), _fans("layer.weight", (4, 8), (16, 4))
    ((8, 4), (8, 4))
    >>> _fans("kernel", (3, 3, 8, 4), (1, 9, 9, 4))
    (72, 36)
    """
    if len(shape) not in (2, 4):
        return None
    # Outputs come first in what Equinox calls "weight", last in other kernels; which axis of the
    # signal they are depends on what is batched.
    first_too = shape[0] in signal and (name.endswith("weight") or shape[-1] != signal[-1])
    if not first_too and shape[-1] not in signal:
        return None
    outputs, inputs, *window = shape if first_too else (shape[-1], *reversed(shape[:-1]))
    field = math.prod(window)
    return field * inputs, field * outputs


def _defaults(rows: Sequence[facts.Kernel]) -> list[facts.Kernel]:
    """The rows of frameworks' layers; of JAX's initialisers only where no layer is drawn so."""
    return [row for row in rows if row.framework != "JAX"] or list(rows)


def _owners(rows: Sequence[facts.Kernel]) -> list[str]:
    """Whose default it is.

    >>> _owners(facts.drawn_as([Drawn(0.577, 256, 256, 1.73)]))
    ['the default of Equinox', 'PyTorch']
    """
    if rows[0].framework == "JAX":
        return [f"as by {english([row.layer for row in rows], 'or')}"]
    first, *rest = dict.fromkeys(row.framework for row in rows)
    return [f"the default of {first}", *rest]


def _activation(trace: Trace, rows: Sequence[int]) -> str:
    """The one activation between these rows; "identity" where there is none, "" for several."""
    between = range(min(rows), max(rows))
    ops = {trace.sites[r].op for r in between if trace.sites[r].kind == SiteKind.NONLINEARITY}
    return ops.pop() if len(ops) == 1 else "" if ops else "identity"


def forget_biases() -> str:
    """What is in front of the forget gate of each framework's LSTM at the start."""
    frameworks = dict.fromkeys(cell.framework for cell in facts.CELLS)
    return ", ".join(f"{number(facts.forget_bias(name))} in {name}" for name in frameworks)


def epsilon(value: float) -> str:
    """Whose default an epsilon is that was measured within a half, in words, or "".

    >>> epsilon(1.1e-3), epsilon(1e-4)
    ('an epsilon of 1e-3, the default of Keras', '')
    """
    known = sorted({row.epsilon for row in facts.NORMS})
    near = [e for e in known if abs(math.log(value / e)) < math.log(1.5)] if value > 0 else []
    if not near:
        return ""
    return f"an epsilon of {plain(near[0])}, the default of {english(facts.of_epsilon(near[0]))}"


def plain(value: float) -> str:
    """A power of ten as it is written in code.

    >>> plain(1e-05), plain(0.001), plain(1.2e-8)
    ('1e-5', '1e-3', '1.2e-8')
    """
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def slopes(op: str, dtype: str) -> Terms:
    """Between which numbers an activation has a slope to speak of, and beyond which it has none."""
    if op not in ACTIVATIONS:
        return _NOTHING
    steep, some = ACTIVATIONS[op].saturation, facts.slope_range(op, dtype)
    says, evidence = _between(steep), {"steep_between": steep}
    if not says:
        return _NOTHING
    if some:
        evidence["no_slope_beyond"] = some
    return Terms(f"; {op} has more{says}", evidence)


def _between(bounds: tuple[float, float]) -> str:
    """Bounds in words.

    >>> _between((-3.0, 3.0)), _between((-4.6, math.inf)), _between((-math.inf, math.inf))
    (' between -3 and 3', ' over -4.6', '')
    """
    low, high = bounds
    if math.isinf(low):
        return f" under {number(high)}" if math.isfinite(high) else ""
    return (
        f" over {number(low)}" if math.isinf(high) else f" between {number(low)} and {number(high)}"
    )


def at_corner(trace: Trace, finding: Finding) -> Finding:
    """The finding, with what the slope at 0 is where all that an activation takes in is 0."""
    if finding.cause != "flat" or finding.where not in trace.names:
        return finding
    row = trace.names.index(finding.where)
    parents = trace.layout.instances[row].parents
    here = facts.corner(trace.sites[row].op)
    if here is None or not parents or any(trace.forward.rms[p] != 0 for p in parents):
        return finding
    evidence = {"slope_at_0": f"{_at_0(here)}; {_OTHERS}"}
    return finding._replace(evidence=finding.evidence | evidence)


def _at_0(row: facts.Corner) -> str:
    return f"{number(row.slope[0])} of {row.spelling} ({row.version})"


_OTHERS = ", ".join(
    f"{number(row.slope[0])} of {row.spelling}"
    for row in map(facts.corner, ("max", "leaky_relu"))
    if row
)
