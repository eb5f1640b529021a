"""The rows of a network layer by layer: which operations make a layer, and what follows them."""

import dataclasses
import enum
from collections import defaultdict
from collections.abc import Sequence

from vanishing.probing import dependence
from vanishing.probing.dependence import Facts, Kind, Use
from vanishing.probing.jaxpr import Atom, Frame, Literal, Local, Node, Program
from vanishing.probing.leaf_names import Leaf


class SiteKind(enum.StrEnum):
    """What kind of operation a row records; a member equals the string that is its value."""

    MATMUL = "matmul"  # a matrix product or a convolution, with its bias
    NONLINEARITY = "nonlinearity"
    NORMALIZATION = "normalization"
    RESIDUAL = "residual"  # the sum of two signals
    OTHER = "other"


# What an activation function is recognised by, best first; what is left out is arithmetic that
# losses and statistics are made of as well.
_TELLING = ("logistic", "tanh", "erf", "erfc", "sin", "cos", "max", "clamp", "select_n", "min")
_OF_LOSSES = frozenset({"square", "integer_pow", "log", "sqrt", "abs"})
_LOSSES = frozenset({"log_sigmoid", "softplus", "logaddexp", "xlogy", "log", "log1p"})


def kind_of(node: Node, known: Facts) -> str:
    """The kind of a single operation."""
    sensitive = [known.get(atom).sensitive for atom in node.inputs]
    if node.primitive in dependence.PRODUCTS:
        return SiteKind.MATMUL
    if node.primitive in ("add", "add_any") and all(sensitive):
        return SiteKind.RESIDUAL
    if node.primitive in dependence.NONLINEAR or node.equation.primitive.name.startswith(
        "custom_jvp"
    ):
        return SiteKind.NONLINEARITY
    if node.primitive in ("mul", "div") and all(sensitive):
        return SiteKind.NONLINEARITY
    return SiteKind.OTHER


@dataclasses.dataclass(frozen=True)
class Row:
    """A value that gets a row, and what it stands for."""

    node: Node
    value: int
    ops: tuple[str, ...]
    kind: str
    uses: frozenset[Use] = frozenset()
    local: Local | None = None


@dataclasses.dataclass(frozen=True)
class _Track:
    """How a value comes, elementwise, from a root value of its frame."""

    root: int
    nodes: tuple[Node, ...] = ()
    nonlinear: bool = False


