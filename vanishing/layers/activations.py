"""Activations: nonlinearities, what is known of their slopes, and the layer that applies one."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vanishing import _arguments
from vanishing._types import Elementwise
from vanishing.initializers import Weights, by_name
from vanishing.layers.base import Applied, Layer, Propagate, Variables, stateless
from vanishing.meanfield import GetMoments, Signal, by_quadrature, moments
from vanishing.meanfield.signals import elementwise_gain, unknown


class Activation(NamedTuple):
    """A nonlinearity and the effect of its slope on a gradient that passes through it."""

    function: Elementwise
    largest_slope: float  # max |f'(x)|: the most that one pass can multiply a gradient by
    saturation: tuple[float, float]  # outside this interval |f'| stays under 1 % of its largest
    initializer: str  # the initialiser derived for it, a name of `vanishing.initializers`
    source: str
    kinks: tuple[float, ...] = ()  # where it or its slope jumps, other than at 0
    closed_form: GetMoments | None = None  # of its Gaussian moments, where one is known

    @property
    def weights(self) -> Weights:
        """The initialisers derived for it, of kernels and biases."""
        return by_name(self.initializer)

    @property
    def moments(self) -> GetMoments:
        """Its Gaussian moments as a function of (q, difference)."""
        return self.closed_form or by_quadrature(self.function, self.kinks)


Nonlinearity = str | Elementwise | Activation  # a name of `ACTIVATIONS`, or a nonlinearity itself

_NEVER = math.inf
_PRELU_SLOPE = 0.25  # where He et al. start the learnt slope

# The activations by name, with what is known of their slopes.
ACTIVATIONS = {
    "identity": Activation(
        jax.nn.identity,
        1.0,
        (-_NEVER, _NEVER),
        "lecun_normal",
        "the linear network",
        closed_form=moments.Leaky(1.0),
    ),
    "sigmoid": Activation(
        jax.nn.sigmoid, 0.25, (-5.9864, 5.9864), "glorot_normal", "Rumelhart et al. 1986"
    ),
    "tanh": Activation(jnp.tanh, 1.0, (-2.9932, 2.9932), "glorot_normal", "LeCun et al. 1998"),
    "relu": Activation(
        jax.nn.relu,
        1.0,
        (0.0, _NEVER),
        "he_normal",
        "Nair & Hinton 2010",
        closed_form=moments.Leaky(0.0),
    ),
    "leaky_relu": Activation(
        jax.nn.leaky_relu,
        1.0,
        (-_NEVER, _NEVER),
        "he_normal",
        "Maas et al. 2013, slope 0.01",
        closed_form=moments.Leaky(0.01),
    ),
    "prelu": Activation(
        lambda x: jax.nn.leaky_relu(x, _PRELU_SLOPE),
        1.0,
        (-_NEVER, _NEVER),
        "he_normal",
        "He et al. 2015; facts for the slope that training starts at",
        closed_form=moments.Leaky(_PRELU_SLOPE),
    ),
    "elu": Activation(jax.nn.elu, 1.0, (-4.6052, _NEVER), "he_normal", "Clevert et al. 2016"),
    "selu": Activation(
        jax.nn.selu, 1.75810, (-4.6052, _NEVER), "lecun_normal", "Klambauer et al. 2017"
    ),
    "gelu": Activation(
        jax.nn.gelu,
        1.12899,
        (-3.0093, _NEVER),
        "he_normal",
        "Hendrycks & Gimpel 2016, tanh form",
    ),
    "silu": Activation(jax.nn.silu, 1.09984, (-6.1429, _NEVER), "he_normal", "Elfwing et al. 2018"),
    "swish": Activation(
        jax.nn.silu, 1.09984, (-6.1429, _NEVER), "he_normal", "Ramachandran et al. 2017: silu"
    ),
    "softplus": Activation(
        jax.nn.softplus, 1.0, (-4.5951, _NEVER), "he_normal", "Dugas et al. 2001"
    ),
    "softsign": Activation(
        jax.nn.soft_sign, 1.0, (-9.0, 9.0), "glorot_normal", "Bergstra et al. 2009"
    ),
    "hard_tanh": Activation(
        jax.nn.hard_tanh, 1.0, (-1.0, 1.0), "glorot_normal", "Collobert 2004", kinks=(-1.0, 1.0)
    ),
    "hard_sigmoid": Activation(
        jax.nn.hard_sigmoid,
        1 / 6,
        (-3.0, 3.0),
        "glorot_normal",
        "Howard et al. 2019: relu6",
        kinks=(-3.0, 3.0),
    ),
    "mish": Activation(jax.nn.mish, 1.08850, (-6.1587, _NEVER), "he_normal", "Misra 2020"),
    "sine": Activation(
        jnp.sin,
        1.0,
        (-_NEVER, _NEVER),
        "lecun_normal",
        "Sitzmann et al. 2020",
        closed_form=moments.sine,
    ),
    "erf": Activation(
        jax.scipy.special.erf,
        2 / math.sqrt(math.pi),
        (-2.1460, 2.1460),
        "lecun_normal",
        "Williams 1997",
        closed_form=moments.erf,
    ),
}


@_arguments.checked
def activation(function: Nonlinearity, kinks: tuple[float, ...] = ()) -> Layer:
    """A nonlinearity, element by element.

    Args:
      function: a name of `ACTIVATIONS`, any elementwise function, or an `Activation`. All are free
        of parameters but "prelu", whose slope for negative inputs is learnt (`negative_slope`, a
        scalar).
      kinks: of a function of your own, where it or its slope jumps, other than at 0. Theory relies
        on it, and on a function that turns over lengths of about 1.

    Returns:
      A layer whose output has the shape of its input.

    Raises:
      ValueError: the name is unknown.

    >>> layer = activation("relu")
    >>> params, state = layer.init(jax.random.key(0), jnp.ones(3))
    >>> layer.apply(params, state, jnp.array([-1.0, 0.0, 2.0])).output
    Array([0., 0., 2.], dtype=float32)
    """
    facts = facts_of(function)
    if kinks:
        facts = facts._replace(kinks=kinks, closed_form=None)
    if facts is ACTIVATIONS["prelu"]:
        return _prelu()
    if facts is ACTIVATIONS["identity"]:
        return stateless(facts.function, lambda signal: signal)
    return stateless(facts.function, _propagate(facts.moments, facts.function))


@_arguments.checked
def facts_of(function: Nonlinearity) -> Activation:
    """The facts known of a nonlinearity; nan for a function that is not among `ACTIVATIONS`.

    Raises:
      ValueError: the name is unknown.
    """
    if isinstance(function, Activation):
        return function
    if isinstance(function, str):
        _arguments.one_of("activation", function, ACTIVATIONS, ", or a function")
        return ACTIVATIONS[function]
    for facts in ACTIVATIONS.values():
        if facts.function is function:
            return facts
    return Activation(function, math.nan, (-math.nan, math.nan), "lecun_normal", "a function")


def _propagate(get_moments: GetMoments, op: str | Callable) -> Propagate:
    def propagate(signal: Signal) -> Signal:
        if not signal.gaussian:
            raise unknown(
                "the activation meets a signal that is not normal; theory follows one behind a "
                "dense or convolutional layer, or a norm of such.",
                signal,
            )
        # a function that scales with its input is evaluated in units of the signal
        scales = isinstance(get_moments, moments.Leaky)
        q = jnp.ones_like(signal.log_q) if scales else signal.q
        m = get_moments(q, q * signal.decorrelation)
        spread = jnp.where(m.slope_square > 0, m.slope_fourth / m.slope_square**2 - 1, 0.0)
        safe_q = jnp.where(q > 0, q, 1.0)
        return (signal.scaled if scales else signal.then)(
            q=m.square,
            difference=m.difference,
            mean=m.mean,
            gain=elementwise_gain(
                m.slope_square,
                m.slope_product,
                m.weighted_square / safe_q,
                m.weighted_product / safe_q,
                log_variance=3 * spread / signal.shape[-1],
            ),
            gaussian=False,
            has_parameters=False,  # a probe names it by its operation, even with a slope to learn
            op=op,
        )

    return propagate


def _prelu() -> Layer:
    def init(key, x):
        del key  # every slope starts from the same value
        return Variables(params={"negative_slope": jnp.full((), _PRELU_SLOPE, x.dtype)}, state={})

    def apply(params, state, x, key=None, train=False):
        del key, train  # deterministic, and the same in training
        return Applied(jnp.where(x > 0, x, params["negative_slope"] * x), state)

    return Layer(init, apply, _propagate(moments.Leaky(_PRELU_SLOPE), "prelu"))
