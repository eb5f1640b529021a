"""Recurrent networks at initialisation: the gradient's factor for one step of time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers import facts_of
from vanishing.layers.activations import Nonlinearity
from vanishing.meanfield.quadrature import nodes
from vanishing.theory.maps import chi, fixed_point


@_arguments.checked
def rnn_chi(
    activation: Nonlinearity, sigma_w: Scalar, sigma_b: Scalar = 0.0, sigma_x: Scalar = 0.0
) -> Float[Array, ""]:
    """The factor by which one step of a wide plain RNN multiplies the mean-square gradient.

    The step is h' = f(W h + U x + b). Theory takes fresh weights at every step; for many units and
    a time under their number the shared ones give the same.

    Args:
      activation: f.
      sigma_w: recurrent weights have the variance sigma_w^2 / units.
      sigma_b: standard deviation of the biases.
      sigma_x: standard deviation of U x, the contribution of the input at each step.

    Reference: Chen, Pennington & Schoenholz, Dynamical isometry and a mean field theory of RNNs,
    ICML 2018, sec. 3.

    >>> print(f"{rnn_chi('tanh', 1.0, sigma_x=1.0):.3f}")
    0.399
    """
    q = fixed_point(
        activation, sigma_w=sigma_w, sigma_b=jnp.sqrt(jnp.square(sigma_b) + jnp.square(sigma_x))
    )
    return chi(activation, q=q, sigma_w=sigma_w)


class StepBound(NamedTuple):
    """Bounds on the factor of the gradient's norm: for one step, and for many linear ones."""

    largest: Float[Array, ""]  # never exceeded: the largest slope times the spectral norm
    in_the_long_run: Float[Array, ""]  # the largest slope times the spectral radius


@_arguments.checked
def rnn_bound(activation: str, kernel: Float[Array | np.ndarray, "units units"]) -> StepBound:
    """Bounds on the factor by which one step of a plain RNN multiplies the gradient's norm.

    Where `largest` is under 1, gradients vanish for certain; where `in_the_long_run` is over 1 they
    can explode. Between the two a non-normal matrix may let them grow for a while and then vanish.

    Args:
      activation: a name of `layers.ACTIVATIONS`.
      kernel: the recurrent weights.

    Reference: Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks,
    ICML 2013, sec. 2.1.

    >>> print(rnn_bound("sigmoid", 4 * np.eye(3)).largest)
    1.0
    """
    slope = facts_of(activation).largest_slope
    return StepBound(
        slope * jnp.linalg.norm(jnp.asarray(kernel), 2),
        slope * jnp.asarray(np.max(np.abs(np.linalg.eigvals(np.asarray(kernel))))),
    )


@_arguments.checked
def gate_gain(steps: Scalar, bias: Scalar = 1.0, sigma: Scalar = 0.0) -> Float[Array, ""]:
    """A lower bound on the gradient that is left in a gated cell after some steps: E[gate]^steps.

    It is the mean along the gates that keep the state. A norm falls more slowly, by E[gate^2]^(1/2)
    a step along these gates and by less with the ways through the hidden state: the cells of Flax
    and Keras keep 11 and 4 decades more of 100 steps. `lstm_gain` and `gru_gain` predict the norm.

    The gate is the forget gate of an LSTM, or 1 - update of a GRU (then take the update bias with
    the other sign): sigmoid(bias + sigma z), drawn anew at each step.

    Args:
      steps: of time.
      bias: of the gate.
      sigma: standard deviation of the rest of its pre-activation.

    Reference: Gers, Schmidhuber & Cummins, Learning to forget, 2000; Jozefowicz et al., An
    empirical exploration of recurrent network architectures, ICML 2015, for a bias of 1.

    >>> print(f"{gate_gain(100, bias=1.0):.0e} {gate_gain(100, bias=5.0):.2f}")
    2e-14 0.51
    """
    bend = -jnp.asarray(bias, float) / jnp.maximum(sigma, 1e-9)  # where the gate turns
    rule = nodes([jnp.minimum(bend, 0.0), jnp.maximum(bend, 0.0)])
    return jnp.sum(rule.weight * jax.nn.sigmoid(bias + sigma * rule.z)) ** steps


@_arguments.checked
def chrono_gain(steps: Scalar, longest: Scalar) -> Float[Array, ""]:
    """The same bound with chrono initialisation: the mean over units of gate^steps.

    Forget biases are log(u), u ~ U(1, longest - 1), so that a unit's gate is u / (1 + u) and its
    memory 1 + u steps: the fraction falls like a power of time up to `longest`, where that of
    equal gates falls exponentially.

    Args:
      steps: of time.
      longest: T_max, the longest dependency to be learnt, over 2.

    Raises:
      ValueError: `longest` is 2 or less.

    Reference: Tallec & Ollivier, Can recurrent neural networks warp time?, ICLR 2018, sec. 2.

    >>> print(f"{chrono_gain(100, 1000):.2f} {chrono_gain(0, 1000):.2f}")
    0.72 1.00
    """
    _arguments.over("longest", longest, 2)
    x, weight = np.polynomial.legendre.leggauss(256)
    u = 1 + (longest - 2) * (x + 1) / 2
    return jnp.sum(weight / 2 * jnp.exp(-steps * jnp.log1p(1 / u)))