class LayerRows:
    """The rows of one frame: layers, the nonlinearities that follow them, and residual sums."""

    def __init__(self, program: Program, known: Facts, leaves: Sequence[Leaf], frame: Frame):
        """Find the rows; they are then in `rows`, by the number of the value."""
        self.program, self.known, self.leaves, self.frame = program, known, leaves, frame
        self.rows: dict[int, Row] = {}
        self.tracks: dict[int, _Track] = {}
        self.makers = {value: node for node in frame.nodes for value in node.outputs}
        self.users: dict[int, list[Node]] = defaultdict(list)
        for node in frame.nodes:
            for atom in node.inputs:
                if not isinstance(atom, Literal):
                    self.users[atom].append(node)
        self.statistics: dict[int, frozenset[Use]] = {}  # 1/sigma and what is made of it
        self.reduced: set[int] = set()  # means, variances and what is made of them alone
        for value in frame.inputs:
            self.tracks[value] = _Track(value)
        for node in frame.nodes:
            self.visit(node)
        for value, track in self.tracks.items():
            if track.nonlinear and self.leaves_track(value, track):
                self.add_nonlinearity(value, track)

    def shape(self, atom: Atom) -> tuple[int, ...]:
        return () if isinstance(atom, Literal) else getattr(self.program.specs[atom], "shape", ())

    def maker(self, atom: Atom) -> Node | None:
        return None if isinstance(atom, Literal) else self.makers.get(atom)

    def visit(self, node: Node) -> None:
        for value in node.outputs:
            self.tracks[value] = _Track(value)
        if node.frames or len(node.outputs) != 1:
            return
        (out,) = node.outputs
        signals = [
            a for a in node.inputs if isinstance(a, int) and self.known.of[a].kind == Kind.SIGNAL
        ]
        params = [a for a in node.inputs if self.known.get(a).kind == Kind.PARAM]
        uses = frozenset().union(*(self.known.get(atom).uses for atom in params))
        if node.primitive.startswith("reduce_") or (
            signals and self.reduced.issuperset(signals) and self.is_elementwise_or_view(node)
        ):
            self.reduced.add(out)
        if self.note_statistic(node, out, uses):
            return
        if self.known.get(out).kind != Kind.SIGNAL:
            return
        if self.is_normalised(node):
            self.add_layer(node, out, SiteKind.NORMALIZATION, uses, signals)
        elif self.is_softmax(node):
            self.rows[out] = Row(node, out, ("softmax",), SiteKind.NONLINEARITY)
        elif self.is_sum(node, signals):
            self.add_sum(node, out, signals)
        elif self.follows_elementwise(node, out, signals, params):
            self.extend(node, out, signals, params)
        elif params and self.known.of[out].sensitive:
            kind = SiteKind.MATMUL if node.primitive in dependence.PRODUCTS else SiteKind.OTHER
            self.add_layer(node, out, kind, uses, ())
        elif self.is_whole_function(node, out, signals):
            nodes = (node,) if node.equation.primitive.name.startswith("custom_jvp") else ()
            self.tracks[out] = _Track(signals[0], nodes, nonlinear=True)

    # Statistics: what a normalisation divides by.

    def note_statistic(self, node: Node, out: int, uses: frozenset[Use]) -> bool:
        inherited = [a for a in node.inputs if isinstance(a, int) and a in self.statistics]
        others = [
            a
            for a in node.inputs
            if a not in self.statistics and self.known.get(a).kind in (Kind.SIGNAL, Kind.DATA)
        ]
        begins = node.primitive in ("rsqrt", "sqrt") and self.known.get(out).kind in (
            Kind.SIGNAL,
            Kind.DATA,
        )
        passes_on = inherited and not others and self.is_elementwise_or_view(node)
        if begins or passes_on:
            self.statistics[out] = uses.union(*(self.statistics[a] for a in inherited))
            return True
        return False

    def is_elementwise_or_view(self, node: Node) -> bool:
        return node.primitive in dependence.LINEAR | dependence.NONLINEAR | dependence.VIEWS

    def is_normalised(self, node: Node) -> bool:
        if node.primitive not in ("mul", "div") or len(node.inputs) != 2:
            return False
        return sum(atom in self.statistics for atom in node.inputs) == 1

    def is_softmax(self, node: Node) -> bool:
        if node.primitive != "div" or any(isinstance(a, Literal) for a in node.inputs):
            return False
        top, bottom = (self.maker(atom) for atom in node.inputs)
        while bottom and bottom.primitive in dependence.VIEWS:
            bottom = self.maker(bottom.inputs[0])
        return bool(
            top
            and bottom
            and top.primitive == "exp"
            and bottom.primitive == "reduce_sum"
            and bottom.inputs[0] == top.outputs[0]
        )

    # Layers: operations that use a parameter.

    def add_layer(
        self, node: Node, out: int, kind: str, uses: frozenset[Use], signals: Sequence[int]
    ) -> None:
        """A row; where it only adds a bias or a scale to the row before, instead of that one."""
        ops = (node.primitive,) if kind != SiteKind.NORMALIZATION else ("normalise",)
        for atom in node.inputs:
            if isinstance(atom, int):
                uses |= self.statistics.get(atom, frozenset())
        for atom in signals:
            track = self.tracks[atom]
            earlier = self.rows.get(track.root)
            if earlier and not track.nonlinear and self.may_merge(earlier, uses, atom):
                del self.rows[track.root]
                kind = earlier.kind if kind == SiteKind.OTHER else kind
                ops, uses = tuple(dict.fromkeys(earlier.ops + ops)), uses | earlier.uses
        self.rows[out] = Row(node, out, ops, kind, uses)

    def may_merge(self, earlier: Row, uses: frozenset[Use], atom: int) -> bool:
        if not self.used_once_from(earlier.value, atom):
            return False
        modules = {self.leaves[use.leaf].module for use in earlier.uses}
        return all(
            self.leaves[use.leaf].module in modules
            or len(self.leaves[use.leaf].shape) - len(use.levels) <= 1
            for use in uses
        )

    def used_once_from(self, value: int, atom: int) -> bool:
        """Does all of `value` go through `atom`, and from there to one place?"""
        track = self.tracks[atom]
        chain = [value, *(node.outputs[0] for node in track.nodes)]
        return all(len(self.users[link]) == 1 for link in {*chain, atom})

    # Sums of two signals.

    def is_sum(self, node: Node, signals: list[int]) -> bool:
        if node.primitive not in ("add", "add_any") or len(signals) != 2:
            return False
        shape = self.shape(node.outputs[0])
        roots = {self.tracks[atom].root for atom in signals}
        sensitive = all(self.known.get(atom).sensitive for atom in signals)
        return (
            bool(shape)
            and sensitive
            and len(roots) == 2
            and all(self.shape(atom) == shape for atom in signals)
        )

    def add_sum(self, node: Node, out: int, signals: list[int]) -> None:
        """A residual sum, unless it only completes a layer that multiplies two inputs."""
        rows = [self.rows.get(self.tracks[atom].root) for atom in signals]
        halves = [
            row
            for row, atom in zip(rows, signals, strict=True)
            if row
            and row.kind == SiteKind.MATMUL
            and not self.tracks[atom].nonlinear
            and self.used_once_from(row.value, atom)
        ]
        if len(halves) == 2 and len({self.module(row.uses) for row in halves}) == 1:
            for row in halves:
                del self.rows[row.value]
            ops = (*halves[0].ops, *halves[1].ops, "add")
            uses = halves[0].uses | halves[1].uses
            self.rows[out] = Row(node, out, tuple(dict.fromkeys(ops)), SiteKind.MATMUL, uses)
        else:
            self.rows[out] = Row(node, out, (node.primitive,), SiteKind.RESIDUAL)

    def module(self, uses: frozenset[Use]) -> str:
        """The container next above the ones that the leaves are in: that of a recurrent cell."""
        modules = {self.leaves[use.leaf].module for use in uses}
        return min(modules).rpartition(".")[0]

    # Elementwise functions.

    def follows_elementwise(self, node: Node, out: int, signals: list[int], params) -> bool:
        """Is this value an elementwise function of one root and of scalars or parameters?"""
        name = node.primitive
        known = dependence.LINEAR | dependence.NONLINEAR | dependence.PREDICATES
        custom = node.equation.primitive.name.startswith("custom_jvp")
        if not (name in known or custom) or not signals:
            return False
        roots = {self.tracks[atom].root for atom in signals}
        others = [a for a in node.inputs if a not in signals and a not in params]
        (shape,) = {self.shape(out)}
        return (
            len(roots) == 1
            and all(self.shape(atom) == shape for atom in (*roots, *signals))
            and all(self.is_uniform(atom) for atom in others)
        )

    def is_uniform(self, atom: Atom) -> bool:
        """One number, as it is or broadcast."""
        if self.known.get(atom).kind != Kind.NOTHING:
            return self.shape(atom) == ()
        while not isinstance(atom, Literal) and self.shape(atom) != ():
            maker = self.maker(atom)
            if maker is None or maker.primitive not in ("broadcast_in_dim", "convert_element_type"):
                return False
            atom = maker.inputs[0]
        return True

    def extend(self, node: Node, out: int, signals: list[int], params) -> None:
        """Go on with a track; an operation that adds or multiplies a parameter begins a new one."""
        (root,) = {self.tracks[atom].root for atom in signals}
        tracks = [self.tracks[atom] for atom in signals]
        apart = len(signals) == 1 and len(self.users[signals[0]]) == 1
        if params and apart and node.primitive in dependence.LINEAR:
            uses = frozenset().union(*(self.known.get(atom).uses for atom in params))
            self.add_layer(node, out, SiteKind.OTHER, uses, signals)
            self.tracks[out] = _Track(out)
            return
        if node.primitive in _OF_LOSSES and any(map(_is_telling, tracks[0].nodes)):
            (begun,) = dict.fromkeys(signals)  # the activation is complete: a loss begins here
            self.tracks[out] = _Track(begun, (node,), nonlinear=True)
            return
        nodes = tuple(dict.fromkeys(n for track in tracks for n in track.nodes))
        linear = node.primitive in dependence.LINEAR and (
            len(signals) == 1 or node.primitive in ("add", "sub", "add_any")
        )
        nonlinear = any(track.nonlinear for track in tracks) or not linear
        ordered = tuple(n for n in self.frame.nodes if n in {*nodes, node})
        self.tracks[out] = _Track(root, ordered, nonlinear)

    def is_whole_function(self, node: Node, out: int, signals: list[int]) -> bool:
        """A function with a derivative of its own from one value to one of the same shape."""
        return (
            node.equation.primitive.name.startswith(("custom_vjp", "custom_jvp"))
            and len(signals) == 1
            and self.shape(signals[0]) == self.shape(out) != ()
        )

    def leaves_track(self, value: int, track: _Track) -> bool:
        """Is this the last of its elementwise function, where something else takes it up?"""
        if value in self.frame.outputs:
            return True
        within = lambda node: (  # noqa: E731
            len(node.outputs) == 1 and self.tracks[node.outputs[0]].root == track.root
        )
        return any(not within(node) for node in self.users[value])

    def add_nonlinearity(self, value: int, track: _Track) -> None:
        if track.root in self.reduced or track.root in self.statistics:
            return
        node = self.makers[value]
        names = [n.primitive for n in track.nodes] or [node.primitive]
        custom = [n.primitive for n in (*track.nodes, node) if _is_custom(n)]
        telling = [name for name in (*custom, *_TELLING) if name in names]
        nodes = [n for n in track.nodes if n.primitive in telling[:1]]
        calls = [c for c in (*nodes, node)[0].calls if c not in ("_where", "clip")]
        op = calls[-1] if calls else (telling or names)[0]
        only_reduced = all(n.primitive.startswith("reduce_") for n in self.users[value])
        if not telling and (only_reduced or set(names) <= {"exp", *dependence.LINEAR}):
            return
        if not self.known.of[value].sensitive or self.shape(value) == ():
            return
        if op in _LOSSES and not self.goes_on(value):
            return
        local = Local(track.root, track.nodes) if track.nodes else None
        self.rows[value] = Row(node, value, (op,), SiteKind.NONLINEARITY, local=local)

    def goes_on(self, value: int) -> bool:
        """Is there a layer downstream, in this frame or around it?"""
        if value in self.frame.outputs or self.known.loops[value]:
            return True
        reached, order = {value}, list(self.frame.nodes)
        for node in order:
            if reached.intersection(a for a in node.inputs if not isinstance(a, Literal)):
                if node.primitive in dependence.PRODUCTS or node.frames:
                    return True
                reached.update(node.outputs)
        return False


def _is_telling(node: Node) -> bool:
    return node.primitive in _TELLING or _is_custom(node)


def _is_custom(node: Node) -> bool:
    return node.equation.primitive.name.startswith("custom_")
