"""The gradient of a loss with respect to the state that a recurrent layer had at each time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing._numerics import norm
from vanishing._types import PyTree
from vanishing.layers.base import Layer, require_layer
from vanishing.layers.recurrent import Recurrent

Loss = Callable[[jax.Array], Float[Array, ""]]


def state_cotangents(
    layer: Layer,
    params: PyTree,
    x: Float[jax.Array | np.ndarray, "*batch time features"],
    loss: Loss,
) -> dict[str, Float[Array, "time *batch units"]]:
    """dL/dstate_t for every time t, along all paths from there to the loss.

    Zeros are added to each part of the state at each time, where it is computed, and the loss is
    differentiated with respect to them. For an LSTM, dL/dc_t includes the effect of c_t through
    h_t, and dL/dh_t is that of h_t alone.

    Args:
      layer: made by `layers.rnn`, `layers.lstm` or `layers.gru`; of a network, that part.
      params: its parameters.
      x: its input.
      loss: from its output to a scalar; in a network, all that comes after the layer.

    Returns:
      For each part of the state by name ("h", for an LSTM also "c") the cotangents, time first.

    Raises:
      ValueError: the layer is not recurrent.

    Reference: Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks,
    ICML 2013, eq. 4, for the products of which they are sums.

    >>> from vanishing.layers import rnn
    >>> layer = rnn(1, activation="identity")
    >>> params = {"i": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    >>> params["h"] = {"kernel": jnp.full((1, 1), 0.5)}
    >>> print(state_cotangents(layer, params, jnp.ones((4, 1)), jnp.sum)["h"].ravel())
    [0.125 0.25  0.5   1.   ]
    """
    require_layer("layer", layer)
    recurrent = layer.structure
    if not isinstance(recurrent, Recurrent):
        raise ValueError(
            f"state_cotangents got a layer whose structure is {recurrent!r}; it takes one that "
            "layers.rnn, layers.lstm or layers.gru made, and of a network that part."
        )
    x = jnp.asarray(x)
    zeros = jnp.zeros(
        (x.shape[-2], *x.shape[:-2], recurrent.cell.features),
        jnp.result_type(x, *jax.tree.leaves(params)),
    )
    nudges = dict.fromkeys(recurrent.cell.states, zeros)
    return jax.grad(lambda nudges: loss(recurrent.run(params, x, nudges)))(nudges)


def log_norms(
    layer: Layer,
    params: PyTree,
    x: Float[jax.Array | np.ndarray, "*batch time features"],
    loss: Loss,
) -> dict[str, Float[Array, " time"]]:
    """log |dL/dstate_t|, the norm over batch and units, for every time t; see `state_cotangents`.

    No square underflows. A cotangent itself can, as in training: -inf is a gradient of 0.

    >>> from vanishing.layers import lstm
    >>> layer, x = lstm(8), jax.random.normal(jax.random.key(0), (4, 20, 2))
    >>> params, _ = layer.init(jax.random.key(1), x)
    >>> logs = log_norms(layer, params, x, jnp.sum)
    >>> logs["c"].shape, bool(logs["c"][0] < logs["c"][-1])
    ((20,), True)
    """
    cotangents = state_cotangents(layer, params, x, loss)
    return {
        name: jnp.log(norm(part, tuple(range(1, part.ndim)))) for name, part in cotangents.items()
    }
