"""The setting of a fault: what stands around it in the network, which says what helps."""

from collections.abc import Iterable

import numpy as np

from vanishing.diagnosis.remedies import Setting
from vanishing.probing import SiteKind, Trace

_RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "selu", "celu", "max", "mish")

ACTIVATIONS = (*_RECTIFIERS, "tanh", "sigmoid", "softplus", "sin", "snake", "softmax", "attention")


def setting(trace: Trace, path: Iterable[int], culprit: int | None = None) -> Setting:
    """The setting of the rows of a path, with the row that is most to blame, or the middle one."""
    rows = list(path)
    row = rows[len(rows) // 2] if culprit is None else culprit
    return Setting(
        recurrent="[t=" in trace.names[row],
        residual=any(trace.sites[r].kind == SiteKind.RESIDUAL for r in rows),
        normalized=any(site.kind == SiteKind.NORMALIZATION for site in trace.sites),
        gated=any(site.op == "sigmoid" and site.lengths for site in trace.sites),
        culprit=_role(trace, row),
    )


def _role(trace: Trace, row: int) -> str:
    site = trace.sites[row]
    if site.op == "attention":
        return "attention"
    if site.kind == SiteKind.NORMALIZATION:
        return "normalization"
    if site.kind == SiteKind.RESIDUAL:
        return "sum"
    if site.kind == SiteKind.NONLINEARITY:
        return "rectifier" if site.op in _RECTIFIERS else "activation"
    return ""


def worst_of_each_site(trace: Trace, sizes: np.ndarray) -> list[int]:
    """The row of each site with the largest size; rows with nan are left out."""
    worst: dict[int, int] = {}
    for row, place in enumerate(trace.layout.instances):
        best = worst.get(place.site)
        if not np.isnan(sizes[row]) and (best is None or sizes[row] > sizes[best]):
            worst[place.site] = row
    return list(worst.values())
