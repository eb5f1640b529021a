"""Rules for residual networks: skip connections that are cut, branches that do nothing."""

from collections.abc import Iterator

import numpy as np

from vanishing._text import count, number
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.collapse import became_alike
from vanishing.diagnosis.findings import Finding, finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.saturation import CONCENTRATED, concentration
from vanishing.diagnosis.settings import setting, useful, worst_of_each_site
from vanishing.probing import Budget, SiteKind, Trace

LEAST_SKIP = 0.5
"""Factor of a skip connection under which a few blocks lose what came before them. (x + f(x)) times
0.7, or a factor over 1 as of DeepNorm, are in use."""


BRANCH_SHARE = 1e-4
"""Gradient in a residual branch over that of the stream it is added to."""


NO_SHARE = 1e-8
"""Gradient over that of what follows it, of a branch that does nothing: initial factors of branches
in use, as LayerScale's 1e-6 (Touvron et al., 2021), are larger."""


def cut_skips(trace: Trace, known: Known) -> Iterator[Finding]:
    """Skip connections that a small number multiplies, and with them the gradient of each block."""
    small = [skip for skip in known.skips if abs(skip.factor) < LEAST_SKIP]
    for skip in small:
        rows = [i for i, site in enumerate(trace.sites) if site.at == skip.at]
        sums = [i for i in rows if trace.sites[i].kind == SiteKind.RESIDUAL]
        if not sums:
            continue
        blocks = len(sums)
        left = abs(skip.factor) ** blocks
        says = f"the skip connection is multiplied by {number(skip.factor)} in each of "
        says += (
            f"{count(blocks, 'sum')}: of the first block's gradient along it {number(left)} is left"
        )
        yield finding(
            "vanishing",
            trace.names[sums[0]],
            blocks > 2,
            says,
            remedies=(remedies.UNSCALED,),
            cause="residual_scale",
            at=skip.at,
            factor=skip.factor,
            sums=blocks,
        )


def lost_branch(trace: Trace, budget: Budget) -> Iterator[Finding]:
    """Queries and keys without a gradient beside the stream, since tokens are alike or one wins.

    Of weights drawn small, as of std 0.02, that gradient is small too, and comes back as they grow.
    """
    stream = [charge.row for charge in budget.charges]
    if not stream:
        return
    largest = max(trace.backward.rms[row] for row in stream)
    smallest = min(trace.backward.rms[row] for row in stream)
    if smallest < BRANCH_SHARE * largest:
        return  # the stream itself vanishes, which is another finding
    hidden = zeros.rounding(trace).union(stream)
    after, one_token = zeros.followers(trace), concentration(trace) > CONCENTRATED
    for row in worst_of_each_site(trace, -np.asarray(trace.backward.rms)):
        share = float(trace.backward.rms[row] / largest)
        is_layer = trace.sites[row].kind == SiteKind.MATMUL
        if row in hidden or not is_layer or not 0 < share < BRANCH_SHARE:
            continue
        scores = [later for later in after[row] if trace.sites[later].op == "attention"]
        alike = any(became_alike(trace, later) for later in scores)
        if alike or any(one_token[scores]):
            says = f"its gradient is {number(share)} times that of the skip connection beside it"
            if alike:
                says += ", and each token looks at all others with the same weights, unlike in the "
                says += "first layers"
            fixes = (remedies.TOKENS if alike else remedies.SCORES,)
            name, cause = trace.names[row], "same_examples" if alike else "attention"
            yield finding(
                "vanishing",
                name,
                False,
                says,
                remedies=fixes,
                cause=cause,
                share_of_the_stream=share,
            )


def idle(trace: Trace) -> Iterator[Finding]:
    """Branches of whose gradient one operation, a factor or a flat activation, leaves nothing."""
    sizes = np.asarray(trace.backward.rms)
    after, hidden = zeros.followers(trace), zeros.rounding(trace)
    for row in worst_of_each_site(trace, -sizes):
        later = max(after[row], key=lambda later: sizes[later], default=row)
        is_lost = 0 < sizes[row] < NO_SHARE * sizes[later] < np.inf
        if row in hidden or not is_lost:
            continue
        place, share = trace.sites[later].place, float(sizes[row] / sizes[later])
        around = setting(trace, [row], later)
        is_flat = around.culprit == "activation"
        yield finding(
            "vanishing",
            trace.names[row],
            True,
            f"its gradient is {number(share)} times that of what comes after it, {place}",
            remedies=useful("vanishing", around) if is_flat else (remedies.WAKE,),
            cause="activation" if is_flat else "residual_scale",
            share_of_what_follows=share,
            mostly_in=place,
        )
