"""Recurrent layers: cells that carry a state from step to step, and the scan over time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vanishing import _arguments, initializers
from vanishing._types import PyTree, Scalar
from vanishing.layers.activations import ACTIVATIONS, Nonlinearity, facts_of
from vanishing.layers.base import Applied, Layer, Structure, Variables
from vanishing.layers.linear import Initializer, require_initializers

RecurrentState = dict[str, jax.Array]  # by name, each part (*batch, units); "h" is the output
Mark = Callable[[str, jax.Array], jax.Array]


class Step(Protocol):
    """Maps a state and an input to the next state.

    Each part of the new state goes through `mark(name, part)` where it is computed, before anything
    uses it, so that the caller can perturb it.
    """

    def __call__(
        self, joined: PyTree, state: RecurrentState, x: jax.Array, mark: Mark
    ) -> RecurrentState: ...


class RecurrentCell(NamedTuple):
    """One step of time of a recurrent layer; the same at every step."""

    init: Callable[[PRNGKeyArray, int, Any], PyTree]  # (key, width of the input, dtype) -> params
    join: Callable[[PyTree], PyTree]  # params -> the arrays that a step reads; once, at the start
    step: Step
    states: tuple[str, ...]  # names of the parts of the state, which all start at 0
    features: int  # width of each part


@dataclasses.dataclass(frozen=True)
class Recurrent(Structure):
    """The structure of a recurrent layer: its cell, at one time after another."""

    cell: RecurrentCell
    sequence: bool  # whether the output is that of every time, or the last one

    def run(
        self,
        params: PyTree,
        x: Float[jax.Array | np.ndarray, "*batch time features"],
        nudges: Mapping[str, Float[Array, "time *batch units"]] | None = None,
    ) -> Float[Array, "..."]:
        """The output, with `nudges` added to the parts of the state at every time."""
        x = jnp.moveaxis(jnp.asarray(x), -2, 0)
        dtype = jnp.result_type(x, *jax.tree.leaves(params))
        zeros = jnp.zeros((*x.shape[1:-1], self.cell.features), dtype)
        joined = self.cell.join(params)

        def step(state, now):
            x, nudge = now

            def mark(name, part):
                return part if nudge is None else part + nudge[name]

            state = self.cell.step(joined, state, x, mark)
            return state, state["h"] if self.sequence else None

        # Products with the inputs stay within the step: of all times at once they made a gradient
        # of an LSTM (100 steps, 128 units, on CPU) 1.4 to 1.9 times slower and doubled its memory.
        end, outputs = jax.lax.scan(step, dict.fromkeys(self.cell.states, zeros), (x, nudges))
        return end["h"] if outputs is None else jnp.moveaxis(outputs, 0, -2)


@_arguments.checked
def rnn(
    features: int,
    *,
    activation: Nonlinearity = "tanh",
    kernel_init: Initializer = initializers.lecun_normal(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    sequence: bool = False,
) -> Layer:
    """The plain recurrent layer, `h' = f(x @ i.kernel + i.bias + h @ h.kernel)`.

    Parameters are spelt as those of Flax's `SimpleCell`: `i` with `kernel` and `bias`, `h` with
    `kernel`.

    It has no `propagate`: a network that holds it is not predicted row by row. `theory.rnn_chi` is
    the factor of the mean-square gradient for a step of time, `theory.rnn_bound` bounds it.

    Args:
      features: width of the state; at least 1.
      activation: f, a name of `layers.ACTIVATIONS`, an elementwise function, or an `Activation`.
      kernel_init: of the kernel that reads the input.
      recurrent_init: of the kernel that reads the state. `initializers.identity()` with relu and
        a small input kernel makes the IRNN of Le, Jaitly & Hinton (2015).
      bias_init: of the bias.
      sequence: whether to return the states of all times or the last one.

    Returns:
      A layer from (batch, time, features) to (batch, time, `features`), or to (batch, `features`).

    Raises:
      ValueError: `features` is under 1, the activation is unknown or has a slope to learn, or the
        input is no sequence of floating-point vectors.

    Reference: Elman, Finding structure in time, Cognitive Science 1990.

    >>> layer = rnn(4)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 10, 2)))
    >>> layer.apply(params, state, jnp.ones((8, 10, 2))).output.shape
    (8, 4)
    """
    facts = facts_of(activation)
    require_initializers(
        "rnn", kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init
    )
    if facts is ACTIVATIONS["prelu"]:
        raise ValueError("rnn cannot learn the slope of prelu; take leaky_relu, or a function.")

    def init(key, fan_in, dtype):
        keys = jax.random.split(key, 3)
        params = _kernels(keys[0], ["i"], (fan_in, features), kernel_init, dtype)
        params |= _kernels(keys[1], ["h"], (features, features), recurrent_init, dtype)
        return _with_biases(keys[2], params, ["i"], bias_init)

    def join(params):
        return params["i"]["kernel"], params["h"]["kernel"], params["i"]["bias"]

    def step(joined, state, x, mark):
        reads, remembers, bias = joined
        pre_activation = _affine(bias, (x, reads), (state["h"], remembers))
        return {"h": mark("h", facts.function(pre_activation))}

    return _layer("rnn", RecurrentCell(init, join, step, ("h",), features), sequence)


@_arguments.checked
def lstm(
    features: int,
    *,
    forget_bias: Scalar = 1.0,
    chrono: Scalar | None = None,
    kernel_init: Initializer = initializers.lecun_normal(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    sequence: bool = False,
) -> Layer:
    """Long short-term memory: `c' = f * c + i * g` and `h' = o * tanh(c')`.

    `i`, `f` and `o` are sigmoids and `g` a tanh of `x @ i?.kernel + h @ h?.kernel + h?.bias`, where
    `?` is the letter. Parameters are spelt as those of Flax's `LSTMCell`: `ii`, `if`, `ig`, `io`
    with `kernel`, and `hi`, `hf`, `hg`, `ho` with `kernel` and `bias`.

    It has no `propagate`: a network that holds it is not predicted row by row. `theory.lstm_gain`
    predicts the gradient that is left after some steps, `theory.gate_gain` bounds it from below;
    with `chrono` and gates that stay near their biases `theory.chrono_gain` does.

    Args:
      features: width of `c` and of `h`; at least 1.
      forget_bias: added to the bias of the forget gate, so that it starts open.
      chrono: in place of `forget_bias`, T_max, about the longest dependency in steps; over 2.
        Log(u), u ~ U(1, T_max - 1), is added to the bias of the forget gate and subtracted from
        that of the input gate, so that the units remember from 2 to T_max steps.
      kernel_init: of the kernels that read the input.
      recurrent_init: of the kernels that read the state.
      bias_init: of all biases.
      sequence: whether to return the `h` of all times or the last one.

    Returns:
      A layer from (batch, time, features) to (batch, time, `features`), or to (batch, `features`).

    Raises:
      ValueError: `features` is under 1, `chrono` is not over 2, or the input is no sequence of
        floating-point vectors.

    Reference: Hochreiter & Schmidhuber, Long short-term memory, 1997, with the forget gate of Gers,
    Schmidhuber & Cummins, 2000; Tallec & Ollivier, Can recurrent neural networks warp time?, ICLR
    2018, sec. 2, for `chrono`.

    >>> layer = lstm(4, sequence=True)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 10, 2)))
    >>> layer.apply(params, state, jnp.ones((8, 10, 2))).output.shape
    (8, 10, 4)
    """
    _require_chrono("lstm", chrono)
    require_initializers(
        "lstm", kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init
    )
    inward, back = ("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho")

    def init(key, fan_in, dtype):
        keys = jax.random.split(key, 4)
        params = _kernels(keys[0], inward, (fan_in, features), kernel_init, dtype)
        params |= _kernels(keys[1], back, (features, features), recurrent_init, dtype)
        params = _with_biases(keys[2], params, back, bias_init)
        if chrono is None:
            return _shifted(params, "hf", forget_bias)
        log_times = _log_times(keys[3], chrono, features, dtype)
        return _shifted(_shifted(params, "hf", log_times), "hi", -log_times)

    def join(params):
        kernels = _side_by_side(params, inward, "kernel"), _side_by_side(params, back, "kernel")
        return *kernels, _side_by_side(params, back, "bias")

    def step(joined, state, x, mark):
        reads, remembers, bias = joined
        gates = _affine(bias, (x, reads), (state["h"], remembers))
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        with jax.named_scope("input"):
            i = jax.nn.sigmoid(i)
        with jax.named_scope("forget"):
            f = jax.nn.sigmoid(f)
        with jax.named_scope("candidate"):
            g = jnp.tanh(g)
        with jax.named_scope("output"):
            o = jax.nn.sigmoid(o)
        with jax.named_scope("c"):
            c = mark("c", f * state["c"] + i * g)
            return {"c": c, "h": mark("h", o * jnp.tanh(c))}

    return _layer("lstm", RecurrentCell(init, join, step, ("c", "h"), features), sequence)


@_arguments.checked
def gru(
    features: int,
    *,
    chrono: Scalar | None = None,
    kernel_init: Initializer = initializers.lecun_normal(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    sequence: bool = False,
) -> Layer:
    """The gated recurrent unit, `h' = (1 - z) * n + z * h`.

    `r` and `z` are sigmoids of `x @ i?.kernel + i?.bias + h @ h?.kernel`, where `?` is the letter,
    and `n = tanh(x @ in.kernel + in.bias + r * (h @ hn.kernel + hn.bias))`. Parameters are spelt as
    those of Flax's `GRUCell`: `ir`, `iz`, `in` and `hn` with `kernel` and `bias`, `hr` and `hz`
    with `kernel`.

    It has no `propagate`: a network that holds it is not predicted row by row. `theory.gru_gain`
    predicts the gradient that is left after some steps; with `chrono` and gates that stay near
    their biases `theory.chrono_gain` is a bound from below.

    Args:
      features: width of `h`; at least 1.
      chrono: T_max, about the longest dependency in steps; over 2. Log(u), u ~ U(1, T_max - 1), is
        added to the bias of `z`.
      kernel_init: of the kernels that read the input.
      recurrent_init: of the kernels that read the state.
      bias_init: of all biases.
      sequence: whether to return the states of all times or the last one.

    Returns:
      A layer from (batch, time, features) to (batch, time, `features`), or to (batch, `features`).

    Raises:
      ValueError: `features` is under 1, `chrono` is not over 2, or the input is no sequence of
        floating-point vectors.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014,
    sec. 2.3, with the reset behind the product, as in cuDNN; Tallec & Ollivier, Can recurrent
    neural networks warp time?, ICLR 2018, sec. 2, for `chrono`.

    >>> layer = gru(4)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 10, 2)))
    >>> layer.apply(params, state, jnp.ones((8, 10, 2))).output.shape
    (8, 4)
    """
    _require_chrono("gru", chrono)
    require_initializers(
        "gru", kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init
    )
    inward, back = ("ir", "iz", "in"), ("hr", "hz", "hn")

    def init(key, fan_in, dtype):
        keys = jax.random.split(key, 4)
        params = _kernels(keys[0], inward, (fan_in, features), kernel_init, dtype)
        params |= _kernels(keys[1], back, (features, features), recurrent_init, dtype)
        params = _with_biases(keys[2], params, (*inward, "hn"), bias_init)
        if chrono is None:
            return params
        return _shifted(params, "iz", _log_times(keys[3], chrono, features, dtype))

    def join(params):
        gates = (
            _side_by_side(params, inward[:2], "kernel"),
            _side_by_side(params, back[:2], "kernel"),
            _side_by_side(params, inward[:2], "bias"),
        )
        return gates, params["in"], params["hn"]

    def step(joined, state, x, mark):
        h, ((reads, remembers, bias), from_x, from_h) = state["h"], joined
        gates = _affine(bias, (x, reads), (h, remembers))
        new = _affine(from_x["bias"], (x, from_x["kernel"]))
        old = _affine(from_h["bias"], (h, from_h["kernel"]))
        r, z = jnp.split(gates, 2, axis=-1)
        with jax.named_scope("reset"):
            r = jax.nn.sigmoid(r)
        with jax.named_scope("update"):
            z = jax.nn.sigmoid(z)
        with jax.named_scope("candidate"):
            n = jnp.tanh(new + r * old)
        with jax.named_scope("h"):
            return {"h": mark("h", n + z * (h - n))}

    return _layer("gru", RecurrentCell(init, join, step, ("h",), features), sequence)


def _layer(kind: str, cell: RecurrentCell, sequence: bool) -> Layer:
    _arguments.whole("features", cell.features, 1, owner=kind)
    over_time = Recurrent(cell, sequence)

    def init(key, x):
        if len(x.shape) < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{kind} takes sequences (batch, time, features) of floating-point numbers, but "
                f"its input is {x.dtype} of shape {x.shape}; convert it, for instance with "
                "jax.nn.one_hot, or with x[..., None] for a single feature."
            )
        return Variables(params=cell.init(key, x.shape[-1], x.dtype), state={})

    def apply(params, state, x, key=None, train=False):
        del key, train  # deterministic, and the same in training
        return Applied(over_time.run(params, x), state)

    return Layer(init, apply, structure=over_time)


def _require_chrono(kind: str, chrono: Scalar | None) -> None:
    if isinstance(chrono, (int, float)) and chrono <= 2:
        raise ValueError(f"{kind} has chrono {chrono}; the longest dependency is over 2 steps.")


def _kernels(key, names: Sequence[str], shape, kernel_init: Initializer, dtype) -> dict:
    keys = jax.random.split(key, len(names))
    return {
        name: {"kernel": kernel_init(own_key, shape, dtype)}
        for name, own_key in zip(names, keys, strict=True)
    }


def _with_biases(key, params: dict, names: Sequence[str], bias_init: Initializer) -> dict:
    with_biases = {}
    for name, own_key in zip(names, jax.random.split(key, len(names)), strict=True):
        kernel = params[name]["kernel"]
        bias = bias_init(own_key, kernel.shape[1:], kernel.dtype)
        with_biases[name] = {"kernel": kernel, "bias": bias}
    return params | with_biases


def _shifted(params: dict, name: str, by: Scalar | jax.Array) -> dict:
    """The parameters with one bias shifted."""
    bias = params[name]["bias"]
    return params | {name: params[name] | {"bias": (bias + by).astype(bias.dtype)}}


def _log_times(key, chrono: Scalar, features: int, dtype) -> jax.Array:
    return jnp.log(jax.random.uniform(key, (features,), dtype, 1.0, chrono - 1.0))


def _side_by_side(params: dict, names: Sequence[str], leaf: str) -> jax.Array:
    """The leaves of several gates as one, so that one product serves them all."""
    return jnp.concatenate([params[name][leaf] for name in names], axis=-1)


def _affine(bias: jax.Array, first, *others) -> jax.Array:
    """The sum of products (x, kernel) and a bias."""
    x, kernel = first
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"the recurrent layer was initialised for {kernel.shape[0]} features, but x has "
            f"{x.shape[-1]}; initialise it with an input of the width that it will be given."
        )
    total = x @ kernel
    for x, kernel in others:
        total = total + x @ kernel
    return total + jnp.broadcast_to(bias, total.shape)
