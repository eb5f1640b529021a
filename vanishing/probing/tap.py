"""Taps: identities that let something of the cotangent out of the backward pass.

The "gradient" of a slot, a second input that is always zero, is no derivative but whatever the
backward rule hands out. The trick is that of Flax's `Module.perturb` (gradients of intermediate
values) and of the ghost norms of PaxML's private training (a statistic in place of a gradient),
joined.

JAX 0.12 can let values out by itself (`jax.custom_vjp.defvjp_with_logs`). The tests run the two
against each other; the slot stays, because it works on every supported JAX, tells which branch of a
`cond` ran, and computes and stores the same.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._numerics import whole
from vanishing.probing import summary


@functools.cache
def let_out(dtype: np.dtype) -> Callable:
    """A function of a signal of this dtype and a slot of its shape that returns the signal.

    The slot's gradient is the signal's cotangent, for a summary of many signals at once.
    """

    @jax.custom_vjp
    def identity(x, slot):
        del slot  # an input for the sake of its gradient
        return x

    def backward_rule(_, cotangent):
        is_array = isinstance(cotangent, jax.Array)  # a rule may return a number of Python
        return cotangent, whole(cotangent if is_array else jnp.asarray(cotangent, dtype))

    identity.defvjp(lambda x, slot: (x, None), backward_rule)
    return identity


@functools.cache
def watch(measures: tuple[str, ...], measured: tuple[str, ...]) -> Callable:
    """A function of a signal and a slot that returns the signal, unchanged.

    The gradient of the slot, zeros of the length of `measures`, are these measures of the signal's
    cotangent, computed where the signal is: inside of a loop or a branch.

    Args:
      measures: names, see `summary.measures_of`.
      measured: those of them that the signal has; the others are marked as unmeasured.
    """

    @jax.custom_vjp
    def identity(x, slot):
        del slot
        return x

    def backward_rule(slot, cotangent):
        if not measures:
            return cotangent, slot
        values = summary.measure(whole(jnp.asarray(cotangent))[None], measured)
        return cotangent, jnp.concatenate(summary.complete(values, measures, 1, slot.dtype))

    identity.defvjp(lambda x, slot: (x, slot), backward_rule)
    return identity
