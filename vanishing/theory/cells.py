"""Gated cells at initialisation: the gradient that reaches a state many steps back.

The recurrent weights are the same at every step. Paths of the gradient that pass them equally
often, at whatever times, meet the same products of matrices and add up, where fresh weights at
every step would make them independent: an LSTM of Flax keeps 0.64 of its error a step, and would
keep 0.58. So the theory follows the covariance of the error at any two times, step by step on the
way back, for many units and many more of them than steps; the gates read inputs that are new at
every step.

Reference: Sompolinsky, Crisanti & Sommers, Chaos in random neural networks, Physical Review Letters
1988, for the two-time theory of a network with fixed weights; Gilboa, Chang, Chen, Yang,
Schoenholz, Chi & Pennington, Dynamical isometry and a mean field theory of LSTMs and GRUs, 2019,
for gated cells with fresh ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
from jaxtyping import Float

from vanishing import _arguments

_Z, _WEIGHT = np.polynomial.hermite_e.hermegauss(100)
_WEIGHT = _WEIGHT / np.sqrt(2 * np.pi)
_ROUNDS = 1_000  # until the sizes of the state are those that a step leaves as they are
_WIDEST = 0.5  # standard deviation of a gate's biases, from which units are unlike


class _Law(NamedTuple):
    """How a gate's kernels and biases are drawn."""

    from_x: float  # fan_in times the mean square of the kernel that reads the input
    from_h: float
    bias: float
    bias_variance: float


class _Pair(NamedTuple):
    """A quantity's mean square, and the mean of its product with itself at another time."""

    same: float
    apart: float

    def over(self, lags: np.ndarray) -> np.ndarray:
        """The covariance by lag."""
        return np.where(lags > 0, self.apart, self.same)


def _mean(f: Callable, center: float, sigma: float) -> float:
    return float(np.sum(_WEIGHT * f(center + sigma * _Z)))


def _pair(f: Callable, center: float, sigma: float) -> _Pair:
    """Of a function of a normal variable that is new at every step."""
    return _Pair(_mean(lambda z: f(z) ** 2, center, sigma), _mean(f, center, sigma) ** 2)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _sigmoid_slope(z):
    return _sigmoid(z) * _sigmoid(-z)


def _tanh_slope(z):
    return 1 - np.tanh(z) ** 2


