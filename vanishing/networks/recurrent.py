"""Recurrent networks: one recurrent layer, and a linear read-out."""

from collections.abc import Callable

from vanishing import _arguments, layers
from vanishing._types import Scalar
from vanishing.initializers import identity, lecun_normal, normal, orthogonal
from vanishing.layers import Layer

_Factory = Callable[[int, Scalar | None, bool], Layer]  # (features, chrono, sequence) -> layer


def _irnn(features: int, sequence: bool) -> Layer:
    """A layer of rectified units that starts by keeping its state.

    Reference: Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified
    linear units, 2015; its input kernels have the standard deviation 0.001.
    """
    return layers.rnn(
        features,
        activation="relu",
        kernel_init=normal(0.001),
        recurrent_init=identity(),
        sequence=sequence,
    )


# The kinds of recurrent layer by name.
CELLS: dict[str, _Factory] = {
    # tanh, recurrent weights N(0, 1 / features)
    "rnn": lambda features, _, sequence: layers.rnn(
        features, recurrent_init=lecun_normal(), sequence=sequence
    ),
    # relu, recurrent weights the identity
    "irnn": lambda features, _, sequence: _irnn(features, sequence),
    # as rnn, with orthogonal recurrent weights
    "orthogonal_rnn": lambda features, _, sequence: layers.rnn(
        features, recurrent_init=orthogonal(), sequence=sequence
    ),
    # forget biases of 1
    "lstm": lambda features, _, sequence: layers.lstm(features, sequence=sequence),
    # forget biases spread so that the units remember from 2 to `chrono` steps
    "chrono_lstm": lambda features, chrono, sequence: layers.lstm(
        features, chrono=chrono, sequence=sequence
    ),
    "gru": lambda features, _, sequence: layers.gru(features, sequence=sequence),
}


@_arguments.checked
def recurrent_layer(
    cell: str, features: int, chrono: Scalar | None = None, sequence: bool = False
) -> Layer:
    """The recurrent layer of `rnn`, by itself.

    Raises:
      ValueError: the cell is unknown, or a chrono_lstm has no `chrono`.
    """
    _arguments.one_of("cell", cell, CELLS)
    if cell == "chrono_lstm" and chrono is None:
        raise ValueError(
            "chrono_lstm needs chrono, about the longest dependency in steps, such as the length "
            "of the sequences."
        )
    return CELLS[cell](features, chrono, sequence)


@_arguments.checked
def rnn(
    outputs: int,
    *,
    cell: str = "lstm",
    width: int,
    chrono: Scalar | None = None,
    sequence: bool = False,
) -> Layer:
    """A recurrent network: one recurrent layer, then a linear read-out.

    Parameters are `{"recurrent": ..., "output": ...}`.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      cell: one of `CELLS`.
      width: of the state; at least 1.
      chrono: of a chrono_lstm, about the longest dependency in steps; other cells ignore it.
      sequence: whether to read out the states of all times or the last one.

    Returns:
      A layer from (batch, time, features) to (batch, time, outputs), or to (batch, outputs).

    Raises:
      ValueError: a size is under 1, the cell is unknown, or a chrono_lstm has no `chrono`.

    >>> import jax, jax.numpy as jnp
    >>> net = rnn(1, cell="chrono_lstm", width=16, chrono=100)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 100, 2)))
    >>> net.apply(params, state, jnp.ones((8, 100, 2))).output.shape
    (8, 1)
    """
    return layers.serial(
        recurrent=recurrent_layer(cell, width, chrono, sequence), output=layers.dense(outputs)
    )
