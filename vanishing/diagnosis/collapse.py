"""Rules for units and examples that say nothing: dead units, and examples that became one."""

import math
import re
from collections.abc import Collection, Iterator

import numpy as np

from vanishing._text import count, number, percent
from vanishing.diagnosis import zeros
from vanishing.diagnosis.findings import Finding, finding
from vanishing.diagnosis.settings import setting, worst_of_each_site
from vanishing.probing import SiteKind, Trace

DEAD_SHARE = 0.5
"""Share of units that are 0 for a whole batch (Lu et al., Dying ReLU and initialization, 2019); of
AutoTrainer's (Zhang et al., ICSE 2021) dying-ReLU symptom the threshold is a share of 0.7."""

ALL_DEAD = 0.9
"""Share of dead units that is no chance even where all examples are the same, nor at the best of
many steps of time, at each of which others may be off."""

HAVE_SLOPE_AT_0 = frozenset(
    {
        *(
            "asinh",
            "atan",
            "celu",
            "elu",
            "erf",
            "gelu",
            "hard_tanh",
            "leaky_relu",
            "mish",
            "prelu",
        ),
        *("selu", "silu", "sin", "sinh", "snake", "soft_sign", "squareplus", "tanh"),
    }
)
"""Nonlinearities whose slope at 0 is not 0, so that a unit of 0 is not off."""

# Single operations, which may be 0 by what they multiply or leave out.
_NO_UNITS = frozenset(
    {
        *("add", "div", "integer_pow", "l2_norm", "mul", "select_n", "square", "sub"),
        *("hard_sigmoid", "sigmoid", "softmax"),  # of which 0 is an end, as 1 is
    }
)

FEWEST_EXAMPLES = 8
"""A unit that is on for half of the examples is off for eight at once with probability 0.4 %."""

COLLAPSED = 1e-4
"""Distance of the mean cosine of two examples from 1 under which they have become one (Dong et al.,
Attention is not all you need, ICML 2021)."""

ALIKE = 0.9
"""Mean cosine of the tokens' weights under which attention tells them apart."""


STILL_APART = 0.99
"""The same where the gradients of queries and keys are rounding, which says that tokens are one."""


def dead_units(trace: Trace) -> Iterator[Finding]:
    """Nonlinearities most of whose units are off for all examples.

    A signal that is 0 everywhere turns every unit off, whatever the nonlinearity; and of examples
    that are all the same each unit is off for all or for none.
    """
    rms = np.asarray(trace.forward.rms)
    shares = _dead_at_all_steps(trace)
    same = _same(trace)
    for row in worst_of_each_site(trace, shares):
        site, share = trace.sites[row], float(shares[row])
        before = list(trace.layout.instances[row].parents)
        examples = math.prod(site.shape[:-1])
        if (
            site.kind == SiteKind.NONLINEARITY
            and site.op != "attention"  # of which a mask leaves out what it likes
            and share > (ALL_DEAD if "[t=" in trace.names[row] else DEAD_SHARE)
            and examples >= FEWEST_EXAMPLES
            and not (before and (rms[before] == 0).all())
            and not (before and same[before].all() and share <= ALL_DEAD)
        ):
            says = f"{percent(share)} of its units are 0 for all {examples} examples"
            high = share > ALL_DEAD
            evidence = {"dead_share": share, "examples": examples}
            yield finding("dead_units", trace.names[row], high, says, **evidence)


def _dead_at_all_steps(trace: Trace) -> np.ndarray:
    """The share of dead units, of what is computed again and again the least of all times.

    Where a nonlinearity has a slope at 0, as tanh has, a unit of 0 is none.
    """
    slopes = [site.op in HAVE_SLOPE_AT_0 or site.op in _NO_UNITS for site in trace.sites]
    dead = np.where(slopes, np.nan, np.array(trace.forward.dead_units))
    least: dict[tuple[str, ...], float] = {}
    keys = []
    for row, (site, name) in enumerate(zip(trace.sites, trace.names, strict=True)):
        again = re.sub(r"\[t=\d+\]|#\d+", "", name)
        keys.append((again, site.op, site.at))
        least[keys[row]] = np.fmin(least.get(keys[row], math.nan), dead[row])
    return np.array([least[key] for key in keys])


