"""How JAX stores a program: the only file that meets the internals of a jaxpr.

`read` turns a jaxpr into frames of nodes whose values have numbers. Calls of jitted functions are
inlined; the bodies of `scan`, `cond` and `checkpoint` are frames of their own; every other
operation, whatever is inside it (`while`, custom derivatives, kernels), is one node.

A mutable reference (`jax.new_ref`) has a number for each of its versions: a node that writes to it
reads one and makes the next. So a read depends on what was written before it, as any other value
depends on what it is computed from. Versions are only numbers: all of them are the same reference.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NewType

import jax
import numpy as np
from jax._src import source_info_util  # no public way leads to an equation's source line
from jax.extend import core

from vanishing.probing import equations
from vanishing.probing.equations import Loop, is_reference, opened

_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # this library
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_PYTHON = os.path.dirname(os.__file__) + os.sep


ValueId = NewType("ValueId", int)  # counts the values of a program


@dataclasses.dataclass(frozen=True, eq=False)
class Literal:
    """A constant scalar that stands in a program as itself."""

    value: Any


Atom = ValueId | Literal


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of a jitted function."""

    name: str
    values: set[ValueId] = dataclasses.field(default_factory=set)  # of its operations


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation: what goes in, what comes out, and where the user wrote it."""

    equation: Any
    primitive: str  # of a custom derivative, the name of its function
    inputs: tuple[Atom, ...]
    outputs: tuple[ValueId, ...]
    scope: str  # names of `jax.named_scope` around it, outermost first
    calls: tuple[Call, ...]  # of jitted functions around it, outermost first
    places: tuple[Any, ...]  # equations whose source lines count: its own, then those around it
    frames: "tuple[Frame, ...]" = ()  # the body of a scan or checkpoint, the branches of a cond
    loop: Loop | None = None
    writes: tuple[int, ...] = ()  # positions of the inputs that are references which it changes
    versions: tuple[ValueId, ...] = ()  # of these references, after it
    caller: tuple[str, int] | None = None  # the user's file and line that had the program read

    @property
    def results(self) -> tuple[ValueId, ...]:
        """All that it makes: its outputs, and the new versions of references."""
        return (*self.outputs, *self.versions)

    @property
    def operands(self) -> tuple[Atom, ...]:
        """What its frames are given: all inputs, but of a `cond` the number of the branch."""
        return self.inputs[1:] if self.primitive == "cond" else self.inputs

    @property
    def slices(self) -> tuple[ValueId, ...]:
        """The inputs of a scan's body that each iteration takes a slice of."""
        return self.frames[0].inputs[self.loop.consts + self.loop.carry :] if self.loop else ()

    @property
    def turns(self) -> tuple[tuple[int, int], ...]:
        """What an iteration of a scan hands to the next: positions of an input and of a result."""
        first, count = (self.loop.consts, self.loop.carry) if self.loop else (0, 0)
        carried = ((first + i, i) for i in range(count))
        written = ((at, len(self.outputs) + i) for i, at in enumerate(self.writes))
        return (*carried, *written)

    def sources(self, result: ValueId) -> tuple[Atom, ...]:
        """The inputs that one of its results is computed from."""
        if self.primitive == "optimization_barrier":  # each output is one of the inputs
            return (self.inputs[self.outputs.index(result)],)
        if self.primitive != "swap":
            return self.inputs
        if result in self.outputs:  # what the reference held before
            return self.inputs[:1]
        reference, value = (var.aval.shape for var in self.equation.invars[:2])
        return self.inputs[1:] if reference == value else self.inputs

    @functools.cached_property
    def inside(self) -> frozenset[ValueId]:
        """The values that are made in its frames."""
        return frozenset().union(*(frame.values for frame in self.frames))

    @property
    def source(self) -> tuple[str, int] | None:
        """File and line of its spot."""
        return self.spot[:2] if self.spot else None

    @functools.cached_property
    def spot(self) -> tuple[str, int, int] | None:
        """File, line and column of the innermost code of the user's own, else of one it calls."""
        stacks = [list(source_info_util.user_frames(e.source_info.traceback)) for e in self.places]
        own = (frame for stack in stacks for frame in stack if is_own(frame.file_name))
        called = (frame for stack in stacks for frame in itertools.takewhile(_is_outside, stack))
        for innermost in itertools.chain(own, called):
            return innermost.file_name, innermost.start_line, innermost.start_column
        return None

    @property
    def seen_from(self) -> tuple[str, int] | None:
        """The same, but where no code of the user's own made it, the line that asked for it.

        JAX remembers only what the function that it traces calls, which of a loss that a library
        makes holds no line of the user's.
        """
        return self.source if self.source and is_own(self.source[0]) else self.caller or self.source


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A straight run of nodes."""

    inputs: tuple[ValueId, ...]
    constants: tuple[tuple[ValueId, Any], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Atom, ...]
    versions: tuple[ValueId, ...] = ()  # at its end, of the references that its node changes

    @property
    def results(self) -> tuple[Atom, ...]:
        """Its outputs and the last versions of references: the results of the node around it."""
        return (*self.outputs, *self.versions)

    @functools.cached_property
    def values(self) -> frozenset[ValueId]:
        """The values that are made in it, and in the frames in it."""
        return frozenset().union(*(node.inside.union(node.outputs) for node in self.nodes))


def entrance(value: ValueId) -> Node:
    """A node that stands for where an input comes in; it cannot be run."""
    return Node(
        equation=None,
        primitive="input",
        inputs=(value,),
        outputs=(value,),
        scope="",
        calls=(),
        places=(),
    )


class Program(NamedTuple):
    """A function as JAX sees it: its outermost frame, and the shape and dtype of every value."""

    frame: Frame
    specs: Mapping[ValueId, Any]


def read(function: Callable, *args) -> tuple[Program, Any]:
    """The program of a function of trees of arrays, and the tree of its output's specs."""
    jaxpr, output = jax.make_jaxpr(function, return_shape=True)(*args)
    reader = _Reader(_caller())
    return Program(reader.frame(jaxpr, "", (), _Around()).frame, reader.specs), output


