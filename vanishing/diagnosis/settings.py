"""The setting of a fault: what stands around it in the network, which says what helps."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vanishing.diagnosis import remedies
from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.probing import SiteKind, Trace


class Setting(NamedTuple):
    """Where in a network a fault is, as far as that says what helps."""

    recurrent: bool = False  # in a scan over time
    residual: bool = False  # the gradient has a skip connection there
    normalized: bool = False  # there are normalisations
    gated: bool = False  # there are gates, as in an LSTM
    culprit: str = ""  # "activation", "rectifier", "attention", "normalization", "sum", or ""

    @property
    def cause(self) -> str:
        """Of a signal or a gradient that shrinks or grows from layer to layer."""
        if self.recurrent:
            return "recurrence"
        causes = {"sum": "residual_scale", "rectifier": "initial_scale", "": "initial_scale"}
        return causes.get(self.culprit, self.culprit)


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


def _clip_helps(kind: str, s: Setting) -> bool:
    """A clipped step is small, but its direction is still that of the largest gradient.

    That will do where all layers, or steps, share the direction; it does not in a network of tanh
    that is chaotic, nor where gates have closed, nor behind a hundred normalisations.
    """
    return not s.gated if s.recurrent else s.culprit == "sum"


def _scale_helps(kind: str, s: Setting) -> bool:
    """The signal of a squashing activation is lost at any scale: small slopes, or saturation."""
    if s.recurrent or (kind == "vanishing" and s.culprit == "activation"):
        return False
    return kind == "forward_drift" or s.culprit not in ("attention", "normalization")


def _residual_helps(kind: str, s: Setting) -> bool:
    """A way back that multiplies nothing does not take off what another way multiplies up."""
    adds_a_way = not s.recurrent and not s.residual
    return adds_a_way and (kind != "exploding" or s.culprit in ("attention", "normalization"))


def _is_offset(kind: str, s: Setting) -> bool:
    """Do the examples share what outweighs their differences, and a unit's mean is not it?"""
    return kind == "rank_collapse" or s.culprit == "activation"


def _normalizing_helps(kind: str, s: Setting) -> bool:
    return not s.recurrent and not s.normalized and s.culprit != "attention"


# For which kind of finding and in which setting a remedy helps; one that is not here always does.
# tests/remedies proves each: a network that does not learn, and that learns with the remedy.
_HELPS: Mapping[Remedy, Callable[[str, Setting], bool]] = {
    remedies.ACTIVATION: lambda kind, s: s.culprit == "activation" and not s.recurrent,
    remedies.BOUNDED: lambda kind, s: s.recurrent and s.gated,
    remedies.BRANCHES: lambda kind, s: s.residual and not s.recurrent,
    remedies.CLIP: _clip_helps,
    remedies.FORGET: lambda kind, s: s.recurrent and s.gated,
    remedies.GATE: lambda kind, s: s.recurrent and not s.gated,
    remedies.NORMALIZE: lambda kind, s: (
        _normalizing_helps(kind, s) and not (kind == "vanishing" and _is_offset(kind, s))
    ),
    remedies.ORTHOGONAL: lambda kind, s: s.recurrent and (kind == "rank_collapse" or not s.gated),
    remedies.OVER_BATCH: lambda kind, s: _normalizing_helps(kind, s) and _is_offset(kind, s),
    remedies.PRENORM: lambda kind, s: s.residual and s.culprit == "normalization",
    remedies.RESIDUAL: _residual_helps,
    remedies.SCALE: _scale_helps,
    remedies.SCORES: lambda kind, s: s.culprit == "attention",
    remedies.TOKENS: lambda kind, s: s.residual and s.culprit == "attention",
    remedies.UNSCALED: lambda kind, s: s.culprit == "sum" and not s.recurrent,
}


def useful(kind: str, setting: Setting) -> tuple[Remedy, ...]:
    """The remedies of a kind that help in a setting, best first; or its first, where none does.

    >>> [remedy.action for remedy in useful("exploding", Setting(recurrent=True))][1]
    "clip the gradient's norm"
    """
    helps = [r for r in REMEDIES[kind] if r not in _HELPS or _HELPS[r](kind, setting)]
    return tuple(helps) or REMEDIES[kind][:1]
