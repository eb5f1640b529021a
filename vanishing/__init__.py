"""The laboratory for vanishing and exploding gradients."""

from vanishing.diagnose import diagnose
from vanishing.probe import probe
from vanishing.trace import Trace

__version__ = "0.1.0"
__all__ = ["Trace", "diagnose", "probe"]