def lift_constants(program: Program) -> tuple[Program, list[Any]]:
    """The program with the arrays that it closes over as further inputs, and these arrays.

    A compiler would fold them, for seconds where they are a data set. Single numbers stay.
    """
    frame = program.frame
    lifted = [
        (number, value)
        for number, value in frame.constants
        if getattr(value, "size", 1) > 1 or is_reference(program.specs[number])
    ]
    numbers = [number for number, _ in lifted]
    frame = dataclasses.replace(
        frame,
        inputs=(*frame.inputs, *numbers),
        constants=tuple(pair for pair in frame.constants if pair[0] not in numbers),
    )
    return program._replace(frame=frame), [value for _, value in lifted]


class _ReadFrame(NamedTuple):
    frame: Frame
    last: tuple[ValueId, ...]  # versions of its inputs: other numbers than the inputs if written to


class _Around(NamedTuple):
    """Where a frame or a jitted function stands."""

    equations: tuple[Any, ...] = ()  # that it is in, innermost first
    is_cached: bool = False  # JAX traces a library's function once: it remembers its first caller

    def places(self, eqn) -> tuple[Any, ...]:
        """The equations whose source lines say where one of its own stands."""
        return self.equations if self.is_cached else (eqn, *self.equations)


class _Reader:
    """Numbers the values of a jaxpr."""

    def __init__(self, caller: tuple[str, int] | None):
        self.specs = {}
        self.caller = caller

    def frame(self, program, scope: str, calls: tuple[Call, ...], around: _Around) -> _ReadFrame:
        jaxpr, consts = opened(program)
        env, nodes, constants = {}, [], []
        inputs = tuple(self.number(env, var) for var in jaxpr.invars)
        self.walk(jaxpr, consts, env, nodes, constants, scope, calls, around)
        outputs = tuple(self.atom(env, var) for var in jaxpr.outvars)
        frame = Frame(inputs, tuple(constants), tuple(nodes), outputs)
        return _ReadFrame(frame, tuple(env[var] for var in jaxpr.invars))

    def walk(self, jaxpr, consts, env, nodes, constants, scope, calls, around) -> None:
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            constants.append((self.number(env, var), value))
        for eqn in jaxpr.eqns:
            inputs = tuple(self.atom(env, var) for var in eqn.invars)
            stack = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            name = eqn.primitive.name
            if name in equations.CALLS:
                inner, inner_consts = opened(eqn.params[equations.CALLS[name]])
                within = dict(zip(inner.invars, inputs, strict=True))
                named = eqn.params.get("name")
                inner_calls = (*calls, Call(str(named))) if named else calls
                at = _Around(around.places(eqn), around.is_cached or _is_library_function(inner))
                self.walk(inner, inner_consts, within, nodes, constants, stack, inner_calls, at)
                results = [self.atom(within, var) for var in inner.outvars]
                env.update(zip(eqn.outvars, results, strict=True))
                env.update(
                    (o, within[i])
                    for i, o in zip(inner.invars, eqn.invars, strict=True)
                    if is_reference(i.aval)
                )
                continue
            outputs = tuple(self.number(env, var) for var in eqn.outvars)
            for call in calls:
                call.values.update(outputs)
            bodies, loop = equations.bodies(eqn)
            inside = _Around(around.places(eqn), around.is_cached)
            read = [self.frame(body, stack, calls, inside) for body in bodies]
            writes, frames = _with_versions(eqn, read)
            nodes.append(
                Node(
                    equation=eqn,
                    primitive=equations.name_of(eqn),
                    inputs=inputs,
                    outputs=outputs,
                    scope=stack,
                    calls=calls,
                    places=around.places(eqn),
                    frames=frames,
                    loop=loop,
                    writes=writes,
                    versions=tuple(self.number(env, eqn.invars[i]) for i in writes),
                    caller=self.caller,
                )
            )

    def number(self, env, var) -> ValueId:
        env[var] = ValueId(len(self.specs))
        self.specs[env[var]] = var.aval
        return env[var]

    def atom(self, env, var) -> Atom:
        return Literal(var.val) if isinstance(var, core.Literal) else env[var]


