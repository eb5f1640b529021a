"""Residual connections: a branch beside a shortcut, and a gate between the two."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from vanishing import _arguments
from vanishing._types import PyTree, Scalar
from vanishing.layers.base import (
    Applied,
    Gated,
    Layer,
    Sum,
    Variables,
    output_spec,
    require_layer,
)
from vanishing.layers.base import propagate as layers_propagate
from vanishing.layers.combine import require_spec, rows_within, serial
from vanishing.meanfield import Gain, PredictedRow, Signal
from vanishing.meanfield.signals import elementwise_gain, identity_gain, linear_gain, unknown


@_arguments.checked
def residual(
    branch: Layer,
    *,
    shortcut: Layer | None = None,
    shortcut_scale: Scalar = 1.0,
    branch_scale: Scalar = 1.0,
) -> Layer:
    """A branch beside a skip connection: `shortcut_scale * x + branch_scale * branch(x)`.

    Parameters and state are the branch's own; with a shortcut of its own, a dict of `branch` and
    `shortcut`.

    Theory follows it where the branch holds a dense or convolutional layer on every path (or the
    shortcut does), whose fresh weights make the two uncorrelated but for their means.

    Args:
      branch: a layer whose output has the shape of its input, or of the shortcut's output.
      shortcut: a layer in place of the bare input, such as a projection to another width.
      shortcut_scale: factor of the shortcut.
      branch_scale: factor of the branch.

    Raises:
      ValueError: the branch and the shortcut map an input to outputs of different shapes.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, eq. 1 and 2; Yang
    & Schoenholz, Mean field residual networks, NeurIPS 2017, for the signal and its gradient.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import dense
    >>> block = residual(dense(4))
    >>> params, state = block.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> block.apply(params, state, jnp.ones((8, 4))).output.shape
    (8, 4)
    """
    _require_layers(branch=branch, shortcut=shortcut)
    paths = _Paths(shortcut, branch, shortcut_scale, branch_scale)
    skip, with_names = paths.skip, shortcut is not None
    scope = jax.named_scope if with_names else contextlib.nullcontext

    def join(of_branch, of_shortcut) -> PyTree:
        return {"branch": of_branch, "shortcut": of_shortcut} if with_names else of_branch

    def split(tree) -> tuple[PyTree, PyTree]:
        return (tree["branch"], tree["shortcut"]) if with_names else (tree, ())

    def init(key, x):
        keys = jax.random.split(key) if with_names else (key, key)
        own, skipped = branch.init(keys[0], x), skip.init(keys[1], x)
        like = output_spec(skip, skipped, x)
        require_spec(like, f"residual adds {_name(shortcut)} to its output", x, branch, own)
        return Variables(
            params=join(own.params, skipped.params), state=join(own.state, skipped.state)
        )

    def apply(params, state, x, key=None, train=False):
        keys = (key, key) if key is None or not with_names else jax.random.split(key)
        (own_params, skip_params), (own_state, skip_state) = split(params), split(state)
        with scope("shortcut"):
            skip_output, skip_state = skip.apply(skip_params, skip_state, x, keys[1], train)
        with scope("branch"):
            branch_output, own_state = branch.apply(own_params, own_state, x, keys[0], train)
        output = _times(shortcut_scale, skip_output) + _times(branch_scale, branch_output)
        return Applied(output, join(own_state, skip_state))

    propagate = functools.partial(_propagate_sum, paths)
    return Layer(init, apply, propagate, Sum((skip, branch)))


@dataclasses.dataclass(frozen=True)
class _Paths:
    """The two paths of a residual sum and their factors."""

    shortcut: Layer | None
    branch: Layer
    shortcut_scale: Scalar
    branch_scale: Scalar

    @property
    def skip(self) -> Layer:
        """The shortcut, or the identity where there is none."""
        return serial() if self.shortcut is None else self.shortcut


def _propagate_sum(paths: _Paths, signal: Signal) -> Signal:
    """The signal after a residual sum; see `residual`."""
    with_names = paths.shortcut is not None
    start = _entering(signal)
    skip_end = layers_propagate(paths.skip, start.inside("shortcut") if with_names else start)
    branch_end = layers_propagate(paths.branch, start.inside("branch") if with_names else start)
    if not (skip_end.walk.fresh or branch_end.walk.fresh):
        raise unknown(
            "a residual branch without weights of its own is correlated with its input; theory "
            "follows a branch with a dense or convolutional layer on every path.",
            signal,
        )
    # in units of the larger of the two, so that no depth is too deep
    unit = jnp.maximum(skip_end.log_q, branch_end.log_q)
    unit = jnp.where(jnp.isfinite(unit), unit, 0.0)
    a, b = (
        scale * jnp.exp((log_q - unit) / 2)
        for scale, log_q in (
            (paths.shortcut_scale, skip_end.log_q),
            (paths.branch_scale, branch_end.log_q),
        )
    )
    keep, add = paths.shortcut_scale**2, paths.branch_scale**2
    skip_gain = skip_end.gain if with_names else linear_gain(signal, 1.0)
    means = a * skip_end.relative_mean, b * branch_end.relative_mean
    after = skip_end.scaled(
        q=a**2 + b**2 + 2 * means[0] * means[1],
        difference=a**2 * skip_end.decorrelation + b**2 * branch_end.decorrelation,
        mean=means[0] + means[1],
        gain=None,  # of all paths, below
        log_unit=unit,
        gaussian=skip_end.gaussian and branch_end.gaussian,
        fresh=signal.walk.fresh or (skip_end.walk.fresh and branch_end.walk.fresh),
        has_parameters=False,
        op="add",
    )
    rows = [replace(row, gain=row.gain.times(keep)) for row in rows_within(start, skip_end)]
    rows += [replace(row, gain=row.gain.times(add)) for row in rows_within(start, branch_end)]
    return _leaving(signal, after, skip_gain.times(keep).plus(branch_end.gain.times(add)), rows)


def _entering(signal: Signal) -> Signal:
    """The signal as it enters the paths of a sum, which have yet to draw weights."""
    start = signal.restarted()
    return replace(start, walk=replace(start.walk, fresh=False))


def _leaving(before: Signal, after: Signal, gain: Gain, rows: Sequence[PredictedRow]) -> Signal:
    """The signal after a sum, with the rows of its paths and one of its own.

    Args:
      before: the signal before the sum.
      after: the moments after it.
      gain: of the whole sum.
      rows: of its paths.
    """
    after = replace(after, walk=replace(after.walk, path=before.walk.path))
    own_row = after.row(identity_gain(after.log_q))
    walk = replace(after.walk, rows=(*before.walk.rows, *rows, own_row))
    return replace(after, gain=before.gain.after(gain), walk=walk)


def _require_layers(**parts: Any) -> None:
    """Refuse parts that are no layers; None is a part that is not there."""
    for name, part in parts.items():
        if part is not None or name != "shortcut":
            require_layer(name, part)


def _times(scale: Scalar, x: Any) -> Any:
    return x if isinstance(scale, float) and scale == 1.0 else scale * x


@_arguments.checked
def highway(branch: Layer, gate: Layer, *, shortcut: Layer | None = None) -> Layer:
    """A gate between a branch and the input: `gate(x) * branch(x) + (1 - gate(x)) * x`.

    Parameters and state are dicts of `branch` and `gate`, and of `shortcut` if there is one.

    Theory follows it where branch and gate hold dense or convolutional layers of their own on every
    path, and the gate ends in a sigmoid.

    Args:
      branch: a layer whose output has the shape of its input, or of the shortcut's output.
      gate: a layer with outputs of that shape in (0, 1), such as a dense layer and a sigmoid; a
        negative bias in it lets the input through at the start of training.
      shortcut: a layer in place of the bare input, such as a projection to another width.

    Raises:
      ValueError: branch, gate and shortcut map an input to outputs of different shapes.

    Reference: Srivastava, Greff & Schmidhuber, Training very deep networks, NeurIPS 2015, eq. 3.

    >>> from vanishing.layers import activation, dense
    >>> half_open = serial(dense(4, jax.nn.initializers.zeros), activation("sigmoid"))
    >>> block = highway(dense(4, jax.nn.initializers.zeros), half_open)
    >>> params, state = block.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> print(block.apply(params, state, jnp.ones((1, 4))).output)
    [[0.5 0.5 0.5 0.5]]
    """
    _require_layers(branch=branch, gate=gate, shortcut=shortcut)
    parts = {"branch": branch, "gate": gate} | ({"shortcut": shortcut} if shortcut else {})

    def init(key, x):
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        variables = {name: part.init(keys[name], x) for name, part in parts.items()}
        like = output_spec(shortcut, variables["shortcut"], x) if shortcut else x
        for name in ("branch", "gate"):
            require_spec(
                like,
                f"highway mixes a {name} with {_name(shortcut)}",
                x,
                parts[name],
                variables[name],
            )
        return Variables(
            params={name: own.params for name, own in variables.items()},
            state={name: own.state for name, own in variables.items()},
        )

    def apply(params, state, x, key=None, train=False):
        keys = [None] * len(parts) if key is None else jax.random.split(key, len(parts))
        outputs, new_state = {"shortcut": x}, {}
        for (name, part), own_key in zip(parts.items(), keys, strict=True):
            with jax.named_scope(name):
                outputs[name], new_state[name] = part.apply(
                    params[name], state[name], x, own_key, train
                )
        opened = outputs["gate"]
        mixed = opened * outputs["branch"] + (1 - opened) * outputs["shortcut"]
        return Applied(mixed, new_state)

    propagate = functools.partial(_propagate_gated, parts)
    return Layer(init, apply, propagate, Gated((branch, shortcut or serial()), gate))


def _propagate_gated(parts: Mapping[str, Layer], signal: Signal) -> Signal:
    """The signal after a highway's `branch`, `gate` and, if there is one, `shortcut`.

    With H, T and x the outputs of the three, independent of each other but for their means:
    E[y^2] = E[T^2] E[H^2] + E[(1 - T)^2] E[x^2] + 2 E[T (1 - T)] E[H] E[x], and likewise for the
    product of two inputs.
    """
    start = _entering(signal)
    after = {name: layers_propagate(part, start.inside(name)) for name, part in parts.items()}
    h, t, x = after["branch"], after["gate"], after.get("shortcut", start)
    if not (h.walk.fresh and t.walk.fresh):
        raise unknown(
            "theory follows a highway whose branch and gate have weights of their own.", signal
        )
    shut_square = 1 - 2 * t.mean + t.q  # E[(1 - T)^2], and of two inputs
    shut_product = 1 - 2 * t.mean + t.covariance
    gap_square = h.q + x.q - 2 * h.mean * x.mean  # E[(H - x)^2], and of two inputs
    gap_product = h.covariance + x.covariance - 2 * h.mean * x.mean
    gains = {
        "branch": _independent_gain(t.q, t.covariance, h),
        "gate": _independent_gain(gap_square, gap_product, t),
        "shortcut": _independent_gain(shut_square, shut_product, x),
    }
    skip_gain = x.gain if "shortcut" in parts else identity_gain(signal.log_q)
    total = skip_gain.after(gains["shortcut"])
    for name in ("branch", "gate"):
        total = total.plus(after[name].gain.after(gains[name]))
    mixed = signal.then(
        q=t.q * h.q + shut_square * x.q + 2 * (t.mean - t.q) * h.mean * x.mean,
        difference=t.q * h.difference
        + shut_square * x.difference
        + t.difference * (h.covariance + x.covariance - 2 * h.mean * x.mean),
        mean=t.mean * h.mean + (1 - t.mean) * x.mean,
        gain=None,  # of all parts, below
        shape=h.shape,
        gaussian=False,
        fresh=signal.walk.fresh or x.walk.fresh,
        has_parameters=False,
        op="add",
    )
    rows = [
        replace(row, gain=row.gain.after(gains[name]))
        for name in parts
        for row in rows_within(start, after[name])
    ]
    return _leaving(signal, mixed, total, rows)


def _name(shortcut: Layer | None) -> str:
    return "its shortcut" if shortcut else "its input"


def _independent_gain(square: Scalar, product: Scalar, before: Signal) -> Gain:
    """The gain of a product with numbers that are independent of the signal before it."""
    return elementwise_gain(square, product, square, product * before.correlation)