@_arguments.checked
def lstm_gain(
    params: Mapping[str, Any], steps: int, *, sigma_x: float = 1.0
) -> Float[np.ndarray, " step"]:
    """The log mean-square gradient with respect to an LSTM's state, t steps before the last.

    The loss reads the last h. Within 3 % a step of what the cells of Flax, Haiku, Keras, Equinox
    and PyTorch keep over 100 steps with 128 units. A forget bias of 3 with inputs of size 0.3 gives
    9 % a step too much: the state then depends on itself more than on the inputs.

    Args:
      params: as those of `layers.lstm` and of Flax's `LSTMCell`: `ii`, `if`, `ig`, `io`, `hi`,
        `hf`, `hg` and `ho` with a `kernel` (inputs, units) and perhaps a `bias`, of which only mean
        squares, and the mean of the biases, are read.
      steps: of time.
      sigma_x: root of the mean square of an input's features, which are new at every step.

    Returns:
      The logarithms for t = 0 to `steps`, over that of t = 0, of E|dL/dh|^2 + E|dL/dc|^2. The
      factor a step of the root of the mean square is the exponential of half a difference.

    Raises:
      ValueError: a kernel is absent, or a gate's biases differ so much that its units do: take
        `chrono_gain` where they are those of chrono initialisation.

    >>> import jax
    >>> from vanishing import layers
    >>> x = jax.numpy.ones((1, 1, 128))
    >>> params, _ = layers.lstm(128, forget_bias=0.0).init(jax.random.key(0), x)
    >>> print(f"{np.exp(lstm_gain(params, 100)[-1] / 200):.2f}")  # facts: 0.644 of nnx.LSTMCell
    0.64
    """
    i, f, g, o = (_law(params, f"i{gate}", f"h{gate}") for gate in "ifgo")

    def gates(q_h: float) -> tuple[_Pair, _Pair, _Pair, _Pair]:
        of_i, of_f, of_o = (
            _pair(_sigmoid, law.bias, _sigma(law, sigma_x, q_h)) for law in (i, f, o)
        )
        return of_i, of_f, of_o, _pair(np.tanh, g.bias, _sigma(g, sigma_x, q_h))

    q_h = q_c = 0.1
    for _ in range(_ROUNDS):
        of_i, of_f, of_o, of_g = gates(q_h)
        kept = of_f.apart**0.5
        # i g at one step, and what a steady part of it adds, which is there at every step
        q_c = (
            of_f.same * q_c
            + of_i.same * of_g.same
            + 2 * kept * of_i.apart * of_g.apart / (1 - kept)
        )
        q_h = of_o.same * _mean(lambda c: np.tanh(c) ** 2, 0.0, q_c**0.5)
    let_in, keep, shown, candidate = gates(q_h)
    sigma = {law: _sigma(law, sigma_x, q_h) for law in (i, f, g, o)}
    lags = np.arange(steps + 1)
    memory = keep.apart ** (lags / 2)  # of c, and so about of tanh(c)
    of_i, of_f, of_o = (_pair(_sigmoid_slope, law.bias, sigma[law]) for law in (i, f, o))
    squashed = _mean(lambda c: np.tanh(c) ** 2, 0.0, q_c**0.5)
    seen = np.where(lags > 0, shown.apart * squashed * memory, q_h)  # h
    slope = _pair(_tanh_slope, g.bias, sigma[g])
    steady = candidate.apart + slope.apart * g.from_h * seen  # of g, by the h that it reads
    through_c = (
        f.from_h * q_c * memory * of_f.over(lags)
        + i.from_h * np.where(lags > 0, steady, candidate.same) * of_i.over(lags)
        + g.from_h * let_in.over(lags) * slope.over(lags)
    )
    through_h = o.from_h * squashed * memory * of_o.over(lags)
    into_c = shown.over(lags) * _pair(_tanh_slope, 0.0, q_c**0.5).over(lags)
    return _backward(keep, into_c, through_c, through_h)


@_arguments.checked
def gru_gain(
    params: Mapping[str, Any], steps: int, *, sigma_x: float = 1.0
) -> Float[np.ndarray, " step"]:
    """The log mean-square gradient with respect to a GRU's state, t steps before the last.

    Args:
      params: as those of `layers.gru` and of Flax's `GRUCell`: `ir`, `iz`, `in`, `hr`, `hz` and
        `hn` with a `kernel` (inputs, units) and perhaps a `bias`.
      steps: as for `lstm_gain`.
      sigma_x: as for `lstm_gain`.

    Returns:
      The logarithms for t = 0 to `steps` of E|dL/dh|^2, over that of t = 0.

    Raises:
      ValueError: as for `lstm_gain`.

    >>> import jax
    >>> from vanishing import layers
    >>> params, _ = layers.gru(128).init(jax.random.key(0), jax.numpy.ones((1, 1, 128)))
    >>> factor = np.exp(gru_gain(params, 100)[-1] / 200)
    >>> bool(0.5 < factor < 1)
    True
    """
    r, z, n = (_law(params, f"i{gate}", f"h{gate}") for gate in "rzn")
    own = n.from_x * sigma_x**2 + n.bias_variance

    def gates(q: float) -> tuple[_Pair, _Pair, _Pair, float]:
        reset = _pair(_sigmoid, r.bias, _sigma(r, sigma_x, q))
        update = _pair(_sigmoid, z.bias, _sigma(z, sigma_x, q))
        fresh = _pair(lambda u: _sigmoid(-u), z.bias, _sigma(z, sigma_x, q))  # 1 - z
        return reset, update, fresh, (own + reset.same * n.from_h * q) ** 0.5

    q = 0.1
    for _ in range(_ROUNDS):
        _, update, fresh, sigma_n = gates(q)
        q = update.same * q + fresh.same * _pair(np.tanh, n.bias, sigma_n).same
    reset, update, fresh, sigma_n = gates(q)
    candidate = _pair(np.tanh, n.bias, sigma_n)
    sigma = {law: _sigma(law, sigma_x, q) for law in (r, z)}
    lags = np.arange(steps + 1)
    memory = update.apart ** (lags / 2)
    slope = _pair(_tanh_slope, n.bias, sigma_n)
    let_in = fresh.over(lags) * slope.over(lags)
    of_r, of_z = (_pair(_sigmoid_slope, law.bias, sigma[law]) for law in (r, z))
    steady = slope.apart * reset.apart * n.from_h * q * memory
    gap = q * memory + np.where(lags > 0, steady, candidate.same)  # h - n
    through = (
        z.from_h * gap * of_z.over(lags)
        + n.from_h * let_in * reset.over(lags)
        + r.from_h * let_in * n.from_h * q * memory * of_r.over(lags)
    )
    ones = np.ones(len(lags))
    return _backward(update, ones, through, 0 * ones, h_alone=True)


