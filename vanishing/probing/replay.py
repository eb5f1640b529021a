"""Runs a program again, with a function applied to chosen values."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vanishing.probing import equations
from vanishing.probing.jaxpr import Atom, Frame, Literal, Local, Node, ValueId, run

Tap = Callable[[ValueId, jax.Array, Any, Any], tuple[jax.Array, Any]]


class Callbacks(NamedTuple):
    """What to do at which values of a program.

    `tap(number, value, slot, local)` returns the value to go on with, and an array or tree of what
    was measured; `local` is None or `(function, root)` with `value == function(root)`.
    """

    tap: Tap
    locals: Mapping[ValueId, Local]
    absent: float = math.nan  # what stands for the numbers of a branch that is not taken


def replay(
    frame: Frame, args: Sequence[Any], callbacks: Callbacks, slots: Mapping[ValueId, Any]
) -> tuple[list[Any], dict[ValueId, Any]]:
    """Run a frame, tapping every value that has a slot.

    Args:
      frame: what to run, on `args`.
      callbacks: what to do at the values that have a slot.
      slots: a tree for each value to tap, by the value's number; for a value inside scans, with the
        scans' lengths as leading axes.

    Returns:
      The frame's outputs, and what the callbacks measured, by number, with the same leading axes;
      of a branch that was not taken it is `callbacks.absent`.
    """
    env = dict(zip(frame.inputs, args, strict=True)) | dict(frame.constants)
    measured: dict[ValueId, Any] = {}

    def tap(numbers: Sequence[ValueId]) -> None:
        for number in numbers:
            if number in slots:
                local = _local(callbacks.locals.get(number), env)
                env[number], measured[number] = callbacks.tap(
                    number, env[number], slots[number], local
                )

    def value(atom: Atom):
        return atom.value if isinstance(atom, Literal) else env[atom]

    tap(frame.inputs)
    for node in frame.nodes:
        inputs = [value(atom) for atom in node.inputs]
        own = {number: slots[number] for number in node.inside if number in slots}
        if own:
            outputs, measured_inside = _run_frames(node, inputs, callbacks, own)
            measured |= measured_inside
        else:
            outputs = run(node, inputs)
        env.update(zip(node.outputs, outputs, strict=True))
        env.update((new, inputs[i]) for new, i in zip(node.versions, node.writes, strict=True))
        tap(node.outputs)
    return [value(atom) for atom in frame.outputs], measured


def evaluate(frame: Frame, args: Sequence[Any], results: Sequence[Atom] | None = None) -> list[Any]:
    """The outputs of a frame on these arguments, or other values of it."""
    values = dict(zip(frame.inputs, args, strict=True)) | dict(frame.constants)

    def value(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Literal) else values[atom]

    for node in frame.nodes:
        outputs = run(node, [value(atom) for atom in node.inputs])
        values.update(zip(node.outputs, outputs, strict=True))
    return [value(atom) for atom in (frame.outputs if results is None else results)]


def _local(local: Local | None, env: Mapping[ValueId, Any]):
    if local is None:
        return None

    own_values = {local.root, *(value for node in local.nodes for value in node.outputs)}
    # A function may be called after the pass in which its other values were traced has ended.
    rest = {
        atom: env[atom]
        for node in local.nodes
        for atom in node.inputs
        if not isinstance(atom, Literal) and atom not in own_values
    }

    def function(root):
        own = rest | {local.root: root}
        for node in local.nodes:
            inputs = [
                atom.value if isinstance(atom, Literal) else own[atom] for atom in node.inputs
            ]
            own.update(zip(node.outputs, run(node, inputs), strict=True))
        return own[local.nodes[-1].outputs[0]]

    return function, env[local.root]


def _run_frames(
    node: Node, inputs: Sequence[Any], callbacks: Callbacks, slots: Mapping[ValueId, Any]
):
    if node.loop:
        return _scan(node, inputs, callbacks, slots)
    if node.primitive == "cond":
        return _cond(node, inputs, callbacks, slots)
    params = equations.parameters(node.equation)
    prevent_cse = params.get("prevent_cse", True)
    again = jax.checkpoint(
        lambda slots, *args: replay(node.frames[0], args, callbacks, slots),
        prevent_cse=prevent_cse if isinstance(prevent_cse, bool) else (True, *prevent_cse),
        policy=params["policy"],
    )
    return again(slots, *inputs)


def _scan(node: Node, inputs: Sequence[Any], callbacks: Callbacks, slots: Mapping[ValueId, Any]):
    loop, params = node.loop, node.equation.params
    assert loop is not None
    first_x = loop.consts + loop.carry
    consts, carry, xs = inputs[: loop.consts], inputs[loop.consts : first_x], inputs[first_x:]

    def body(carry, x):
        x, slots = x
        outputs, measured = replay(node.frames[0], [*consts, *carry, *x], callbacks, slots)
        return outputs[: loop.carry], (outputs[loop.carry :], measured)

    carry, (ys, measured) = jax.lax.scan(
        body,
        carry,
        (xs, slots),
        length=loop.length,
        reverse=loop.reverse,
        unroll=params["unroll"],
    )
    return [*carry, *ys], measured


def _cond(node: Node, inputs: Sequence[Any], callbacks: Callbacks, slots: Mapping[ValueId, Any]):
    index, *operands = inputs

    def taken(frame):
        own = {number: slot for number, slot in slots.items() if number in frame.values}
        return lambda own_slots, *args: replay(
            frame, args, callbacks, {number: own_slots[number] for number in own}
        )

    branches = [taken(frame) for frame in node.frames]
    specs = {}
    for branch in branches:
        specs |= jax.eval_shape(branch, slots, *operands)[1]

    def complete(branch):
        def with_absent(slots, *args):
            outputs, measured = branch(slots, *args)
            absent = {number: spec for number, spec in specs.items() if number not in measured}
            return outputs, measured | jax.tree.map(
                lambda spec: equations.varying_as(
                    jnp.full(spec.shape, callbacks.absent, spec.dtype), spec
                ),
                absent,
            )

        return with_absent

    return jax.lax.switch(index, [complete(branch) for branch in branches], slots, *operands)