def _caller() -> tuple[str, int] | None:
    """File and line of the innermost code on Python's stack that is the user's own."""
    frame = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if is_own(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def _is_library_function(jaxpr) -> bool:
    """Was the function that this is the jaxpr of written in an installed library, as JAX's are?"""
    return _is_of_library(str(getattr(jaxpr.debug_info, "func_src_info", "")).rpartition(" at ")[2])


def is_own(file: str) -> bool:
    """Is a file the user's own: neither of this library, nor of another, nor of Python itself?"""
    return not file.startswith(_HERE) and not _is_of_library(file)


def _is_outside(frame: source_info_util.Frame) -> bool:
    return not frame.file_name.startswith(_HERE)


def _is_of_library(file: str) -> bool:
    """Is a file of an installed library, or of Python itself?"""
    return file.startswith((_PYTHON, "<frozen ")) or any(folder in file for folder in _LIBRARIES)


def _with_versions(eqn, read: Sequence[_ReadFrame]) -> tuple[tuple[int, ...], tuple[Frame, ...]]:
    """The inputs of an equation that are references which it changes; its frames, with versions."""
    if not read:
        unchanged = eqn.primitive.name in ("get", "freeze", "free_ref")
        references = [i for i, var in enumerate(eqn.invars) if is_reference(var.aval)]
        return () if unchanged else tuple(references), ()
    # The index of a cond is no input of its frames.
    offset = len(eqn.invars) - len(read[0].frame.inputs)
    changed = sorted(
        {
            i
            for frame, last in read
            for i, (first, then) in enumerate(zip(frame.inputs, last, strict=True))
            if first != then
        }
    )
    return tuple(i + offset for i in changed), tuple(
        dataclasses.replace(frame, versions=tuple(last[i] for i in changed)) for frame, last in read
    )


class Local(NamedTuple):
    """How a value is computed, elementwise, from one other value of its frame."""

    root: ValueId
    nodes: tuple[Node, ...]


def run(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The operation as it stands, under its own source line and scope."""
    eqn, place = node.equation, (*node.places, node.equation)[0]
    if node.primitive == "split":
        return _split(inputs[0], eqn.params)
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with (
        source_info_util.user_context(place.source_info.traceback, name_stack=stack),
        eqn.ctx.manager,
        _precision_of(eqn),
    ):
        answer = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(answer) if eqn.primitive.multiple_results else [answer]


def _precision_of(eqn) -> contextlib.AbstractContextManager:
    """The `jax.enable_x64` that an operation was written under, which it does not remember."""
    dtypes = {getattr(var.aval, "dtype", None) for var in (*eqn.invars, *eqn.outvars)}
    wide = dtypes.intersection({np.dtype(np.float64), np.dtype(np.complex128)})
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


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
