"""Rules for units and examples that say nothing: dead units, and examples that became one."""

import math
from collections.abc import Iterator

import numpy as np

from vanishing._text import number, percent
from vanishing.diagnosis import remedies
from vanishing.diagnosis.findings import Finding, finding
from vanishing.diagnosis.settings import setting, worst_of_each_site
from vanishing.probing import SiteKind, Trace

DEAD_SHARE = 0.5
"""Share of units that are 0 for a whole batch (Lu et al., Dying ReLU and initialization, 2019); of
AutoTrainer's (Zhang et al., ICSE 2021) dying-ReLU symptom the threshold is a share of 0.7."""

ALL_DEAD = 0.9
"""Share of dead units that is no chance even where all examples are the same."""

FEWEST_EXAMPLES = 8
"""A unit that is on for half of the examples is off for eight at once with probability 0.4 %."""

COLLAPSED = 1e-4
"""Distance of the mean cosine of two examples from 1 under which they have become one (Dong et al.,
Attention is not all you need, ICML 2021)."""


def dead_units(trace: Trace) -> Iterator[Finding]:
    """Nonlinearities most of whose units are off for all examples.

    A signal that is 0 everywhere turns every unit off, whatever the nonlinearity; and of examples
    that are all the same each unit is off for all or for none.
    """
    shares, rms = np.asarray(trace.forward.dead_units), np.asarray(trace.forward.rms)
    same = _same(trace)
    for row in worst_of_each_site(trace, shares):
        site, share = trace.sites[row], float(shares[row])
        before = list(trace.layout.instances[row].parents)
        examples = math.prod(site.shape[:-1])
        if (
            site.kind == SiteKind.NONLINEARITY
            and share > DEAD_SHARE
            and examples >= FEWEST_EXAMPLES
            and not (before and (rms[before] == 0).all())
            and not (before and same[before].all() and share <= ALL_DEAD)
        ):
            says = f"{percent(share)} of its units are 0 for all {examples} examples"
            high = share > ALL_DEAD
            evidence = {"dead_share": share, "examples": examples}
            yield finding("dead_units", trace.names[row], high, says, **evidence)


def collapse(trace: Trace) -> Iterator[Finding]:
    """The layer at which different inputs become one for good.

    It has a row before it with different examples, or a kernel of 0: data themselves have no row.
    No row after it has different examples: in a residual network the stream still has. Attention
    that gives all tokens the same weights is such a layer whatever comes after it, since tokens of
    one sequence that became one still differ from those of another.
    """
    same, different = _same(trace), _different(trace)
    kernels = _zero_kernels(trace) & same
    attention = np.array([site.op == "attention" for site in trace.sites], bool)
    goes_on = _passed_back(trace, different) & ~attention
    cuts = kernels & _passed_back(trace, _is_product(trace), itself=False)
    if cuts.any() and not _reaches_the_end(trace, cuts):
        row = int(np.flatnonzero(cuts)[0])
        kernel = trace.layout.kernel(row)
        says = f"{kernel} is exactly 0, so that the output is the same for every input"
        fixes, name = (remedies.RANDOM,), trace.names[row]
        yield finding("rank_collapse", name, True, says, remedies=fixes, zero_parameter=kernel)
        return
    rows = np.flatnonzero(same & _passed_on(trace, different) & ~goes_on & ~kernels)
    if len(rows):
        row = int(rows[0])
        cosine = float(trace.forward.similarity[row])
        says = "different inputs give outputs that are "
        says += (
            "all 0" if np.isnan(cosine) else f"the same up to a mean cosine of {number(cosine, 6)}"
        )
        where = setting(trace, [row])
        yield finding("rank_collapse", trace.names[row], False, says, where, mean_cosine=cosine)


def _same(trace: Trace) -> np.ndarray:
    """The rows at which all examples are the same; of one unit, all have one direction."""
    cosine = np.asarray(trace.forward.similarity)
    is_wide = np.array([math.prod(site.shape[-1:]) > 1 for site in trace.sites], bool)
    with np.errstate(invalid="ignore"):
        return (is_wide & (1 - cosine < COLLAPSED)) | (np.asarray(trace.forward.rms) == 0)


def _different(trace: Trace) -> np.ndarray:
    """The rows at which examples are known to be different."""
    with np.errstate(invalid="ignore"):
        return 1 - np.asarray(trace.forward.similarity) >= COLLAPSED


def _is_product(trace: Trace) -> np.ndarray:
    return np.array([site.kind == SiteKind.MATMUL for site in trace.sites], bool)


def _zero_kernels(trace: Trace) -> np.ndarray:
    """The rows whose signal is multiplied with a parameter of zeros."""
    weights = dict(zip(trace.layout.param_names, trace.params.weight, strict=True))
    return np.array([weights.get(trace.layout.kernel(row)) == 0 for row in range(len(trace))], bool)


def _passed_on(trace: Trace, of: np.ndarray) -> np.ndarray:
    """The rows that follow, over any others, one of these."""
    follows = np.zeros(len(trace), bool)
    for row, instance in enumerate(trace.layout.instances):
        follows[row] = any(of[parent] or follows[parent] for parent in instance.parents)
    return follows


def _passed_back(trace: Trace, of: np.ndarray, itself: bool = True) -> np.ndarray:
    """The rows that one of these follows, over any others; or that are one of these."""
    after = np.zeros(len(trace), bool)
    for row, instance in reversed(list(enumerate(trace.layout.instances))):
        for parent in instance.parents:
            after[parent] |= of[row] or after[row]
    return after | of if itself else after


def _reaches_the_end(trace: Trace, cuts: np.ndarray) -> bool:
    """Does a way from the first rows to the last come through no cut?"""
    alive = np.zeros(len(trace), bool)
    instances = trace.layout.instances
    for row, instance in enumerate(instances):
        open_before = not instance.parents or any(alive[p] for p in instance.parents)
        alive[row] = not cuts[row] and open_before
    followed = {parent for instance in instances for parent in instance.parents}
    return any(alive[row] for row in range(len(trace)) if row not in followed)
