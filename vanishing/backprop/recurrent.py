"""Backpropagation through time: in a plain recurrent network, an LSTM and a GRU.

A recurrent network is a deep one whose layers, the steps of time, share their weights. So each
gradient of a weight is a sum over time, and the error of a state comes from two sides: from what is
read off it (the network's output at that time) and from the state after it. With e_t = dC/dh_t the
whole of it, and delta_t the error of a pre-activation,

    dC/dW_i = sum_t x_t^T delta_t       dC/dW_h = sum_t h_(t-1)^T delta_t     dC/db = sum_t delta_t
    dC/dx_t = delta_t W_i^T

Inputs are (batch, time, features) and states (batch, time, units), h_0 = c_0 = 0; parameters are
spelt as those of `layers.rnn`, `layers.lstm` and `layers.gru`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing.backprop.slopes import sigmoid_slope, slope_of, tanh_slope
from vanishing.layers import ACTIVATIONS

Sequences = Float[Array, "batch time features"]
States = Float[Array, "batch time units"]
Params = Mapping[str, Mapping[str, Array]]


class RecurrentBackward(NamedTuple):
    """Gradients and errors of backpropagation through time."""

    params: dict[str, dict[str, Array]]  # the gradient, of the structure of the parameters
    x: Sequences  # dC/dx_t
    errors: dict[str, States]  # dC/dh_t, and of an LSTM dC/dc_t: all that comes back to a state


@_arguments.checked
def rnn(params: Params, x: Sequences, activation: str = "tanh") -> States:
    """The states of a plain recurrent network, `h_t = f(x_t W_i + h_(t-1) W_h + b)`.

    Args:
      params: as for `rnn_gradient`.
      x: of shape (batch, time, features).
      activation: f, a name of `SLOPES`.

    Returns:
      h_t of all times, of shape (batch, time, units).

    Raises:
      ValueError: the activation is unknown, or x is no sequence of at least one time.

    Reference: Elman, Finding structure in time, Cognitive Science 1990.
    """
    return _rnn_forward(params, x, activation)["h"]


@_arguments.checked
def rnn_gradient(
    params: Params, x: Sequences, output_errors: States, activation: str = "tanh"
) -> RecurrentBackward:
    """Backpropagation through time in a plain recurrent network.

        delta_t = e_t * f'(z_t)             with z_t = x_t W_i + h_(t-1) W_h + b
        e_(t-1) = dC/dy_(t-1) + delta_t W_h^T

    Going k steps back multiplies the error by W_h^T and the slopes k times: it vanishes or explodes
    as a deep network's does, with the same matrix at every step.

    Args:
      params: `i` with `kernel` W_i (features, units) and `bias` b (units,), `h` with `kernel` W_h
        (units, units).
      x: the input, of shape (batch, time, features).
      output_errors: dC/dy_t, of the cost with respect to h_t where it is read off, of shape (batch,
        time, units); zeros where the cost does not see it.
      activation: f, a name of `SLOPES`.

    Returns:
      The gradients of the parameters and of x, and e_t.

    Raises:
      ValueError: the activation is unknown, x is no sequence of at least one time, or the output
        errors have another shape than the states.

    Reference: Werbos, Backpropagation through time, Proc. IEEE 1990; Pascanu, Mikolov & Bengio, On
    the difficulty of training recurrent neural networks, ICML 2013, eq. 3 to 5.

    >>> params = {"i": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    >>> params["h"] = {"kernel": jnp.full((1, 1), 0.5)}
    >>> last = jnp.zeros((1, 4, 1)).at[:, -1].set(1.0)
    >>> result = rnn_gradient(params, jnp.ones((1, 4, 1)), last, activation="identity")
    >>> result.errors["h"].ravel().tolist()
    [0.125, 0.25, 0.5, 1.0]
    """
    residuals = _rnn_forward(params, x, activation)
    slope = slope_of(activation)

    def back(carried, at):
        e = at["output_error"] + carried
        delta = e * slope(at["z"])
        return delta @ params["h"]["kernel"].T, {"e": e, "z": delta}

    result = _back(back, jnp.zeros_like(residuals["h"][:, 0]), residuals, output_errors)
    gradients = {
        "i": {"kernel": _over_time(x, result["z"]), "bias": _sum(result["z"])},
        "h": {"kernel": _over_time(residuals["h_before"], result["z"])},
    }
    return RecurrentBackward(gradients, result["z"] @ params["i"]["kernel"].T, {"h": result["e"]})


@_arguments.checked
def lstm(params: Params, x: Sequences) -> States:
    """The states of an LSTM; its equations stand at `lstm_gradient`.

    Args:
      params: as for `lstm_gradient`.
      x: of shape (batch, time, features).

    Returns:
      h_t of all times, of shape (batch, time, units).

    Raises:
      ValueError: x is no sequence of at least one time.
    """
    return _lstm_forward(params, x)["h"]


@_arguments.checked
def lstm_gradient(params: Params, x: Sequences, output_errors: States) -> RecurrentBackward:
    """Backpropagation through time in an LSTM, whose memory is a sum and not a product of weights.

    Forward, with gates s(z_?) and the candidate g = tanh(z_g), z_? = x W_i? + h_(t-1) W_h? + b_?:

        c_t = f c_(t-1) + i g               h_t = o tanh(c_t)

    Backward, with e = dC/dh_t and u = dC/dc_t in full:

        u = (from c_(t+1)) + e o (1 - tanh(c_t)^2)
        delta_o = e tanh(c_t) s'(z_o)       delta_f = u c_(t-1) s'(z_f)
        delta_i = u g s'(z_i)               delta_g = u i (1 - g^2)
        to c_(t-1): u f                     to h_(t-1): sum over gates of delta_? W_h?^T

    Along c an error is multiplied by f alone, which an open gate keeps near 1.

    Args:
      params: `ii`, `if`, `ig`, `io` with `kernel` (features, units); `hi`, `hf`, `hg`, `ho` with
        `kernel` (units, units) and `bias` (units,).
      x: the input, of shape (batch, time, features).
      output_errors: dC/dy_t, of the cost with respect to h_t where it is read off, of shape (batch,
        time, units).

    Returns:
      The gradients of the parameters and of x, and e and u of all times.

    Raises:
      ValueError: x is no sequence of at least one time, or the output errors have another shape
        than the states.

    Reference: Greff et al., LSTM: a search space odyssey, 2017, sec. II.B, without peepholes.
    """
    residuals = _lstm_forward(params, x)

    def back(carried, at):
        e = at["output_error"] + carried["h"]
        tanh_c = jnp.tanh(at["c"])
        u = carried["c"] + e * at["o"] * tanh_slope(at["c"])
        deltas = {
            "i": u * at["g"] * sigmoid_slope(at["z_i"]),
            "f": u * at["c_before"] * sigmoid_slope(at["z_f"]),
            "g": u * at["i"] * (1 - at["g"] ** 2),
            "o": e * tanh_c * sigmoid_slope(at["z_o"]),
        }
        to_h = sum(delta @ params[f"h{gate}"]["kernel"].T for gate, delta in deltas.items())
        return {"c": u * at["f"], "h": to_h}, {"h": e, "c": u, "deltas": deltas}

    zeros = jnp.zeros_like(residuals["h"][:, 0])
    result = _back(back, {"c": zeros, "h": zeros}, residuals, output_errors)
    gradients = {}
    for gate, delta in result["deltas"].items():
        gradients[f"i{gate}"] = {"kernel": _over_time(x, delta)}
        gradients[f"h{gate}"] = {
            "kernel": _over_time(residuals["h_before"], delta),
            "bias": _sum(delta),
        }
    to_x = _to_input(params, x, result["deltas"])
    return RecurrentBackward(gradients, to_x, {"h": result["h"], "c": result["c"]})


@_arguments.checked
def gru(params: Params, x: Sequences) -> States:
    """The states of a GRU; its equations stand at `gru_gradient`.

    Args:
      params: as for `gru_gradient`.
      x: of shape (batch, time, features).

    Returns:
      h_t of all times, of shape (batch, time, units).

    Raises:
      ValueError: x is no sequence of at least one time.
    """
    return _gru_forward(params, x)["h"]


@_arguments.checked
def gru_gradient(params: Params, x: Sequences, output_errors: States) -> RecurrentBackward:
    """Backpropagation through time in a gated recurrent unit.

    Forward, with gates r = s(z_r) and z = s(z_z), z_? = x W_i? + b_i? + h_(t-1) W_h?:

        v = h_(t-1) W_hn + b_hn             n = tanh(x W_in + b_in + r v)
        h_t = (1 - z) n + z h_(t-1)

    Backward, with e = dC/dh_t in full:

        delta_z = e (h_(t-1) - n) s'(z_z)   delta_n = e (1 - z) (1 - n^2)
        delta_r = delta_n v s'(z_r)         delta_v = delta_n r
        to h_(t-1): e z + delta_r W_hr^T + delta_z W_hz^T + delta_v W_hn^T
        dC/dW_hn = sum_t h_(t-1)^T delta_v  dC/db_hn = sum_t delta_v

    Straight along h an error is multiplied by z, which is near 1 where a unit keeps its state.

    Args:
      params: `ir`, `iz` and `in` with `kernel` (features, units) and `bias` (units,), `hr` and `hz`
        with `kernel` (units, units), `hn` with both.
      x: the input, of shape (batch, time, features).
      output_errors: dC/dy_t, of the cost with respect to h_t where it is read off, of shape (batch,
        time, units).

    Returns:
      The gradients of the parameters and of x, and e of all times.

    Raises:
      ValueError: x is no sequence of at least one time, or the output errors have another shape
        than the states.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014,
    sec. 2.3, for the unit, with the reset behind the product.
    """
    residuals = _gru_forward(params, x)

    def back(carried, at):
        e = at["output_error"] + carried
        n = at["n"]
        delta_n = e * (1 - at["z"]) * (1 - n**2)
        deltas = {
            "r": delta_n * at["v"] * sigmoid_slope(at["z_r"]),
            "z": e * (at["h_before"] - n) * sigmoid_slope(at["z_z"]),
            "n": delta_n,
            "v": delta_n * at["r"],
        }
        to_h = e * at["z"] + sum(
            deltas[delta] @ params[name]["kernel"].T
            for name, delta in (("hr", "r"), ("hz", "z"), ("hn", "v"))
        )
        return to_h, {"h": e, "deltas": deltas}

    result = _back(back, jnp.zeros_like(residuals["h"][:, 0]), residuals, output_errors)
    deltas, before = result["deltas"], residuals["h_before"]
    gradients = {
        f"i{gate}": {"kernel": _over_time(x, deltas[gate]), "bias": _sum(deltas[gate])}
        for gate in ("r", "z", "n")
    }
    gradients["hr"] = {"kernel": _over_time(before, deltas["r"])}
    gradients["hz"] = {"kernel": _over_time(before, deltas["z"])}
    gradients["hn"] = {"kernel": _over_time(before, deltas["v"]), "bias": _sum(deltas["v"])}
    to_x = _to_input(params, x, {gate: deltas[gate] for gate in ("r", "z", "n")})
    return RecurrentBackward(gradients, to_x, {"h": result["h"]})


def _rnn_forward(params: Params, x: Sequences, activation: str) -> dict[str, Array]:
    slope_of(activation)  # refuses what is unknown
    f = ACTIVATIONS[activation].function

    def step(before, x_t):
        from_input = x_t @ params["i"]["kernel"] + params["i"]["bias"][None]
        z = from_input + before["h"] @ params["h"]["kernel"]
        return {"h": f(z)}, {"z": z}

    return _forward(step, ("h",), params["h"]["kernel"], x)


def _lstm_forward(params: Params, x: Sequences) -> dict[str, Array]:
    def step(before, x_t):
        z = {
            gate: x_t @ params[f"i{gate}"]["kernel"]
            + before["h"] @ params[f"h{gate}"]["kernel"]
            + params[f"h{gate}"]["bias"][None]
            for gate in "ifgo"
        }
        i, f, o = (jax.nn.sigmoid(z[gate]) for gate in "ifo")
        g = jnp.tanh(z["g"])
        c = f * before["c"] + i * g
        residuals = {"i": i, "f": f, "g": g, "o": o} | {f"z_{gate}": z[gate] for gate in "ifo"}
        return {"c": c, "h": o * jnp.tanh(c)}, residuals

    return _forward(step, ("c", "h"), params["hi"]["kernel"], x)


def _gru_forward(params: Params, x: Sequences) -> dict[str, Array]:
    def step(before, x_t):
        h = before["h"]
        from_input = {
            g: x_t @ params[f"i{g}"]["kernel"] + params[f"i{g}"]["bias"][None] for g in "rzn"
        }
        z_r = from_input["r"] + h @ params["hr"]["kernel"]
        z_z = from_input["z"] + h @ params["hz"]["kernel"]
        v = h @ params["hn"]["kernel"] + params["hn"]["bias"][None]
        r, z = jax.nn.sigmoid(z_r), jax.nn.sigmoid(z_z)
        n = jnp.tanh(from_input["n"] + r * v)
        residuals = {"z_r": z_r, "z_z": z_z, "v": v, "r": r, "z": z, "n": n}
        return {"h": (1 - z) * n + z * h}, residuals

    return _forward(step, ("h",), params["hr"]["kernel"], x)


def _forward(
    step: Callable, states: tuple[str, ...], recurrent_kernel: Array, x: Sequences
) -> dict[str, Array]:
    """A cell's states and inner values at all times, and its states one step before."""
    if x.ndim != 3 or x.shape[1] < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x is {x.dtype} of shape {x.shape}; it must be sequences (batch, time, features) of "
            "floating-point numbers, of at least one time."
        )
    dtype = jnp.result_type(x, recurrent_kernel)
    start = jnp.zeros((len(x), recurrent_kernel.shape[0]), dtype)

    def scanned(before, x_t):
        after, step_residuals = step(before, x_t)
        return after, step_residuals | after | {f"{name}_before": before[name] for name in states}

    _, residuals = jax.lax.scan(scanned, dict.fromkeys(states, start), x.swapaxes(0, 1))
    return jax.tree.map(lambda values: values.swapaxes(0, 1), residuals)


def _back(back: Callable, carried: Any, residuals: dict[str, Array], output_errors: States) -> Any:
    """Results of `back` for all times, run from the last time to the first."""
    _arguments.shape("output_errors", output_errors, residuals["h"].shape)
    steps = residuals | {"output_error": output_errors}
    steps = jax.tree.map(lambda values: values.swapaxes(0, 1), steps)
    _, result = jax.lax.scan(back, carried, steps, reverse=True)
    return jax.tree.map(lambda values: values.swapaxes(0, 1), result)


def _to_input(params: Params, x: Sequences, deltas: Mapping[str, States]) -> Sequences:
    """dC/dx: the sum over gates of delta_? W_i?^T."""
    total = jnp.zeros_like(x)
    for gate, delta in deltas.items():
        total = total + delta @ params[f"i{gate}"]["kernel"].T
    return total


def _over_time(before: Array, delta: States) -> Float[Array, "fan_in units"]:
    """sum over times and examples of before_t^T delta_t."""
    return jnp.einsum("bti,btj->ij", before, delta)


def _sum(delta: States) -> Float[Array, " units"]:
    return delta.sum(axis=(0, 1))
