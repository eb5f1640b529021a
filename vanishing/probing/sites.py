"""Which values of a program get a row, of what kind each is, and what a person calls it."""

import itertools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from vanishing.probing import jaxpr, leaf_names
from vanishing.probing.dependence import Facts, Kind, Use
from vanishing.probing.grouping import LayerRows, Row, kind_of
from vanishing.probing.jaxpr import Local, Node, Program
from vanishing.probing.leaf_names import Leaf


class Site(NamedTuple):
    """A place of the program that gets a row, or one row for every iteration of the loops there."""

    label: str  # of the row; "{0}" stands for the index of the outermost loop around it
    op: str
    kind: str
    param: str  # path of the parameters that it uses, or ""
    scope: str
    source: str  # "path/of/file.py:line" of the user's own code, or ""
    shape: tuple[int, ...]
    dtype: str
    lengths: tuple[int, ...]  # of the loops around it

    @property
    def place(self) -> str:
        """Its op and where that is, in few words."""
        line = os.path.basename(self.source) or self.scope
        return f"{self.op} at {line}" if line else self.op


class Selected(NamedTuple):
    """A site, the value that it watches, and how that comes from its input if elementwise."""

    value: int
    site: Site
    local: Local | None


def choose(program: Program, known: Facts, leaves: Sequence[Leaf], level: str) -> list[Selected]:
    """The sites of a program, in the order in which its frames make them."""
    namer = _Namer(program, known, leaves)
    if level == "op":
        return [
            Selected(
                value, namer.site(Row(node, value, (node.primitive,), kind_of(node, known))), None
            )
            for _, node in jaxpr.walk(program.frame)
            if not node.frames
            for value in node.outputs
            if known.on_path(value)
        ]
    rows = {}
    for frame in jaxpr.frames(program.frame):
        rows |= LayerRows(program, known, leaves, frame).rows
    order = [v for _, node in jaxpr.walk(program.frame) for v in node.outputs if v in rows]
    return [Selected(v, namer.site(rows[v]), rows[v].local) for v in order if known.on_path(v)]


class _Namer:
    """Names for rows, as a person would say them."""

    def __init__(self, program: Program, known: Facts, leaves: Sequence[Leaf]):
        self.program, self.known, self.leaves = program, known, leaves

    def site(self, row: Row) -> Site:
        node, loops = row.node, self.known.loops[row.value]
        uses = row.uses or frozenset().union(
            *(
                self.known.get(atom).uses
                for atom in node.inputs
                if self.known.get(atom).kind == Kind.PARAM
            )
        )
        spec = self.program.specs[row.value]
        source = own_source(node)
        scope = _clean(node.scope)
        param, levels = self.param(uses)
        base = param or scope or os.path.basename(source) or node.primitive
        return Site(
            _label(base, levels if param else (), self.time_like(loops)),
            "+".join(row.ops),
            row.kind,
            param,
            scope,
            source,
            tuple(spec.shape),
            str(spec.dtype),
            tuple(node.loop.length for node in loops if node.loop),
        )

    def param(self, uses: frozenset[Use]) -> tuple[str, tuple[int, ...]]:
        """The path that leaves used together share, and the loops that walk along them."""
        if not uses:
            return "", ()
        levels = max((use.levels for use in uses), key=len)
        own = [self.leaves[use.leaf] for use in sorted(uses)]
        if len(own) == 1:
            module, path = own[0].module, own[0].path
            alone = sum(leaf.path.startswith(module) for leaf in self.leaves) == 1
            return (module if alone and module else path), levels
        widest = max(own, key=lambda leaf: math.prod(leaf.shape))
        return _shared([leaf.path for leaf in own]) or widest.path, levels

    def time_like(self, loops: Sequence[Node]) -> list[bool]:
        """Which loops walk along no parameter: those over time."""
        return [not self.walks_parameters(node) for node in loops]

    def walks_parameters(self, node: Node) -> bool:
        loop = node.loop
        assert loop is not None
        xs = node.inputs[loop.consts + loop.carry :]
        return any(self.known.get(atom).kind == Kind.PARAM for atom in xs)


def _steps(path: str) -> list[str]:
    """A path in steps: "a.b[0].c" is "a", ".b", "[0]", ".c"."""
    return path.replace(".", "\0.").replace("[", "\0[").lstrip("\0").split("\0")


def _shared(names: list[str]) -> str:
    """The steps that all paths begin with."""
    together = zip(*map(_steps, names), strict=False)
    same = itertools.takewhile(lambda steps: len(set(steps)) == 1, together)
    return "".join(steps[0] for steps in same).lstrip(".")


def _label(base: str, levels: tuple[int, ...], time_like: Sequence[bool]) -> str:
    """A template of a row's name: each loop's index where its axis of depth is, or at the end."""
    label = leaf_names.indexed(base, levels)
    for level, is_time in enumerate(time_like):
        if level not in levels:
            label += f"[t={{{level}}}]" if is_time else f"[{{{level}}}]"
    return label


def _clean(scope: str) -> str:
    """A name scope without the marks of the transformations that it went through."""
    parts = [part for part in scope.split("/") if part and "(" not in part]
    return "/".join(part for i, part in enumerate(parts) if parts[i - 1 : i] != [part])


def own_source(node: Node) -> str:
    """ "file:line" of the user's own code that made a node, or "" where that is not known."""
    if node.source is None:
        return ""
    file, line = node.source
    within = os.path.relpath(file)
    return f"{file if within.startswith(os.pardir) else within}:{line}"
