"""How JAX stores a program: the only file that meets the internals of a jaxpr.

`read` turns a jaxpr into frames of nodes whose values have numbers. Calls of jitted functions are
inlined; the bodies of `scan`, `cond` and `checkpoint` are frames of their own; every other
operation, whatever is inside it (`while`, custom derivatives, kernels), is one node.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NewType

import jax
import jax.numpy as jnp
from jax._src import source_info_util  # no public way leads to an equation's source line
from jax.extend import core

_INLINED = {  # the primitives that only call a function, and the parameter that holds it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
}
_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # this library
_LIBRARIES = f"{os.sep}site-packages{os.sep}"
_CHECKPOINTS = ("remat2", "remat", "checkpoint")


ValueId = NewType("ValueId", int)  # counts the values of a program


@dataclasses.dataclass(frozen=True, eq=False)
class Literal:
    """A constant scalar that stands in a program as itself."""

    value: Any


Atom = ValueId | Literal


class Loop(NamedTuple):
    """How a scan feeds its body: inputs are constants, then carries, then slices."""

    length: int
    reverse: bool
    consts: int
    carry: int


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation: what goes in, what comes out, and where the user wrote it."""

    equation: Any
    primitive: str  # of a custom derivative, the name of its function
    inputs: tuple[Atom, ...]
    outputs: tuple[ValueId, ...]
    scope: str  # names of `jax.named_scope` around it, outermost first
    calls: tuple[str, ...]  # jitted functions around it, outermost first
    called_at: Any  # the equation whose source line counts: its own, or a call of library code
    frames: "tuple[Frame, ...]" = ()  # the body of a scan or checkpoint, the branches of a cond
    loop: Loop | None = None

    @functools.cached_property
    def inside(self) -> frozenset[ValueId]:
        """The values that are made in its frames."""
        return frozenset().union(*(frame.made for frame in self.frames))

    @functools.cached_property
    def source(self) -> tuple[str, int] | None:
        """File and line of the innermost code of the user's own, else of another library's."""
        stack = source_info_util.user_frames(self.called_at.source_info.traceback)
        frames = [frame for frame in stack if not frame.file_name.startswith(_HERE)]
        own = [frame for frame in frames if _LIBRARIES not in frame.file_name]
        chosen = next(iter(own or frames), None)
        return (chosen.file_name, chosen.start_line) if chosen else None


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A straight run of nodes."""

    inputs: tuple[ValueId, ...]
    constants: tuple[tuple[ValueId, Any], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Atom, ...]

    @functools.cached_property
    def made(self) -> frozenset[ValueId]:
        """The values that are made in it, and in the frames in it."""
        return frozenset().union(*(node.inside.union(node.outputs) for node in self.nodes))


class Program(NamedTuple):
    """A function as JAX sees it: its outermost frame, and the shape and dtype of every value."""

    frame: Frame
    specs: Mapping[ValueId, Any]


def read(function: Callable, *args) -> tuple[Program, Any]:
    """The program of a function of trees of arrays, and the tree of its output's specs."""
    jaxpr, output = jax.make_jaxpr(function, return_shape=True)(*args)
    reader = _Reader()
    return Program(reader.frame(jaxpr, "", ()), reader.specs), output


def lift_constants(program: Program) -> tuple[Program, list[Any]]:
    """The program with the arrays that it closes over as further inputs, and these arrays.

    A compiler would fold them, for seconds where they are a data set. Single numbers stay.
    """
    frame = program.frame
    arrays = [(number, value) for number, value in frame.constants if getattr(value, "size", 1) > 1]
    lifted = dataclasses.replace(
        frame,
        inputs=(*frame.inputs, *(number for number, _ in arrays)),
        constants=tuple(pair for pair in frame.constants if getattr(pair[1], "size", 1) <= 1),
    )
    return program._replace(frame=lifted), [value for _, value in arrays]


