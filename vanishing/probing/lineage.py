"""The rows of a program in forward order, and for each the rows that its signal comes from."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NewType

from vanishing.probing.dependence import Dependences
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, ValueId

SiteId = NewType("SiteId", int)  # counts the sites of a program
RowId = NewType("RowId", int)  # counts the rows in forward order
RowIds = frozenset[RowId]


class Ref(NamedTuple):
    """A value of a frame, as far as rows are concerned: output `port` of step `step`.

    Step -1 is the frame itself, whose ports are its inputs.
    """

    step: int
    port: int


Refs = frozenset[Ref]


class RowStep(NamedTuple):
    """A row of site `site` whose signal comes from `sources`."""

    site: SiteId
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
    first_x: int  # position of the first input that each iteration takes a slice of
    turns: tuple[tuple[int, int], ...]  # input and result that an iteration hands to the next


class Flow(NamedTuple):
    """How the rows and outputs of a frame come from its inputs."""

    steps: tuple["RowStep | Branch | Scan", ...]
    outputs: tuple[Refs, ...]


def flow_of(frame: Frame, sites: Mapping[ValueId, SiteId], dependences: Dependences) -> Flow:
    """The flow of a frame, given the site of each value that has one."""
    refs: dict[ValueId, Refs] = {
        value: frozenset({Ref(-1, i)}) for i, value in enumerate(frame.inputs)
    }
    steps = []

    def of(atom: Atom) -> Refs:
        if isinstance(atom, Literal) or not dependences.of[atom].sensitive:
            return frozenset()
        return refs.get(atom, frozenset())

    for value in frame.inputs:
        if value in sites:
            refs[value] = frozenset({Ref(len(steps), 0)})
            steps.append(RowStep(sites[value], frozenset()))
    for node in frame.nodes:
        operands = tuple(of(atom) for atom in node.inputs)
        if node.frames:
            steps.append(_step(node, operands, sites, dependences))
            origins = [frozenset({Ref(len(steps) - 1, port)}) for port in range(len(node.results))]
        else:
            origins = [frozenset().union(*map(of, node.sources(value))) for value in node.results]
        for value, sources in zip(node.results, origins, strict=True):
            refs[value] = sources
            if value in sites:
                steps.append(RowStep(sites[value], sources))
                refs[value] = frozenset({Ref(len(steps) - 1, 0)})
    return Flow(tuple(steps), tuple(of(atom) for atom in frame.results))


def _step(node: Node, operands: tuple[Refs, ...], sites, dependences) -> Branch | Scan:
    flows = tuple(flow_of(frame, sites, dependences) for frame in node.frames)
    if node.loop:
        return Scan(
            body=flows[0],
            operands=operands,
            length=node.loop.length,
            reverse=node.loop.reverse,
            first_x=node.loop.consts + node.loop.carry,
            turns=node.turns,
        )
    return Branch(flows, operands[1:] if node.primitive == "cond" else operands)


class Instance(NamedTuple):
    """One row: a site at one index of each loop around it."""

    site: SiteId
    indices: tuple[int, ...]
    parents: tuple[RowId, ...]  # rows that its signal comes from, without a row between


class _Series(NamedTuple):
    """A value with one entry for each index of the scan that made it."""

    entries: tuple[RowIds, ...]
    last: int  # the index that ran last

    def last_rows(self) -> RowIds:
        """The rows of the value used all at once: the longest way back is through what ran last."""
        return self.entries[self.last] if self.entries else frozenset()


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
    refs = [step.sources] if isinstance(step, RowStep) else step.operands
    return [ref for group in refs for ref in group]


def _run(flow: Flow, inputs: Sequence, indices: tuple[int, ...], into: list[Instance]) -> list:
    """The outputs of a frame as rows, or as series of rows; appends the rows that it makes."""
    ports: list[Sequence] = []

    def value(refs: Refs):
        values = [inputs[r.port] if r.step == -1 else ports[r.step][r.port] for r in refs]
        return _either(values)

    for step in flow.steps:
        if isinstance(step, RowStep):
            into.append(Instance(step.site, indices, tuple(sorted(_rows(value(step.sources))))))
            ports.append([frozenset({RowId(len(into) - 1)})])
        elif isinstance(step, Branch):
            operands = [value(refs) for refs in step.operands]
            outputs = [_run(body, operands, indices, into) for body in step.bodies]
            ports.append([_either(alternatives) for alternatives in zip(*outputs, strict=True)])
        else:
            ports.append(_run_scan(step, value, indices, into))
    return [value(refs) for refs in flow.outputs]


def _run_scan(scan: Scan, value: Callable, indices: tuple[int, ...], into: list[Instance]) -> list:
    operands = [value(refs) for refs in scan.operands]
    order = range(scan.length)[:: -1 if scan.reverse else 1]
    outputs = {}
    for i in order:
        slices = [
            x.entries[i] if _steps_with(x, scan) else _rows(x) for x in operands[scan.first_x :]
        ]
        results = _run(scan.body, [*operands[: scan.first_x], *slices], (*indices, i), into)
        for before, after in scan.turns:
            operands[before] = results[after]
        outputs[i] = [_rows(result) for result in results]
    last = order[-1] if order else 0
    series: list[Sequence] = [
        _Series(tuple(outputs[i][port] for i in range(scan.length)), last)
        for port in range(len(scan.body.outputs))
    ]
    for before, after in scan.turns:
        series[after] = operands[before]
    return series


def _steps_with(value, scan: Scan) -> bool:
    return isinstance(value, _Series) and len(value.entries) == scan.length


def _rows(value) -> RowIds:
    return value.last_rows() if isinstance(value, _Series) else value


def _either(values: Sequence):
    return values[0] if len(values) == 1 else frozenset().union(*map(_rows, values))
