"""Rules for normalisations that do not normalise."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vanishing._text import number
from vanishing.diagnosis import remedies, terms, zeros
from vanishing.diagnosis.findings import Finding, finding, listed
from vanishing.diagnosis.settings import worst_of_each_site
from vanishing.probing import SiteKind, Trace
from vanishing.probing.row_names import is_within

OFF = 3.0
"""Factor by which the size of what a normalisation returns may differ from that of its gain and
offset. Of a signal of the variance v an epsilon e leaves sqrt(v / (v + e)), a third at e = 8 v."""


def norms(trace: Trace) -> Iterator[Finding]:
    """Normalisations whose output is constant, or far from the size of their gain."""
    sizes = np.asarray(trace.forward.rms)
    is_norm = [s.kind == SiteKind.NORMALIZATION and s.op != "l2_norm" for s in trace.sites]
    off = np.full(len(trace), np.nan)
    for row in map(int, np.flatnonzero(is_norm)):
        expected, before = _expected(trace, row), _before(trace, row)
        if sizes[row] == 0 and zeros.is_single(trace, row):
            off[row] = math.inf
        elif expected > 0 and before > 0 and np.isfinite([sizes[row], before]).all():
            ratio = float(sizes[row]) / expected
            width = trace.sites[row].shape[-1] if trace.sites[row].shape else 1
            if abs(sizes[row] * math.sqrt(width) - 1) < 0.1 or zeros.makers_of_zero(trace, row):
                continue  # to length 1, by design; or by a gain of 0
            off[row] = abs(math.log(ratio)) if ratio else math.inf
    for row in worst_of_each_site(trace, off):
        if off[row] > math.log(OFF):
            yield _finding(trace, row, float(sizes[row]), _before(trace, row))
    empty = np.flatnonzero(np.array(is_norm, bool) & (sizes == 0))
    yield from _gains_of_zero(trace, map(int, empty))


def _gains_of_zero(trace: Trace, rows: Iterable[int]) -> Iterator[Finding]:
    """Normalisations with a gain of 0 in front of layers, which see nothing.

    At the end of a branch, in front of a sum, it is in use (Goyal et al., Accurate, large minibatch
    SGD, 2017, section 5.1).
    """
    after = zeros.followers(trace)
    gradients = dict(zip(trace.layout.param_names, trace.params.gradient, strict=True))
    for row in rows:
        gains = sorted(zeros.makers_of_zero(trace, row))
        read = any(trace.sites[later].kind == SiteKind.MATMUL for later in after[row])
        if read and gains and all(gradients[name] != 0 for name in gains):
            says = f"its gain is 0, and so is all that the layers behind it see: {listed(gains)}"
            fix = (remedies.UNIT_GAIN,)
            name = trace.names[row]
            yield finding("norm", name, False, says, remedies=fix, cause="no_input", rms=0.0)


def _finding(trace: Trace, row: int, size: float, before: float) -> Finding:
    expected = _expected(trace, row)
    if size == 0 and zeros.is_single(trace, row):
        says = "a single number less its mean is 0, whatever it is"
        return finding("norm", trace.names[row], True, says, cause="one_unit", rms=size)
    says = f"what it returns has a size of {number(size)}, where {number(expected)} is due; what "
    says += f"it takes in has one of {number(before)}"
    cause, fix = "rounding", remedies.TWO_PASS
    evidence: dict[str, Any] = {"rms": size, "expected_rms": expected, "input_rms": before}
    if size < expected:
        cause, fix = "epsilon", remedies.EPSILON
        measured = _epsilon(trace, row, size / expected)
        if whose := terms.epsilon(measured):
            says += f", which {whose}, leaves so"
            evidence["epsilon"] = measured
    name = trace.names[row]
    return finding("norm", name, True, says, remedies=(fix,), cause=cause, **evidence)


def _epsilon(trace: Trace, row: int, left: float) -> float:
    """The epsilon that leaves this share of a size, if the mean is that of the whole signal."""
    parents = list(trace.layout.instances[row].parents)
    spread = max(trace.forward.rms[p] ** 2 - trace.forward.mean[p] ** 2 for p in parents)
    return float(spread) * (1 / left**2 - 1) if left else math.nan


def _before(trace: Trace, row: int) -> float:
    """The size of what comes in; nan of data, which have no row."""
    parents = list(trace.layout.instances[row].parents)
    return max((float(trace.forward.rms[parent]) for parent in parents), default=math.nan)


def _expected(trace: Trace, row: int) -> float:
    """The size of a normal output, given gain and offset of its own: 1 where there are none."""
    site = trace.sites[row]
    layout = trace.layout
    own = {
        name: float(weight) / math.sqrt(max(1, math.prod(layout.leaves[leaf].own_shape)))
        for name, weight, leaf in zip(
            layout.param_names, trace.params.weight, layout.param_leaves, strict=True
        )
        if site.param and is_within(name, site.param)
    }
    offsets = [size for name, size in own.items() if "bias" in name or "offset" in name]
    gains = [size for name, size in own.items() if "bias" not in name and "offset" not in name]
    return math.hypot(gains[0] if len(gains) == 1 else 1.0, sum(offsets))
