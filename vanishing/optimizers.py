"""Optimisers by name, with a learning-rate schedule and a way of clipping the gradient."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._numerics import norm
from vanishing.layers import depth_axes

Scalar = float | int | Float[Array, ""]  # a traced scalar runs under `vmap`
LearningRate = Scalar | Callable
Transformation = optax.GradientTransformation  # an optimiser, or a part of one

# The optimisers by name.
OPTIMIZERS: dict[str, Callable[[LearningRate, float, float], Transformation]] = {
    # name: (learning_rate, momentum, weight_decay) -> optimiser
    "gradient_descent": lambda rate, m, wd: optax.sgd(rate),  # the batch is then the whole data set
    "sgd": lambda rate, m, wd: optax.sgd(rate),
    "momentum": lambda rate, m, wd: optax.sgd(rate, momentum=m),
    "nesterov": lambda rate, m, wd: optax.sgd(rate, momentum=m, nesterov=True),
    "adagrad": lambda rate, m, wd: optax.adagrad(rate),
    "rmsprop": lambda rate, m, wd: optax.rmsprop(rate),
    "adam": lambda rate, m, wd: optax.adam(rate),
    "adamw": lambda rate, m, wd: optax.adamw(rate, weight_decay=wd),
    "lion": lambda rate, m, wd: optax.lion(rate, weight_decay=wd),
}
# How a learning rate may change over a run.
SCHEDULES = ("constant", "cosine", "warmup", "warmup_cosine")
# The ways of bounding a gradient.
CLIPPINGS = ("none", "value", "global_norm", "layer_norm", "adaptive", "normalize")


@_arguments.checked
def by_name(
    name: str,
    learning_rate: Scalar,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: str = "constant",
    steps: int = 1,
    warmup_steps: int = 0,
    clipping: str = "none",
    clip_threshold: Scalar = 1.0,
) -> Transformation:
    """The optimiser of a training run: clip the gradient, then step.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: the schedule's peak; may be traced, so that a grid of them runs under `vmap`.
      momentum: share of the last update that is kept; read by "momentum" and "nesterov".
      weight_decay: of the decoupled kind; read by "adamw" and "lion".
      schedule: one of `SCHEDULES`: constant; cosine down to 0 at the last step; a linear rise from
        0 over `warmup_steps`, followed by either.
      steps: length of the run, which the cosine needs.
      warmup_steps: length of the rise; the "warmup" schedules need at least 1.
      clipping: one of `CLIPPINGS`; see `clip`.
      clip_threshold: what `clip` compares with.

    Raises:
      ValueError: an unknown name, or a schedule that does not fit in `steps`.

    >>> optimizer = by_name("momentum", 0.1, clipping="global_norm")
    >>> state = optimizer.init({"kernel": jnp.ones(2)})
    >>> updates, state = optimizer.update({"kernel": jnp.array([3.0, 4.0])}, state)
    >>> print(f"{jnp.linalg.norm(updates['kernel']):.3f}")  # norm 5 clipped to 1, times 0.1
    0.100
    """
    _arguments.one_of("optimizer", name, OPTIMIZERS)
    rate = _schedule(schedule, learning_rate, steps, warmup_steps)
    return optax.chain(
        clip(clipping, clip_threshold), OPTIMIZERS[name](rate, momentum, weight_decay)
    )


@_arguments.checked
def clip(clipping: str, threshold: Scalar) -> Transformation:
    """A limit on the gradient before the optimiser sees it.

    Norms are L2 and survive gradients whose squares overflow or underflow. A layer here is one
    parameter array; the arrays of a `repeat` count once for every step of it.

    Args:
      clipping: "none"; "value" (each element to [-threshold, threshold]); "global_norm" (the whole
        gradient to that norm); "layer_norm" (each layer's gradient to that norm); "adaptive" (each
        unit's gradient to that multiple of the norm of the unit's weights); "normalize" (the whole
        gradient to exactly that norm, also when it is smaller).
      threshold: over 0.

    Raises:
      ValueError: an unknown name.

    Reference: Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013,
    algorithm 1 (global_norm); Brock et al., High-performance large-scale image recognition without
    normalization, ICML 2021, eq. 3 (adaptive); Hazan et al., Beyond convexity: stochastic
    quasi-convex optimization, NeurIPS 2015, algorithm 1 (normalize).
    """
    _arguments.one_of("clipping", clipping, CLIPPINGS)
    return {
        "none": optax.identity,
        "value": lambda: optax.clip(threshold),
        "global_norm": lambda: optax.stateless(lambda g, _: _to_norm(g, threshold)),
        "layer_norm": lambda: _per_layer(lambda g, _: _to_norm(g, threshold)),
        "adaptive": lambda: _per_layer(lambda g, w: _adaptive(g, w, threshold)),
        "normalize": lambda: optax.stateless(lambda g, _: _to_norm(g, threshold, exactly=True)),
    }[clipping]()


def _to_norm(tree, threshold: Scalar, exactly: bool = False):
    size = norm(jnp.stack([norm(leaf) for leaf in jax.tree.leaves(tree)]))
    divisor = jnp.where(size > 0, size, 1.0)  # a zero gradient stays zero
    change = jnp.logical_or(exactly, size > threshold)
    # Divided before it is multiplied: threshold / size would underflow for a huge gradient.
    return jax.tree.map(
        lambda g: jnp.where(change, g / divisor * threshold, g).astype(g.dtype), tree
    )


def _adaptive(gradient, weights, threshold: Scalar, least_norm: float = 1e-3):
    vector = gradient.ndim < 2  # a bias is one unit; of a kernel, the last axis counts them
    inputs = tuple(range(gradient.ndim if vector else gradient.ndim - 1))
    allowed, size = (
        jnp.broadcast_to(unit_norm, gradient.shape)
        for unit_norm in (
            threshold * jnp.maximum(norm(weights, inputs), least_norm),
            norm(gradient, inputs),
        )
    )
    clipped = gradient / jnp.where(size > 0, size, 1.0) * allowed
    return jnp.where(size > allowed, clipped, gradient).astype(gradient.dtype)


def _per_layer(function: Callable) -> Transformation:
    """A stateless transformation of each array by itself, and of each depth of a stacked one."""

    def transform(path, gradient, weights):
        over_depth = functools.reduce(lambda f, _: jax.vmap(f), range(depth_axes(path)), function)
        return over_depth(gradient, weights)

    return optax.stateless(
        lambda grads, params: jax.tree_util.tree_map_with_path(transform, grads, params)
    )


def _schedule(name: str, peak: Scalar, steps: int, warmup_steps: int) -> LearningRate:
    _arguments.one_of("schedule", name, SCHEDULES)
    if name.startswith("warmup") and not 1 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}; the schedule {name!r} takes 1 to steps - 1 "
            f"({steps - 1})."
        )
    after = steps - warmup_steps if name.startswith("warmup") else steps
    main = {
        "constant": peak,  # a plain number, as the optimisers of optax take it too
        "cosine": optax.schedules.cosine_decay_schedule(peak, after),
        "warmup": optax.schedules.constant_schedule(peak),
        "warmup_cosine": optax.schedules.cosine_decay_schedule(peak, after),
    }[name]
    if not name.startswith("warmup"):
        return main
    rise = optax.schedules.linear_schedule(0.0, peak, warmup_steps)
    return optax.schedules.join_schedules([rise, main], [warmup_steps])
