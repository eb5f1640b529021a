"""Blocks of two layers of weights: plain, and in every way of adding them to their input."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from vanishing import _arguments, initializers, layers
from vanishing.initializers import Weights
from vanishing.layers import Layer
from vanishing.layers.activations import Nonlinearity

MakeWeight = Callable[[Weights], Layer]
_OPEN_ENDED = ("pre_activation", "scaled", "skipinit")  # blocks that end in weights


@_arguments.checked
def block(
    kind: str,
    weight: MakeWeight,
    *,
    blocks: int,
    activation: Nonlinearity = "relu",
    weights: Weights | None = None,
    norm: Layer | None = None,
    into: MakeWeight | None = None,
    shortcut: Layer | None = None,
    gate_bias: float = -2.0,
) -> Layer:
    """One of a network's `blocks` blocks, with two layers of weights and a nonlinearity.

    Its output for an input x, with weights W1 and W2, nonlinearity f, and norm N (if any):

    - plain: f(N(W2 f(N(W1 x))))
    - post_activation: f(x + N(W2 f(N(W1 x)))) (He et al., CVPR 2016, fig. 2)
    - pre_activation: x + W2 f(N(W1 f(N(x)))) (He et al., Identity mappings, ECCV 2016, fig. 4e)
    - scaled: x + W2 f(N(W1 f(N(x)))) / blocks^(1/2) (Hayou et al., Stable ResNet, AISTATS 2021)
    - rezero: x + a f(N(W2 f(N(W1 x)))), a learnt from 0 (Bachlechner et al., UAI 2021)
    - skipinit: x + a W2 f(N(W1 f(N(x)))), a learnt from 0 (De & Smith, NeurIPS 2020, sec. 4)
    - fixup: f(x + m W2 f(W1 x)), W2 starting at 0 and W1 at blocks^(-1/2) of its usual scale, and
      a multiplier m and a shift before every W and f to learn (Zhang et al., ICLR 2019, sec. 3)
    - highway: T f(N(W1 x)) + (1 - T) x with T = sigmoid(W2 x + gate_bias) (Srivastava et al.,
      NeurIPS 2015, eq. 3)

    Args:
      kind: one of `BLOCKS`, the names above.
      weight: makes a layer of weights from its initialisers, such as
        `lambda weights: layers.dense(64, *weights)`.
      blocks: how many of them the network has; at least 1.
      activation: as for `layers.activation`.
      weights: initialisers of all kernels and biases; by default those derived for the activation.
      norm: as for `networks.mlp`; fixup, which is for networks without one, takes none.
      into: makes the layers that read x, where they differ from `weight`: by their strides.
      shortcut: stands in the place of x in the sum where shapes differ; plain has none.
      gate_bias: of a highway's gate as training starts.

    Raises:
      ValueError: the kind is unknown, `blocks` is under 1, or fixup got a norm.
    """
    _arguments.one_of("kind", kind, BLOCKS)
    _arguments.whole("blocks", blocks, 1)
    if kind == "fixup" and norm:
        raise ValueError("kind is 'fixup' with a norm, which fixup replaces; leave it out.")
    if kind == "plain" and shortcut:
        raise ValueError("kind is 'plain' with a shortcut; a plain block adds nothing to it.")
    return BLOCKS[kind](
        _Parts(
            weight=weight,
            into=into or weight,
            weights=chosen(weights, layers.facts_of(activation).weights),
            nonlinearity=layers.activation(activation),
            norm={"norm": norm} if norm else {},
            shortcut=shortcut,
            blocks=blocks,
            gate_bias=gate_bias,
        )
    )


def chosen(weights: Weights | None, default: Weights) -> Weights:
    """The initialisers that a network was given, or the default.

    Raises:
      ValueError: they are something else, such as a name.
    """
    if weights is None:
        return default
    what = "`initializers.Weights`, as `initializers.by_name('he_normal')` are"
    _arguments.instance("weights", weights, Weights, what)
    return weights


class Ends(NamedTuple):
    """The layers around the blocks of a network, by name."""

    before: dict[str, Layer]  # between the layer that reads the input and the blocks
    after: dict[str, Layer]  # between the blocks and the read-out
    read_out: Weights


def ends(kind: str, nonlinearity: Layer, norm: Layer | None, weights: Weights) -> Ends:
    """The layers that such blocks need around them: a nonlinearity before or after, a read-out.

    With fixup the read-out starts at zero, as in its paper.
    """
    end = {**({"norm": norm} if norm else {}), "activation": nonlinearity}
    read_out = Weights(initializers.zeros) if kind == "fixup" else weights
    return Ends({}, end, read_out) if kind in _OPEN_ENDED else Ends(end, {}, read_out)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The parts of a block."""

    weight: MakeWeight
    into: MakeWeight
    weights: Weights
    nonlinearity: Layer
    norm: dict[str, Layer]  # empty where there is none
    shortcut: Layer | None
    blocks: int
    gate_bias: float

    def after(self, weight: Layer) -> Layer:
        """Weights, norm, nonlinearity."""
        return layers.serial(weight=weight, **self.norm, activation=self.nonlinearity)

    def before(self, weight: Layer) -> Layer:
        """Norm, nonlinearity, weights."""
        return layers.serial(**self.norm, activation=self.nonlinearity, weight=weight)

    def post(self, **end: Layer) -> Layer:
        """Two layers, each with its nonlinearity behind it."""
        first, second = self.into(self.weights), self.weight(self.weights)
        return layers.serial(first=self.after(first), second=self.after(second), **end)

    def post_open(self) -> Layer:
        """The same without the last nonlinearity."""
        second = layers.serial(weight=self.weight(self.weights), **self.norm)
        return layers.serial(first=self.after(self.into(self.weights)), second=second)

    def pre(self, **end: Layer) -> Layer:
        """Two layers, each with its nonlinearity in front of it."""
        first, second = self.into(self.weights), self.weight(self.weights)
        return layers.serial(first=self.before(first), second=self.before(second), **end)

    def fixup(self) -> Layer:
        """Two layers without a norm, the last one zero, with shifts and a multiplier."""
        exponent = -1 / 2  # -1 / (2 m - 2) for the m = 2 layers of a branch
        smaller = initializers.rescaled(self.weights.kernel_init, self.blocks**exponent)
        return layers.serial(
            first=layers.serial(
                shift_in=layers.shift(),
                weight=self.into(self.weights._replace(kernel_init=smaller)),
                shift_out=layers.shift(),
                activation=self.nonlinearity,
            ),
            second=layers.serial(
                shift_in=layers.shift(),
                weight=self.weight(Weights(initializers.zeros)),
                multiplier=layers.multiplier(),
                shift_out=layers.shift(),
            ),
        )

    def gate(self) -> Layer:
        """Weights and a sigmoid that starts nearly shut."""
        opening = initializers.constant(self.gate_bias)
        return layers.serial(
            weight=self.into(self.weights._replace(bias_init=opening)),
            activation=layers.activation("sigmoid"),
        )

    def sum(self, branch: Layer, scale: float = 1.0) -> Layer:
        """The sum of the input and the branch."""
        return layers.residual(branch, shortcut=self.shortcut, branch_scale=scale)

    def closed_sum(self, branch: Layer) -> Layer:
        """The same with a nonlinearity behind it."""
        return layers.serial(sum=self.sum(branch), activation=self.nonlinearity)


# The kinds of block by name.
BLOCKS: dict[str, Callable[[_Parts], Layer]] = {
    "plain": lambda p: p.post(),
    "post_activation": lambda p: p.closed_sum(p.post_open()),
    "pre_activation": lambda p: p.sum(p.pre()),
    "scaled": lambda p: p.sum(p.pre(), p.blocks**-0.5),
    "rezero": lambda p: p.sum(p.post(multiplier=layers.multiplier(0.0))),
    "skipinit": lambda p: p.sum(p.pre(multiplier=layers.multiplier(0.0))),
    "fixup": lambda p: p.closed_sum(p.fixup()),
    "highway": lambda p: layers.highway(p.after(p.into(p.weights)), p.gate(), shortcut=p.shortcut),
}
