"""Residual connections: a branch beside a shortcut, and a gate between the two."""

import contextlib
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from vanishing._types import PyTree, Scalar
from vanishing.layers.base import Applied, Layer, Variables, output_spec
from vanishing.layers.base import propagate as layers_propagate
from vanishing.layers.combine import require_spec, rows_within, serial
from vanishing.meanfield import Gain, Signal
from vanishing.meanfield.signals import elementwise_gain, identity_gain, linear_gain, unknown


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
    skip = serial() if shortcut is None else shortcut
    scope = contextlib.nullcontext if shortcut is None else jax.named_scope

    def joined(of_branch, of_shortcut) -> PyTree:
        return of_branch if shortcut is None else {"branch": of_branch, "shortcut": of_shortcut}

    def apart(tree) -> tuple[PyTree, PyTree]:
        return (tree, ()) if shortcut is None else (tree["branch"], tree["shortcut"])

    def init(key, x):
        keys = (key, key) if shortcut is None else jax.random.split(key)
        own, skipped = branch.init(keys[0], x), skip.init(keys[1], x)
        what = "its input" if shortcut is None else "its shortcut"
        like = output_spec(skip, skipped, x)
        require_spec(like, f"residual adds {what} to its output", x, branch, own)
        return Variables(
            params=joined(own.params, skipped.params), state=joined(own.state, skipped.state)
        )

    def apply(params, state, x, key=None, train=False):
        keys = (key, key) if key is None or shortcut is None else jax.random.split(key)
        (own_params, skip_params), (own_state, skip_state) = apart(params), apart(state)
        with scope("shortcut"):
            kept, skip_state = skip.apply(skip_params, skip_state, x, keys[1], train)
        with scope("branch"):
            added, own_state = branch.apply(own_params, own_state, x, keys[0], train)
        output = _times(shortcut_scale, kept) + _times(branch_scale, added)
        return Applied(output, joined(own_state, skip_state))

    def propagate(signal):
        start = replace(signal.restarted(), fresh=False)

        def inside(name: str) -> Signal:
            return start if shortcut is None else replace(start, path=(*signal.path, name))

        kept = layers_propagate(skip, inside("shortcut"))
        added = layers_propagate(branch, inside("branch"))
        if not (kept.fresh or added.fresh):
            raise unknown(
                "a residual branch without weights of its own is correlated with its input; theory "
                "follows a branch with a dense or convolutional layer on every path.",
                signal,
            )
        # in units of the larger of the two, so that no depth is too deep
        unit = jnp.maximum(kept.log_q, added.log_q)
        some = jnp.where(jnp.isfinite(unit), unit, 0.0)
        a, b = (
            scale * jnp.exp((log_q - some) / 2)
            for scale, log_q in ((shortcut_scale, kept.log_q), (branch_scale, added.log_q))
        )
        keep, add = shortcut_scale**2, branch_scale**2
        skip_gain = linear_gain(signal, 1.0) if shortcut is None else kept.gain
        means = a * kept.relative_mean, b * added.relative_mean
        after = kept.scaled(
            q=a**2 + b**2 + 2 * means[0] * means[1],
            difference=a**2 * kept.share + b**2 * added.share,
            mean=means[0] + means[1],
            log_unit=some,
            gaussian=kept.gaussian and added.gaussian,
            fresh=signal.fresh or (kept.fresh and added.fresh),
            path=signal.path,
            has_parameters=False,
        )
        rows = [replace(row, gain=row.gain.times(keep)) for row in rows_within(start, kept)]
        rows += [replace(row, gain=row.gain.times(add)) for row in rows_within(start, added)]
        return replace(
            after,
            gain=signal.gain.after(skip_gain.times(keep).plus(added.gain.times(add))),
            rows=(*signal.rows, *rows, after.row(identity_gain(after.log_q))),
            subnetworks=_with_paths(signal, (skip, branch)),
        )

    return Layer(init, apply, propagate)


def _with_paths(signal: Signal, paths: tuple[Layer, ...]) -> Any:
    """The largest value of a subnetwork so far, with those that these paths are by themselves."""
    if signal.subnetworks is None:
        return None
    start, largest = signal.subnetworks
    for path in paths:
        alone = replace(signal.restarted(), log_q=jnp.zeros_like(start), share=start)
        end = layers_propagate(path, alone)
        largest = jnp.maximum(largest, jnp.maximum(end.share, end.subnetworks[1]))
    return (start, largest)


def _times(scale: Scalar, x: Any) -> Any:
    return x if isinstance(scale, float) and scale == 1.0 else scale * x


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
    parts = {"branch": branch, "gate": gate} | ({"shortcut": shortcut} if shortcut else {})

    def init(key, x):
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        drawn = {name: part.init(keys[name], x) for name, part in parts.items()}
        like = output_spec(shortcut, drawn["shortcut"], x) if shortcut else x
        for name in ("branch", "gate"):
            require_spec(
                like, f"highway mixes a {name} with {_of(shortcut)}", x, parts[name], drawn[name]
            )
        return Variables(
            params={name: own.params for name, own in drawn.items()},
            state={name: own.state for name, own in drawn.items()},
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

    def propagate(signal: Signal) -> Signal:
        start = replace(signal.restarted(), fresh=False)
        after = {
            name: layers_propagate(part, replace(start, path=(*signal.path, name)))
            for name, part in parts.items()
        }
        new, t, old = after["branch"], after["gate"], after.get("shortcut", start)
        if not (new.fresh and t.fresh) or signal.subnetworks is not None:
            raise unknown(
                "theory follows a highway whose branch and gate have weights of their own, and "
                "tailors no activation in it.",
                signal,
            )
        shut_square = 1 - 2 * t.mean + t.q  # E[(1 - T)^2], and of two inputs
        shut_product = 1 - 2 * t.mean + t.covariance
        apart_square = new.q + old.q - 2 * new.mean * old.mean  # E[(H - x)^2]
        apart_product = new.covariance + old.covariance - 2 * new.mean * old.mean
        gains = {
            "branch": _independent_gain(t.q, t.covariance, new),
            "gate": _independent_gain(apart_square, apart_product, t),
            "shortcut": _independent_gain(shut_square, shut_product, old),
        }
        total = (old.gain if shortcut else identity_gain(signal.log_q)).after(gains["shortcut"])
        for name in ("branch", "gate"):
            total = total.plus(after[name].gain.after(gains[name]))
        mixed = signal.then(
            q=t.q * new.q + shut_square * old.q + 2 * (t.mean - t.q) * new.mean * old.mean,
            difference=t.q * new.difference
            + shut_square * old.difference
            + t.difference * (new.covariance + old.covariance - 2 * new.mean * old.mean),
            mean=t.mean * new.mean + (1 - t.mean) * old.mean,
            shape=new.shape,
            gaussian=False,
            fresh=signal.fresh or old.fresh,
            has_parameters=False,
        )
        rows = [
            replace(row, gain=row.gain.after(gains[name]))
            for name in parts
            for row in rows_within(start, after[name])
        ]
        return replace(
            mixed,
            gain=signal.gain.after(total),
            rows=(*signal.rows, *rows, mixed.row(identity_gain(mixed.log_q))),
        )

    return Layer(init, apply, propagate)


def _of(shortcut: Layer | None) -> str:
    return "its shortcut" if shortcut else "its input"


def _independent_gain(square: Scalar, product: Scalar, before: Signal) -> Gain:
    """The gain of a product with numbers that know nothing of the signal that they multiply."""
    return elementwise_gain(square, product, square, product * before.correlation)
