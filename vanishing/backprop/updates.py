"""Update rules of the optimisers, each as its equations.

A rule maps a gradient g to what is added to the parameters, the step, and carries a state from step
to step; operations are element by element. Each is a pair of functions over whole pytrees, as
Optax's are, and goes wherever those go; it equals the one of Optax that it names.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vanishing import _arguments
from vanishing._types import PyTree, Scalar


class Rule(NamedTuple):
    """An update rule."""

    init: Callable[[PyTree], PyTree]  # params -> state
    update: Callable[..., tuple[PyTree, PyTree]]  # (gradients, state, params) -> step, state


@_arguments.checked
def momentum(learning_rate: Scalar, decay: Scalar = 0.9) -> Rule:
    """`v <- decay v + g`, step `-learning_rate v`: a ball that rolls on; `optax.sgd(momentum=)`.

    Args:
      learning_rate: any number, usually over 0.
      decay: share of the last v that stays, in [0, 1).

    Raises:
      ValueError: decay is out of its range.

    Reference: Polyak, Some methods of speeding up the convergence of iteration methods, 1964.

    >>> rule = momentum(0.1)
    >>> step, velocity = rule.update(jnp.array(1.0), rule.init(jnp.array(0.0)))
    >>> step, velocity = rule.update(jnp.array(1.0), velocity)
    >>> print(step)  # -0.1 (0.9 + 1)
    -0.19
    """
    _arguments.between("decay", decay, 0.0, 1.0)

    def update(gradients, velocity, params=None):
        velocity = jax.tree.map(lambda v, g: decay * v + g, velocity, gradients)
        return jax.tree.map(lambda v: -learning_rate * v, velocity), velocity

    return Rule(_zeros, update)


@_arguments.checked
def nesterov(learning_rate: Scalar, decay: Scalar = 0.9) -> Rule:
    """`v <- decay v + g`, step `-learning_rate (decay v + g)`: the gradient where v leads.

    The form that takes the gradient at the current parameters; `optax.sgd(nesterov=True)`.

    Args:
      learning_rate: any number, usually over 0.
      decay: share of the last v that stays, in [0, 1).

    Raises:
      ValueError: decay is out of its range.

    Reference: Sutskever et al., On the importance of initialization and momentum in deep learning,
    ICML 2013, eq. 3 and 4, with the change of variables of Bengio, Boulanger-Lewandowski & Pascanu,
    Advances in optimizing recurrent networks, ICASSP 2013.
    """
    _arguments.between("decay", decay, 0.0, 1.0)

    def update(gradients, velocity, params=None):
        velocity = jax.tree.map(lambda v, g: decay * v + g, velocity, gradients)
        steps = jax.tree.map(lambda v, g: -learning_rate * (decay * v + g), velocity, gradients)
        return steps, velocity

    return Rule(_zeros, update)


@_arguments.checked
def adagrad(learning_rate: Scalar, initial: Scalar = 0.1, eps: Scalar = 1e-7) -> Rule:
    """`s <- s + g^2`, step `-learning_rate g / sqrt(s + eps)`; s starts at `initial`.

    Steps fall as 1 / sqrt(number of steps), since s never forgets; gradients well under
    sqrt(initial) stay as small as they are. `optax.adagrad`.

    Args:
      learning_rate: any number, usually over 0.
      initial: of s; at least 0.
      eps: over 0.

    Raises:
      ValueError: a number is out of its range.

    Reference: Duchi, Hazan & Singer, Adaptive subgradient methods, JMLR 2011, fig. 1 (diagonal).
    """
    _arguments.between("initial", initial, 0.0, float("inf"))
    _arguments.positive("eps", eps)

    def init(params):
        return jax.tree.map(lambda p: jnp.full_like(p, initial), params)

    def update(gradients, squares, params=None):
        squares = jax.tree.map(lambda s, g: s + g**2, squares, gradients)
        return _over_root(learning_rate, gradients, squares, eps), squares

    return Rule(init, update)


@_arguments.checked
def rmsprop(learning_rate: Scalar, decay: Scalar = 0.9, eps: Scalar = 1e-8) -> Rule:
    """`s <- decay s + (1 - decay) g^2`, step `-learning_rate g / sqrt(s + eps)`.

    Every parameter moves at about the learning rate, however small its gradient, as long as that is
    over sqrt(eps), 1e-4; `optax.rmsprop`.

    Args:
      learning_rate: any number, usually over 0.
      decay: share of the last s that stays, in [0, 1).
      eps: over 0.

    Raises:
      ValueError: a number is out of its range.

    Reference: Tieleman & Hinton, Coursera lecture 6.5, 2012.
    """
    _arguments.between("decay", decay, 0.0, 1.0)
    _arguments.positive("eps", eps)

    def update(gradients, squares, params=None):
        squares = jax.tree.map(lambda s, g: decay * s + (1 - decay) * g**2, squares, gradients)
        return _over_root(learning_rate, gradients, squares, eps), squares

    return Rule(_zeros, update)


class AdamState(NamedTuple):
    """State of Adam."""

    steps: jax.Array  # t, so far
    mean: PyTree  # m, of gradients
    square: PyTree  # s, of their squares


@_arguments.checked
def adam(learning_rate: Scalar, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Rule:
    """Averages of g and of g^2, their start at 0 corrected for; `optax.adam`.

        m <- b1 m + (1 - b1) g              m^ = m / (1 - b1^t)
        s <- b2 s + (1 - b2) g^2            s^ = s / (1 - b2^t)
        step: -learning_rate m^ / (sqrt(s^) + eps)

    Args:
      learning_rate: any number, usually over 0.
      b1: share of the last m that stays, in [0, 1).
      b2: share of the last s that stays, in [0, 1).
      eps: over 0; gradients well under it stay as small as they are.

    Raises:
      ValueError: a number is out of its range.

    Reference: Kingma & Ba, Adam, ICLR 2015, algorithm 1.

    >>> rule = adam(0.1)
    >>> for gradient in (1.0, 1e-5):  # the first step is the learning rate for both
    ...     step, _ = rule.update(jnp.array(gradient), rule.init(jnp.array(0.0)))
    ...     print(f"{step:.3f}")
    -0.100
    -0.100
    """
    _arguments.between("b1", b1, 0.0, 1.0)
    _arguments.between("b2", b2, 0.0, 1.0)
    _arguments.positive("eps", eps)

    def init(params):
        return AdamState(jnp.zeros((), int), _zeros(params), _zeros(params))

    def update(gradients, state, params=None):
        t = state.steps + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradients)
        square = jax.tree.map(lambda s, g: b2 * s + (1 - b2) * g**2, state.square, gradients)

        def step(m, s):
            unbiased_mean, unbiased_square = m / (1 - b1**t), s / (1 - b2**t)
            return -learning_rate * unbiased_mean / (jnp.sqrt(unbiased_square) + eps)

        return jax.tree.map(step, mean, square), AdamState(t, mean, square)

    return Rule(init, update)


@_arguments.checked
def clip_by_norm(max_norm: Scalar) -> Rule:
    """`g <- g min(1, max_norm / |g|)`, |g| over all parameters: its direction stays.

    `optax.clip_by_global_norm`. It stops an explosion, and leaves a vanished gradient as it is. The
    norm is taken in units of the largest entry, so that squares neither overflow nor underflow.

    Args:
      max_norm: over 0.

    Raises:
      ValueError: max_norm is not over 0.

    Reference: Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks,
    ICML 2013, algorithm 1.

    >>> clipped, _ = clip_by_norm(1.0).update(jnp.array([3e30, 4e30]), ())
    >>> print(clipped)
    [0.6 0.8]
    """
    _arguments.positive("max_norm", max_norm)

    def update(gradients, state, params=None):
        leaves = jax.tree.leaves(gradients)
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in leaves]))
        unit = jnp.where(largest > 0, largest, 1.0)
        norm = jnp.sqrt(sum(jnp.sum((g / unit) ** 2) for g in leaves))  # over the unit
        scale = jnp.minimum(unit, max_norm / jnp.where(norm > 0, norm, 1.0))
        return jax.tree.map(lambda g: (g / unit * scale).astype(g.dtype), gradients), state

    return Rule(lambda params: (), update)


def _zeros(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, params)


def _over_root(learning_rate: Scalar, gradients: PyTree, squares: PyTree, eps: Scalar) -> PyTree:
    return jax.tree.map(lambda g, s: -learning_rate * g / jnp.sqrt(s + eps), gradients, squares)