def _law(params: Mapping[str, Any], from_x: str, from_h: str) -> _Law:
    sizes, biases = [], []
    for name in (from_x, from_h):
        layer = params.get(name)
        if not isinstance(layer, Mapping) or "kernel" not in layer:
            raise ValueError(f"params has no {name}.kernel; they must be those of such a cell.")
        kernel = np.asarray(layer["kernel"], np.float64)
        sizes.append(kernel.shape[0] * float(np.mean(kernel**2)))
        biases.append(np.asarray(layer.get("bias", 0.0), np.float64))
    bias = biases[0] + biases[1]
    if not np.std(bias) < _WIDEST:
        raise ValueError(
            f"the biases in params of {from_h} have the standard deviation {np.std(bias):.2g}, so "
            f"that units are unlike; it must be under {_WIDEST}. For chrono initialisation there "
            "is theory.chrono_gain."
        )
    return _Law(sizes[0], sizes[1], float(np.mean(bias)), float(np.var(bias)))


def _sigma(law: _Law, sigma_x: float, q: float) -> float:
    return (law.from_x * sigma_x**2 + law.from_h * q + law.bias_variance) ** 0.5


def _backward(
    keep: _Pair,
    into: Float[np.ndarray, " lag"],
    through_kept: Float[np.ndarray, " lag"],
    through_read: Float[np.ndarray, " lag"],
    h_alone: bool = False,
) -> Float[np.ndarray, " step"]:
    """The mean square of the error at each time, from its covariance at any two times.

    The kept state m (an LSTM's c, a GRU's h) has the error e_t = keep_(t+1) e_(t+1) + s_t n_t,
    where n_t is what comes back through the recurrent weights, normal over units with covariance
    `through_kept` E[e e'] + `through_read` E[n n'] of one step later, and s_t s_t' has the mean
    `into`. `kept[k]` is E[e_t e_(t+k)] and `read[k]` is E[n_t n_(t+k)].

    Args:
      keep: the gate that keeps the state.
      into: by lag.
      through_kept: by lag.
      through_read: by lag.
      h_alone: whether the state is m itself, and not m and what reads it.
    """
    mean = keep.apart**0.5
    kept, read, log_unit = np.zeros(0), np.ones(1), 0.0
    logs: list[float] = []
    for t in range(len(into)):
        if t:
            passed = through_kept[:t] * kept + through_read[:t] * read
            read = np.append(passed, 0.0)
        source = into[: t + 1] * read
        # E[n_t e_(t+k)] for k from 1: n_t meets what came in from t + k on
        met = np.asarray(scipy.signal.lfilter([1.0], [1.0, -mean], source[:0:-1]))[::-1]
        carried = keep.same * kept[0] if t else 0.0
        own = carried + source[0] + (2 * mean * met[0] if t else 0.0)
        kept = np.concatenate([[own], mean * kept + met])
        size = own if h_alone else read[0] + carried
        logs.append(log_unit + (np.log(size) if size > 0 else -np.inf))
        if size > 0:
            kept, read, log_unit = kept / size, read / size, log_unit + np.log(size)
    return np.array(logs) - logs[0]
