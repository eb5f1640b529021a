"""Rules for nonlinearities without a slope: units, attention and logits at an end."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vanishing._text import english, number, percent
from vanishing.diagnosis import remedies, terms
from vanishing.diagnosis.collapse import passed_back
from vanishing.diagnosis.findings import Finding, finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.remedies import with_factor
from vanishing.diagnosis.settings import ACTIVATIONS, setting, useful, worst_of_each_site
from vanishing.probing import SiteKind, Trace

SATURATED_SHARE = 0.3
"""Share of units with under 1 % of the largest slope. A standard normal pre-activation leaves 0.3 %
of tanh units there (Glorot & Bengio 2010, sec. 3.2, watch this share while training)."""


LARGE_INPUT = 5.0
"""RMS of an argument over which weights drawn for inputs of size 1 saturate the first layer."""

CONCENTRATED = 0.8
"""Sum of the squares of a token's attention weights, on average: 1 less this sum is the trace of
the softmax's Jacobian, diag(p) - p p'. Tokens that see only themselves, as the first under a
causal mask, have 1; where all weights are equal it is 1 over the number of tokens."""


FEWEST_TOKENS = 8
"""Of fewer tokens the first ones, under a causal mask, are too large a share of all."""


MOST_UNSEEN = 0.5
"""Share of tokens that no other looks at, over which it is the mask that leaves attention one."""


LARGE_LOGITS = 6.5
"""RMS of logits over which a cross-entropy is large for its scale and not for what was learnt."""


HUGE_LOGITS = 50.0
"""RMS of logits over which their softmax is one at a single class for nearly all examples."""


ABOVE_CHANCE = 2.0
"""Loss over that of chance. Logits of standard deviation s add about s**2 / 2 to it; of a network
that is trained both are far under it (Karpathy, A recipe for training neural networks, 2019)."""


def saturated(trace: Trace, known: Known = Known()) -> Iterator[Finding]:
    """Nonlinearities most of whose units have no slope, and attention to a single token."""
    yield from _saturated_attention(trace, known)
    # What a rectifier leaves at 0 has no slope either, but half of its units are off by design.
    squashes = np.array([site.op in _SQUASHES for site in trace.sites], bool)
    rectifies = (trace.forward.zeros > 0.01) & ~squashes
    share = np.where(rectifies, np.nan, trace.forward.saturated)
    share = np.where(_ends_rightly(trace), np.nan, share)
    for row in worst_of_each_site(trace, share):
        if share[row] > SATURATED_SHARE:
            says = f"the slope is under 1% of its largest at {percent(share[row])} of its units"
            high, fraction = share[row] > 0.6, float(share[row])
            yield _saturation(trace, row, high, says, known, saturated_share=fraction)


def _ends_rightly(trace: Trace) -> np.ndarray:
    """The rows whose flat part is no fault.

    A softplus or an exponential is a positive number of any size, and loses nothing relative to
    itself. What follows the last layer is flat where the loss says so (beyond the delta of Huber,
    or the clip of a ratio), or where a sigmoid is right, and the loss small; of a sigmoid at one
    end for every example, as of a generator that fools nobody, that is not known.
    """
    layers = [s.kind == SiteKind.MATMUL or s.op in ACTIVATIONS for s in trace.sites]
    is_last = ~passed_back(trace, np.array(layers, bool), itself=False)
    squashes = np.array([site.op in _SQUASHES for site in trace.sites], bool)
    positive = np.array([site.op in ("softplus", "exp") for site in trace.sites], bool)
    variance = np.asarray(trace.forward.rms) ** 2 - np.asarray(trace.forward.mean) ** 2
    is_right = (0 <= float(trace.value) < SMALL_LOSS) & ~(variance < BOTH_ENDS)
    return positive | (is_last & (~squashes | is_right))


_SQUASHES = ("sigmoid", "tanh", "softmax", "hard_sigmoid", "hard_tanh", "softsign")

SMALL_LOSS = 0.1
"""Loss under which outputs at the ends of a sigmoid are right; of chance it is 0.25 in squares."""

BOTH_ENDS = 1e-3
"""Variance of a sigmoid's outputs over which some examples are at its other end."""


def _saturation(
    trace: Trace, row: int, high: bool, says: str, known: Known, **evidence: Any
) -> Finding:
    """Of a nonlinearity, with the factor by which what it takes in is too large."""
    around = setting(trace, [row])
    before = list(trace.layout.instances[row].parents)
    sizes = [float(trace.forward.rms[parent]) for parent in before]
    fixes = useful("saturated", around)
    if len(sizes) == 1 and sizes[0] > 1 and around.culprit == "activation":
        evidence["input_rms"] = sizes[0]
        says += f", and what it takes in has a size of {number(sizes[0])}"
        fixes = with_factor(fixes, 1 / sizes[0])
    if around.culprit == "activation":
        known_slopes = terms.slopes(trace.sites[row].op, trace.sites[row].dtype)
        says += known_slopes.says
        evidence |= known_slopes.evidence
    cause = "attention" if around.culprit == "attention" else "initial_scale"
    first = len(before) == 1 and not trace.layout.instances[before[0]].parents
    large = [a for a in known.arguments if first and a.rms > LARGE_INPUT]
    if large and cause == "initial_scale" and around.culprit == "activation":
        cause = "input_scale"
        fixes = (remedies.INPUTS,)  # of other weights the large ones would outweigh the rest
        names = english([f"{a.name} (of size {number(a.rms)})" for a in large])
        says += f": the inputs are large, {names}"
    return finding(
        "saturated", trace.names[row], high, says, remedies=fixes, cause=cause, **evidence
    )


