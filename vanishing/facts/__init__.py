"""Facts: what JAX and its libraries do at corners, at the start and at small gradients, measured.

Each table is a tuple of rows; a row names the version at which it was measured, and its source. The
tests take every row again with the versions that are installed (`scripts/test --slow tests/facts`).
"""

from vanishing.facts.cells import CELLS, Cell, forget_bias
from vanishing.facts.corners import CORNERS, Corner, corner
from vanishing.facts.criticality import CRITICAL, CriticalScale, critical_scale
from vanishing.facts.embeddings import EMBEDDINGS, Embedding, embedding_std
from vanishing.facts.kernels import KERNELS, Kernel, drawn_as
from vanishing.facts.normalizations import NORMS, Norm, of_epsilon
from vanishing.facts.ranges import RANGES, Range, slope_range
from vanishing.facts.stops import STOPS, Stop, stops_like

__all__ = [
    "CELLS",
    "CORNERS",
    "CRITICAL",
    "EMBEDDINGS",
    "KERNELS",
    "NORMS",
    "RANGES",
    "STOPS",
    "Cell",
    "Corner",
    "CriticalScale",
    "Embedding",
    "Kernel",
    "Norm",
    "Range",
    "Stop",
    "corner",
    "critical_scale",
    "drawn_as",
    "embedding_std",
    "forget_bias",
    "of_epsilon",
    "slope_range",
    "stops_like",
]
