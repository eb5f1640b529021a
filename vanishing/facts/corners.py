"""Slopes at corners, bounds and ties: what a gradient is where two sides have different ones."""

from typing import NamedTuple

from vanishing.facts import versions


class Corner(NamedTuple):
    """A function at a point where its two sides have different slopes, and the slope JAX takes."""

    name: str  # of the function, as the rows of a trace have it where it has one
    spelling: str  # an expression of x, with jnp, lax and nn
    at: tuple[float, ...]  # a number, or the elements of a vector
    slope: tuple[float, ...]  # the gradient there
    source: str  # what decides it
    version: str = versions.JAX


_HALF = "lax.max and lax.min give half to each of two equals"
_WHERE = "jnp.where: the slope of the side that is taken"
_OPEN = "jax.nn has it 0 at its bounds (a rule of its own)"
_SHARED = "the largest share it equally"

CORNERS = (
    Corner("relu", "nn.relu(x)", (0.0,), (0.0,), "jax.nn.relu: a rule of its own"),
    Corner("relu6", "nn.relu6(x)", (0.0,), (0.0,), _OPEN),
    Corner("relu6", "nn.relu6(x)", (6.0,), (0.0,), _OPEN),
    Corner("leaky_relu", "nn.leaky_relu(x)", (0.0,), (1.0,), "jnp.where(x >= 0, ...)"),
    Corner("elu", "nn.elu(x)", (0.0,), (1.0,), "its two sides agree"),
    Corner("selu", "nn.selu(x)", (0.0,), (1.7581,), "jnp.where(x > 0, ...) of elu"),
    Corner("max", "jnp.maximum(x, 0.0)", (0.0,), (0.5,), _HALF),
    Corner("min", "jnp.minimum(x, 0.0)", (0.0,), (0.5,), _HALF),
    Corner("abs", "jnp.abs(x)", (0.0,), (1.0,), "lax.abs takes the side x >= 0"),
    Corner("sign", "jnp.sign(x)", (0.0,), (0.0,), "lax.sign has no slope anywhere"),
    Corner("where", "jnp.where(x > 0, x, 0.0)", (0.0,), (0.0,), _WHERE),
    Corner("where", "jnp.where(x >= 0, x, 0.0)", (0.0,), (1.0,), _WHERE),
    Corner("clip", "jnp.clip(x, 0.0, 1.0)", (0.0,), (0.5,), _HALF),
    Corner("clip", "jnp.clip(x, 0.0, 1.0)", (1.0,), (0.5,), _HALF),
    Corner("clamp", "lax.clamp(0.0, x, 1.0)", (0.0,), (0.0,), "lax.clamp: strictly inside alone"),
    Corner("clamp", "lax.clamp(0.0, x, 1.0)", (1.0,), (0.0,), "lax.clamp: strictly inside alone"),
    Corner("hard_tanh", "nn.hard_tanh(x)", (1.0,), (1.0,), "jnp.where(x > 1, ...)"),
    Corner("hard_tanh", "nn.hard_tanh(x)", (-1.0,), (1.0,), "jnp.where(x < -1, ...)"),
    Corner("hard_sigmoid", "nn.hard_sigmoid(x)", (3.0,), (0.0,), "relu6's"),
    Corner("hard_sigmoid", "nn.hard_sigmoid(x)", (-3.0,), (0.0,), "relu6's"),
    Corner("hard_swish", "nn.hard_swish(x)", (3.0,), (1.0,), "x times hard_sigmoid"),
    Corner("hard_swish", "nn.hard_swish(x)", (-3.0,), (0.0,), "x times hard_sigmoid"),
    Corner("soft_sign", "nn.soft_sign(x)", (0.0,), (1.0,), "its two sides agree"),
    Corner("reduce_max", "jnp.max(x)", (1.0, 1.0), (0.5, 0.5), _SHARED),
    Corner("cummax", "lax.cummax(x)[-1]", (1.0, 1.0), (0.5, 0.5), _SHARED),
    Corner("top_k", "lax.top_k(x, 1)[0][0]", (1.0, 1.0), (1.0, 0.0), "the first of equals"),
    Corner("sort", "jnp.sort(x)[-1]", (1.0, 1.0), (0.0, 1.0), "a stable sort"),
    Corner("sort", "jnp.sort(x)[1]", (1.0, 1.0, 1.0), (0.0, 1.0, 0.0), "a stable sort"),
    Corner("median", "jnp.median(x)", (1.0, 2.0), (0.5, 0.5), "the mean of the middle two"),
    Corner(
        "max_pool",
        "lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), 'VALID')[0]",
        (1.0, 1.0),
        (1.0, 0.0),
        "lax.select_and_scatter: the first of equals",
    ),
    Corner("prod", "jnp.prod(x)", (2.0, 3.0, 0.0), (0.0, 0.0, 6.0), "the product of the others"),
    Corner("prod", "jnp.prod(x)", (2.0, 0.0, 0.0), (0.0, 0.0, 0.0), "the product of the others"),
    Corner("norm", "jnp.linalg.norm(x, ord=1)", (1.0, 0.0, -1.0), (1.0, 1.0, -1.0), "abs's"),
    Corner(
        "norm",
        "jnp.linalg.norm(x, ord=jnp.inf)",
        (0.0, 0.0, 0.0),
        (1 / 6, 1 / 6, 1 / 6),
        "the largest of abs, shared, with the slope of the two sides averaged",
    ),
)
"""Functions at their corners, bounds and ties."""


def corner(name: str, at: float = 0.0) -> Corner | None:
    """The row of a function of one number at a point, if there is one.

    Args:
      name: of the function.
      at: the point.

    >>> corner("relu").slope, corner("max").slope, corner("hard_tanh", 1.0).slope
    ((0.0,), (0.5,), (1.0,))
    """
    return next((row for row in CORNERS if (row.name, row.at) == (name, (at,))), None)
