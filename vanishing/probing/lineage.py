"""The rows of a program in forward order, and for each the rows that its signal comes from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vanishing.probing.dependence import Facts
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node


class Ref(NamedTuple):
    """A value of a frame, as far as rows are concerned: output `port` of step `step`.

    Step -1 is the frame itself, whose ports are its inputs.
    """

    step: int
    port: int


Refs = frozenset[Ref]


class Tap(NamedTuple):
    """A row of site `site` whose signal comes from `sources`."""

    site: int
    sources: Refs


class Branch(NamedTuple):
    """Frames of which one runs: the branches of a cond, or the one of a checkpoint."""

    bodies: tuple["Flow", ...]
    operands: tuple[Refs, ...]


class Scan(NamedTuple):
    """A frame that runs once for each index."""

    body: "Flow"
    operands: tuple[Refs, ...]
    length: int
    reverse: bool
    consts: int
    carry: int


class Flow(NamedTuple):
    """What a frame makes of its inputs."""

    steps: tuple["Tap | Branch | Scan", ...]
    outputs: tuple[Refs, ...]


def flow_of(frame: Frame, sites: dict[int, int], known: Facts) -> Flow:
    """The flow of a frame, given the site of each value that has one."""
    refs: dict[int, Refs] = {value: frozenset({Ref(-1, i)}) for i, value in enumerate(frame.inputs)}
    steps = []

    def of(atom: Atom) -> Refs:
        if isinstance(atom, Literal) or not known.of[atom].sensitive:
            return frozenset()
        return refs.get(atom, frozenset())

    for node in frame.nodes:
        operands = tuple(of(atom) for atom in node.inputs)
        if node.frames:
            steps.append(_step(node, operands, sites, known))
            made = [frozenset({Ref(len(steps) - 1, port)}) for port in range(len(node.outputs))]
        else:
            made = [frozenset().union(*operands)] * len(node.outputs)
        for value, sources in zip(node.outputs, made, strict=True):
            refs[value] = sources
            if value in sites:
                steps.append(Tap(sites[value], sources))
                refs[value] = frozenset({Ref(len(steps) - 1, 0)})
    return Flow(tuple(steps), tuple(of(atom) for atom in frame.outputs))


def _step(node: Node, operands: tuple[Refs, ...], sites, known) -> Branch | Scan:
    flows = tuple(flow_of(frame, sites, known) for frame in node.frames)
    if node.loop:
        return Scan(flows[0], operands, *node.loop)
    return Branch(flows, operands[1:] if node.primitive == "cond" else operands)


class Instance(NamedTuple):
    """One row: a site at one index of each loop around it."""

    site: int
    indices: tuple[int, ...]
    parents: tuple[int, ...]  # rows that its signal comes from, without a row between


Rows = frozenset[int]


class _Series(NamedTuple):
    """A value with one entry for each index of the scan that made it."""

    entries: tuple[Rows, ...]
    last: int  # the index that ran last

    def whole(self) -> Rows:
        """Where it is used all at once: the deepest way back leads through what ran last."""
        return self.entries[self.last]


def unroll(flow: Flow) -> tuple[Instance, ...]:
    """Every row of a program, in forward order."""
    instances: list[Instance] = []
    empty = [frozenset()] * _width(flow)
    _run(flow, empty, (), instances)
    return tuple(instances)


def _width(flow: Flow) -> int:
    refs = [r for step in flow.steps for r in _sources(step)] + [r for o in flow.outputs for r in o]
    return 1 + max((ref.port for ref in refs if ref.step == -1), default=-1)


def _sources(step) -> list[Ref]:
    refs = [step.sources] if isinstance(step, Tap) else step.operands
    return [ref for group in refs for ref in group]


def _run(flow: Flow, inputs: Sequence, indices: tuple[int, ...], into: list[Instance]) -> list:
    """The outputs of a frame as rows, or as series of rows; appends the rows that it makes."""
    ports: list[Sequence] = []

    def value(refs: Refs):
        found = [inputs[r.port] if r.step == -1 else ports[r.step][r.port] for r in refs]
        if len(found) == 1:
            return found[0]
        return frozenset().union(*map(_whole, found))

    for step in flow.steps:
        if isinstance(step, Tap):
            into.append(Instance(step.site, indices, tuple(sorted(_whole(value(step.sources))))))
            ports.append([frozenset({len(into) - 1})])
        elif isinstance(step, Branch):
            operands = [value(refs) for refs in step.operands]
            outputs = [_run(body, operands, indices, into) for body in step.bodies]
            ports.append([_either(same) for same in zip(*outputs, strict=True)])
        else:
            ports.append(_run_scan(step, value, indices, into))
    return [value(refs) for refs in flow.outputs]


def _run_scan(scan: Scan, value: Callable, indices: tuple[int, ...], into: list[Instance]) -> list:
    operands = [value(refs) for refs in scan.operands]
    first_x = scan.consts + scan.carry
    consts, carry, xs = operands[: scan.consts], operands[scan.consts : first_x], operands[first_x:]
    order = range(scan.length)[:: -1 if scan.reverse else 1]
    outputs = {}
    for i in order:
        slices = [x.entries[i] if _steps_with(x, scan) else _whole(x) for x in xs]
        results = _run(scan.body, [*consts, *carry, *slices], (*indices, i), into)
        carry = results[: scan.carry]
        outputs[i] = [_whole(result) for result in results[scan.carry :]]
    last = order[-1] if order else 0
    columns = range(len(scan.body.outputs) - scan.carry)
    series = [
        _Series(tuple(outputs[i][column] for i in range(scan.length)), last) for column in columns
    ]
    return [*carry, *series]


def _steps_with(value, scan: Scan) -> bool:
    return isinstance(value, _Series) and len(value.entries) == scan.length


def _whole(value) -> Rows:
    return value.whole() if isinstance(value, _Series) else value


def _either(values: Sequence):
    return values[0] if len(values) == 1 else frozenset().union(*map(_whole, values))