class _Reader:
    """Numbers the values of a jaxpr."""

    def __init__(self):
        self.specs = {}

    def frame(self, program, scope: str, calls: tuple[str, ...]) -> Frame:
        jaxpr, consts = _open(program)
        env, nodes, constants = {}, [], []
        inputs = tuple(self.number(env, var) for var in jaxpr.invars)
        self.walk(jaxpr, consts, env, nodes, constants, scope, calls, None)
        outputs = tuple(self.atom(env, var) for var in jaxpr.outvars)
        return Frame(inputs, tuple(constants), tuple(nodes), outputs)

    def walk(self, jaxpr, consts, env, nodes, constants, scope, calls, called_at) -> None:
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            constants.append((self.number(env, var), value))
        for eqn in jaxpr.eqns:
            inputs = tuple(self.atom(env, var) for var in eqn.invars)
            stack = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            name = eqn.primitive.name
            if name in _INLINED:
                inner, inner_consts = _open(eqn.params[_INLINED[name]])
                within = dict(zip(inner.invars, inputs, strict=True))
                named = eqn.params.get("name")
                inner_calls = (*calls, str(named)) if named else calls
                # A jitted function is traced once: its equations remember its first caller.
                at = called_at or (eqn if _is_library_function(inner) else None)
                self.walk(inner, inner_consts, within, nodes, constants, stack, inner_calls, at)
                results = [self.atom(within, var) for var in inner.outvars]
                env.update(zip(eqn.outvars, results, strict=True))
                continue
            outputs = tuple(self.number(env, var) for var in eqn.outvars)
            bodies, loop = _bodies(eqn)
            nodes.append(
                Node(
                    equation=eqn,
                    primitive=_primitive_name(eqn),
                    inputs=inputs,
                    outputs=outputs,
                    scope=stack,
                    calls=calls,
                    called_at=called_at or eqn,
                    frames=tuple(self.frame(body, stack, calls) for body in bodies),
                    loop=loop,
                )
            )

    def number(self, env, var) -> ValueId:
        env[var] = ValueId(len(self.specs))
        self.specs[env[var]] = var.aval
        return env[var]

    def atom(self, env, var) -> Atom:
        return Literal(var.val) if isinstance(var, core.Literal) else env[var]


def _is_library_function(jaxpr) -> bool:
    """Was the function that this is the jaxpr of written in an installed library, as JAX's are?"""
    return _LIBRARIES in str(getattr(jaxpr.debug_info, "func_src_info", ""))


def _bodies(eqn) -> tuple[Sequence[Any], Loop | None]:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        consts, carry = _scan_counts(params)
        loop = Loop(params["length"], params["reverse"], consts=consts, carry=carry)
        return [params["jaxpr"]], loop
    if name in _CHECKPOINTS:
        return [params["jaxpr"]], None
    if name == "cond":
        return params["branches"], None
    return (), None


def _primitive_name(eqn) -> str:
    name = eqn.primitive.name
    if not name.startswith("custom_"):
        return name
    inner = eqn.params.get("name")
    debug = getattr(_open(eqn.params.get("call_jaxpr"))[0], "debug_info", None)
    return str(inner or getattr(debug, "func_name", "") or name).lstrip("_")


def _open(program):
    """A jaxpr and its constants; JAX 0.12 has one type for open and closed ones."""
    if hasattr(program, "jaxpr") and hasattr(program, "consts"):
        return program.jaxpr, program.consts
    return program, ()


def _scan_counts(params) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    inputs = params["ft_in"]  # from JAX 0.12 on
    consts, carry, _ = inputs.unpack() if hasattr(inputs, "unpack") else inputs
    return len(consts), len(carry)


class Local(NamedTuple):
    """How a value is computed, elementwise, from one other value of its frame."""

    root: ValueId
    nodes: tuple[Node, ...]


def run(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The operation as it stands, under its own source line and scope."""
    eqn = node.equation
    if node.primitive == "split":
        return _split(inputs[0], eqn.params)
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with (
        source_info_util.user_context(eqn.source_info.traceback, name_stack=stack),
        eqn.ctx.manager,
    ):
        answer = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(answer) if eqn.primitive.multiple_results else [answer]


def _split(x, params) -> list[Any]:
    """The parts of an array, as slices.

    The cotangent of a split is a concatenation, and XLA for CPUs (jaxlib 0.10.2) computes wrong
    numbers where it fuses a concatenation of products that share a factor, which a tap can make it
    do; that of slices is a sum.
    """
    starts = itertools.accumulate((int(size) for size in params["sizes"]), initial=0)
    return [
        jax.lax.slice_in_dim(x, start, start + int(size), axis=params["axis"])
        for start, size in zip(starts, params["sizes"], strict=False)
    ]


def is_float(spec) -> bool:
    """Has a value of this spec a cotangent that a row can hold?"""
    return hasattr(spec, "shape") and jnp.issubdtype(spec.dtype, jnp.floating)


def walk(frame: Frame) -> Iterator[tuple[Frame, Node]]:
    """Every node of a frame and of the frames in it, in forward order, with the frame it is in."""
    for node in frame.nodes:
        yield frame, node
        for inner in node.frames:
            yield from walk(inner)


def frames(frame: Frame) -> Iterator[Frame]:
    """A frame and all the frames in it, outermost first."""
    yield frame
    for node in frame.nodes:
        for inner in node.frames:
            yield from frames(inner)
