"""Recurrent networks: one recurrent layer, and a linear read-out."""

from collections.abc import Callable

from vanishing import _arguments, layers
from vanishing._types import Scalar
from vanishing.initializers import Scales, by_name, identity, lecun_normal, orthogonal
from vanishing.layers import Layer

_Factory = Callable[[int, Scalar | None, bool], Layer]  # (units, chrono, sequence) -> layer


def _irnn(units: int, sequence: bool) -> Layer:
    """Rectified units that start by keeping what they hold.

    Reference: Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified
    linear units, 2015; its input kernels have the standard deviation 0.001.
    """
    small = by_name("normal", Scales(scale=0.001)).kernel_init
    return layers.rnn(
        units, activation="relu", kernel_init=small, recurrent_init=identity(), sequence=sequence
    )


# The kinds of recurrent layer by name.
CELLS: dict[str, _Factory] = {
    # tanh, recurrent weights N(0, 1 / units)
    "rnn": lambda units, _, sequence: layers.rnn(
        units, recurrent_init=lecun_normal(), sequence=sequence
    ),
    # relu, recurrent weights the identity
    "irnn": lambda units, _, sequence: _irnn(units, sequence),
    # as rnn, but that the recurrent weights are orthogonal
    "orthogonal_rnn": lambda units, _, sequence: layers.rnn(
        units, recurrent_init=orthogonal(), sequence=sequence
    ),
    # forget biases of 1
    "lstm": lambda units, _, sequence: layers.lstm(units, sequence=sequence),
    # forget biases spread so that the units remember from 2 to `chrono` steps
    "chrono_lstm": lambda units, chrono, sequence: layers.lstm(
        units, chrono=chrono, sequence=sequence
    ),
    "gru": lambda units, _, sequence: layers.gru(units, sequence=sequence),
}


def recurrent_layer(
    cell: str, units: int, chrono: Scalar | None = None, sequence: bool = False
) -> Layer:
    """The recurrent layer of a network that `rnn` makes, by itself.

    Raises:
      ValueError: the cell is unknown, or a chrono_lstm has no `chrono`.
    """
    _arguments.one_of("cell", cell, CELLS)
    if cell == "chrono_lstm" and chrono is None:
        raise ValueError(
            "chrono_lstm needs chrono, about the longest dependency in steps, such as the length "
            "of the sequences."
        )
    return CELLS[cell](units, chrono, sequence)


def rnn(
    outputs: int,
    *,
    cell: str = "lstm",
    units: int,
    chrono: Scalar | None = None,
    sequence: bool = False,
) -> Layer:
    """A recurrent network: one recurrent layer, then a linear read-out.

    Parameters are `{"recurrent": ..., "output": ...}`.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      cell: one of `CELLS`.
      units: width of the state; at least 1.
      chrono: of a chrono_lstm, about the longest dependency in steps; other cells ignore it.
      sequence: whether to read out the states of all times or the last one.

    Returns:
      A layer from (batch, time, features) to (batch, time, outputs), or to (batch, outputs).

    Raises:
      ValueError: a size is under 1, the cell is unknown, or a chrono_lstm has no `chrono`.

    >>> import jax, jax.numpy as jnp
    >>> net = rnn(1, cell="chrono_lstm", units=16, chrono=100)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 100, 2)))
    >>> net.apply(params, state, jnp.ones((8, 100, 2))).output.shape
    (8, 1)
    """
    return layers.serial(
        recurrent=recurrent_layer(cell, units, chrono, sequence), output=layers.dense(outputs)
    )
