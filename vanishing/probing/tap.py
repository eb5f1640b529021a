"""The tap: an identity that lets a summary of the cotangent out of the backward pass."""

import functools
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from vanishing.probing.summary import BackwardSummary, backward

SLOT_SIZE = len(BackwardSummary._fields)


@functools.cache
def watch(wanted: Collection[str]) -> Callable:
    """A function of a signal and a slot that returns the signal, unchanged.

    The "gradient" of the slot, zeros of length `SLOT_SIZE`, is no derivative but whatever the
    backward rule hands out: here `summary.backward` of the signal's cotangent. The trick is that of
    Flax's `Module.perturb` (gradients of intermediate values) and of the ghost norms of PaxML's
    private training (a statistic in place of a gradient), joined.

    JAX 0.12 can let values out by itself (`jax.custom_vjp.defvjp_with_logs`). The tests run the two
    against each other; the slot stays, because it works on every supported JAX, leaves nan for the
    branch of a `cond` that did not run, and computes and stores the same.

    Args:
      wanted: names of the entries of `BackwardSummary` to compute, hashable.
    """

    @jax.custom_vjp
    def identity(x, slot):
        del slot  # an input for the sake of its gradient
        return x

    def forward_rule(x, slot):
        return x, slot

    def backward_rule(slot, cotangent):
        array = jnp.asarray(cotangent)  # the next backward rule may have returned a plain number
        return cotangent, jnp.stack(backward(array, wanted)).astype(slot.dtype)

    identity.defvjp(forward_rule, backward_rule)
    return identity