def concentration(trace: Trace) -> np.ndarray:
    """Of attention over enough tokens, the mean sum of the squares of a token's weights."""
    tokens = np.array([site.shape[-1] if site.shape else 0 for site in trace.sites])
    attends = np.array([site.op == "attention" for site in trace.sites], bool)
    measured = np.where(attends & (tokens >= FEWEST_TOKENS), tokens, np.nan)
    return measured * np.square(trace.forward.rms)


def _saturated_attention(trace: Trace, known: Known) -> Iterator[Finding]:
    """Attention whose weights are all on one token, so that its softmax has no slope."""
    for row, share, says in _on_one_token(trace):
        yield _saturation(trace, row, False, says, known, concentration=share)


def masked(trace: Trace) -> Iterator[Finding]:
    """Attention to one token, since a mask leaves out most of the others."""
    for row, share, says in _on_one_token(trace):
        unseen = float(trace.forward.dead_units[row])
        if unseen > MOST_UNSEEN:
            yield finding(
                "saturated",
                trace.names[row],
                True,
                f"{says}; {percent(unseen)} of the tokens are seen by none",
                remedies=(remedies.OTHER_WAY,),
                cause="mask",
                concentration=share,
                unseen_share=unseen,
            )


def _on_one_token(trace: Trace) -> Iterator[tuple[int, float, str]]:
    """Rows of attention to a single token, how far they are that, and the same in words."""
    sizes = concentration(trace)
    for row in worst_of_each_site(trace, sizes):
        share, tokens = float(sizes[row]), trace.sites[row].shape[-1:]
        if share > CONCENTRATED:
            says = f"the squares of its weights over {tokens[0]} tokens sum to {number(share)}, "
            yield row, share, says + "where 1 is all of the weight on a single one"


def head(trace: Trace) -> Iterator[Finding]:
    """A last layer so large that a cross-entropy begins far above chance, or has no slope."""
    products = np.array([site.kind == SiteKind.MATMUL for site in trace.sites], bool)
    after = {place.partition(" ")[0] for place in trace.layout.suspects[-1]}
    if not {"exp", "log"} <= after:
        return
    for row in np.flatnonzero(~passed_back(trace, products, itself=False)):
        site, size, loss = trace.sites[row], float(trace.forward.rms[row]), float(trace.value)
        if site.kind != SiteKind.MATMUL or site.shape[-1:] <= (1,) or not size > 0:
            continue
        chance, examples = math.log(site.shape[-1]), math.prod(site.shape[:-1])
        # The gradient of a mean cross-entropy is at most 1 over the number of examples.
        is_mean = 0.1 < trace.backward.largest[row] * examples < 1.01
        fix = remedies.HEAD._replace(action=f"{remedies.HEAD.action}, by {number(1 / size)}")
        evidence: dict[str, Any] = {"rms": size, "loss": loss, "chance": chance}
        if is_mean and size > LARGE_LOGITS and loss > ABOVE_CHANCE * chance:
            says = (
                f"the loss is {number(loss)}, where chance is {number(chance)}, the logarithm of "
            )
            says += f"{site.shape[-1]}: the logits have a size of {number(size)}"
            kind, high = "exploding", loss > 2 * ABOVE_CHANCE * chance
        elif size > HUGE_LOGITS and not 0 <= loss < SMALL_LOSS:
            says = (
                f"the logits have a size of {number(size)}: their softmax is at an end, without a "
            )
            says += "slope"
            kind, high = "saturated", True
        else:
            continue
        name, cause = trace.names[row], "head_scale"
        yield finding(kind, name, high, says, remedies=(fix,), cause=cause, **evidence)


def out_of_range(trace: Trace, known: Known) -> Iterator[Finding]:
    """A last activation that cannot have the values that the loss compares it with."""
    for found in known.unreached:
        if found.share < MOST_UNREACHED:
            continue
        rows = (name for name, s in zip(trace.names, trace.sites, strict=True) if s.at == found.at)
        op = "sigmoid" if found.op == "logistic" else found.op
        last = [name for name in rows if name.endswith(op)]
        says = f"{percent(found.share)} of {found.target} ({number(found.least)} to "
        says += f"{number(found.largest)}) are beyond what a {op} can be, {number(found.low)} to "
        says += number(found.high)
        yield finding(
            "saturated",
            last[-1] if last else "the loss",
            True,
            says,
            remedies=(remedies.NO_ACTIVATION,),
            cause="out_of_range",
            at=found.at,
            share=found.share,
        )


MOST_UNREACHED = 0.4
"""Share of the targets out of an activation's range over which it is no matter of a few of them:
of a standard normal target 32 % are out of that of tanh."""
