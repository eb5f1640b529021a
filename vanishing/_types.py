"""Types that the whole library shares, and the marker of an axis of depth."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

Scalar = float | int | Float[Array, ""]  # a traced scalar runs under `vmap`
PyTree = Any  # of arrays; jaxtyping's own PyTree would be checked leaf by leaf at every call
Spec = jax.Array | np.ndarray | jax.ShapeDtypeStruct  # whatever has a shape and a dtype
Elementwise = Callable[[Float[Array, "..."]], Float[Array, "..."]]

DEPTH = "[:]"  # in the path of a parameter or a row: an axis of depth