def collapse(trace: Trace) -> Iterator[Finding]:
    """The layer at which different inputs become one for good, while later layers read them.

    Every way from rows with different examples to the outputs comes through rows where all are the
    same: a gate that is open for all, or a bias that outweighs the rest, closes none. What no
    later layer reads, as an output, may be the same, and so may be what a kernel of 0 makes for
    one step; data themselves have no row.
    """
    is_read = passed_back(trace, _is_product(trace), itself=False)
    attention = np.array([site.op == "attention" for site in trace.sites], bool)
    same = _same(trace) & (is_read | attention) & ~_waits(trace)
    if np.sum(same & attention) > 1:  # what comes out of attention to all alike is alike as well
        same |= _right_after(trace, same & attention)
    different = _different(trace)
    rows = np.flatnonzero(same & _passed_on(trace, different))
    if len(rows) and not _reaches_the_end(trace, same, different):
        row = int(rows[0])
        cosine = float(trace.forward.similarity[row])
        says = "different inputs give outputs that are "
        says += (
            "all 0" if np.isnan(cosine) else f"the same up to a mean cosine of {number(cosine, 6)}"
        )
        where, name = setting(trace, [row]), trace.names[row]
        cause = "same_examples"
        yield finding("rank_collapse", name, False, says, where, cause=cause, mean_cosine=cosine)


def became_alike(trace: Trace, row: int, at_first: float = ALIKE) -> bool:
    """Are attention's weights the same for all tokens here, but not in the first layer?"""
    cosine = np.asarray(trace.forward.similarity)
    first = next(r for r, site in enumerate(trace.sites) if site.op == "attention")
    return bool(cosine[row] > 1 - COLLAPSED and cosine[first] < at_first)


def tokens(trace: Trace, parameters: Collection[str]) -> Iterator[Finding]:
    """Queries and keys of which nothing is left, since attention sees all tokens as the same."""
    chosen = [name in parameters for name in trace.layout.param_names]
    after = zeros.followers(trace)
    rows = {row for _, used in zeros.users(trace, chosen) for row in used}
    scores = {s for row in rows for s in after[row] if trace.sites[s].op == "attention"}
    alike = sorted(s for s in scores if became_alike(trace, s, at_first=STILL_APART))
    if alike:
        cosine, depth = float(trace.forward.similarity[alike[0]]), count(len(alike), "layer")
        says = f"each token looks at all others with the same weights, in {depth} of attention, "
        says += "unlike in the first: the tokens of a sequence have become the same"
        name, places = trace.names[alike[0]], [trace.layout.instances[i] for i in alike]
        yield finding(
            "rank_collapse",
            name,
            True,
            says,
            setting(trace, [parent for place in places for parent in place.parents]),
            cause="same_examples",
            mean_cosine=cosine,
            layers=len(alike),
        )


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


def _waits(trace: Trace) -> np.ndarray:
    """The rows whose signal is 0 for a step, made by a parameter of 0 that has a gradient."""
    gradients = dict(zip(trace.layout.param_names, trace.params.gradient, strict=True))
    waits = np.zeros(len(trace), bool)
    for row in np.flatnonzero(np.asarray(trace.forward.rms) == 0):
        makers = zeros.makers_of_zero(trace, int(row))
        waits[row] = any(gradients[name] != 0 for name in makers)
    return waits


def _passed_on(trace: Trace, of: np.ndarray) -> np.ndarray:
    """The rows that follow, over any others, one of these."""
    follows = np.zeros(len(trace), bool)
    for row, instance in enumerate(trace.layout.instances):
        follows[row] = any(of[parent] or follows[parent] for parent in instance.parents)
    return follows


def passed_back(trace: Trace, of: np.ndarray, itself: bool = True) -> np.ndarray:
    """The rows that one of these follows, over any others; or that are one of these."""
    after = np.zeros(len(trace), bool)
    for row, instance in reversed(list(enumerate(trace.layout.instances))):
        for parent in instance.parents:
            after[parent] |= of[row] or after[row]
    return after | of if itself else after


def _right_after(trace: Trace, of: np.ndarray) -> np.ndarray:
    """The rows that come right after one of these."""
    return np.array([any(of[p] for p in i.parents) for i in trace.layout.instances], bool)


def _reaches_the_end(trace: Trace, cuts: np.ndarray, starts: np.ndarray) -> bool:
    """Does a way from one of these rows to the last come through no cut?"""
    alive = np.zeros(len(trace), bool)
    instances = trace.layout.instances
    for row, instance in enumerate(instances):
        alive[row] = not cuts[row] and (starts[row] or any(alive[p] for p in instance.parents))
    followed = {parent for instance in instances for parent in instance.parents}
    return any(alive[row] for row in range(len(trace)) if row not in followed)
