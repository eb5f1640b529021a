"""Problems: what a training run needs to know, the examples it uses, and the state it carries."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from vanishing._types import PyTree
from vanishing.layers import Layer
from vanishing.losses import Loss, accuracy


class Problem(NamedTuple):
    """A network, the loss of its outputs and their targets, and the optimizer that lowers it.

    Targets are usually integer labels, and the score the fraction of them that is named right.

    Close over a problem: it holds functions, so it cannot be an argument of `jax.jit`.
    """

    network: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    penalty: Callable[[PyTree], Float[Array, ""]] = lambda params: jnp.zeros(())
    score: Loss = accuracy  # recorded as the accuracy, 0 to 1


class Data(NamedTuple):
    """Training and test examples as device arrays; the test set may be empty.

    A run without test examples has nan for its test loss and accuracy.
    """

    x_train: Float[Array, "train ..."]
    y_train: Shaped[Array, "train ..."]
    x_test: Float[Array, "test ..."]
    y_test: Shaped[Array, "test ..."]


class State(NamedTuple):
    """The carry of a training run: what its next step needs."""

    params: PyTree
    layer_state: PyTree
    opt_state: PyTree
    key: PRNGKeyArray  # of the data order and of layers that are random while training
    step: Int[Array, ""]
