"""What does backpropagation compute, step by step, and is it what jax.grad finds?

    python -m experiments.backprop --activation=sigmoid --depth=4 --width=16

Walks one small network through one batch of handwritten digits, in float64, by the equations of
`vanishing.backprop`: every intermediate beside that of `jax.grad`, the factors whose product is the
gradient, and what both passes cost. A few seconds. Expected: they differ by some 1e-15. With a
sigmoid, four slopes of 0.2 to 0.24 and weights that keep the size leave 0.3 % of the error signal.
The backward pass takes 1.5 times the operations of the forward pass; with --depth=30, 1.9 times.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common import groups, launch, training
from experiments.common.options import new_default, option
from experiments.common.sizes import difference, rms
from vanishing import _text, backprop, figures, initializers, layers, losses, networks, sweep
from vanishing.backprop.dense import Params
from vanishing.train.steps import DTYPES

SHOWN = 6  # layers at either end that the tables show
QUANTITIES = ("z", "a", "f'(z)", "dC/da", "delta", "dC/dW", "dC/db")  # of every layer


@dataclasses.dataclass(frozen=True)
class Config(groups.InitializerOptions, groups.WidthOptions, groups.DataOptions):
    """The network to walk through."""

    activation: str = option("sigmoid", "Nonlinearity.", choices=tuple(backprop.SLOPES))
    depth: int = option(4, "Number of hidden layers.", at_least=1)
    width: int = new_default(groups.WidthOptions, "width", 16)
    batch_size: int = option(32, "Examples in the batch.", at_least=1)
    seed: int = option(0, "Seed of the weights.", at_least=0)
    precision: str = option("float64", "Arithmetic.", choices=("float32", "float64"))


class Walk(NamedTuple):
    """The intermediates of one batch, of every layer from the first to the last."""

    z: list[jax.Array]
    a: list[jax.Array]
    slopes: list[jax.Array]  # f'(z)
    activation_errors: list[jax.Array]  # dC/da
    delta: list[jax.Array]
    kernels: list[jax.Array]  # dC/dW
    biases: list[jax.Array]  # dC/db
    cost: jax.Array


def by_hand(params: Params, x: jax.Array, labels: jax.Array, names: Sequence[str]) -> Walk:
    """The walk by the equations of `vanishing.backprop`."""
    passed = backprop.forward(params, x, names)
    logits = passed.activations[-1]
    error = backprop.softmax_cross_entropy_error(logits, labels)
    gradients = backprop.backward(params, passed, error, names)
    behind = zip(gradients.deltas[1:], params[1:], strict=True)
    return Walk(
        z=passed.pre_activations,
        a=passed.activations[1:],
        slopes=[
            backprop.slope_of(name)(z)
            for name, z in zip(names, passed.pre_activations, strict=True)
        ],
        activation_errors=[*(delta @ layer["kernel"].T for delta, layer in behind), error],
        delta=gradients.deltas,
        kernels=[layer["kernel"] for layer in gradients.params],
        biases=[layer["bias"] for layer in gradients.params],
        cost=backprop.softmax_cross_entropy(logits, labels),
    )


def by_grad(params: Params, x: jax.Array, labels: jax.Array, names: Sequence[str]) -> Walk:
    """The walk by `jax.grad`: errors are gradients of zeros that are added where they arise."""
    functions = [layers.ACTIVATIONS[name].function for name in names]

    def cost(params, to_z, to_a):
        pre_activations, activations = [], [x]
        for layer, f, nudge_z, nudge_a in zip(params, functions, to_z, to_a, strict=True):
            product = activations[-1] @ layer["kernel"]
            pre_activations.append(
                product + jnp.broadcast_to(layer["bias"], product.shape) + nudge_z
            )
            activations.append(f(pre_activations[-1]) + nudge_a)
        return losses.softmax_cross_entropy(activations[-1], labels), (pre_activations, activations)

    zeros = [jnp.zeros((len(x), layer["bias"].size), x.dtype) for layer in params]
    differentiate = jax.value_and_grad(cost, argnums=(0, 1, 2), has_aux=True)
    (value, (z, a)), (gradients, delta, activation_errors) = differentiate(params, zeros, zeros)
    return Walk(
        z=z,
        a=a[1:],
        slopes=[
            jax.jvp(f, (at,), (jnp.ones_like(at),))[1] for f, at in zip(functions, z, strict=True)
        ],
        activation_errors=activation_errors,
        delta=delta,
        kernels=[layer["kernel"] for layer in gradients],
        biases=[layer["bias"] for layer in gradients],
        cost=value,
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Both walks, the factors of the error signal, and the work of both passes."""
    del run  # one network, one batch
    examples, classes = training.load(config)
    if config.batch_size > len(examples.x_train):
        raise ValueError(
            f"batch_size has {config.batch_size}; {config.data} has {len(examples.x_train)} "
            "training examples."
        )
    dtype = DTYPES[config.precision]
    x = examples.x_train[: config.batch_size].astype(dtype).reshape(config.batch_size, -1)
    labels = examples.y_train[: config.batch_size]
    params = initial_params(config, classes, x)
    names = [config.activation] * config.depth + ["identity"]
    hand, grad = by_hand(params, x, labels, names), by_grad(params, x, labels, names)
    tables = {
        "rms": [[rms(array) for array in arrays] for arrays in hand[:-1]],
        "rms_by_grad": [[rms(array) for array in arrays] for arrays in grad[:-1]],
        "difference": [
            [difference(a, b) for a, b in zip(*pair, strict=True)]
            for pair in zip(hand[:-1], grad[:-1], strict=True)
        ],
    }
    shapes = " -> ".join(str(width) for width in (x.shape[1], *(b.size for b in hand.biases)))
    return xr.Dataset(
        {name: (("quantity", "layer"), values) for name, values in tables.items()}
        | factors(hand)
        | work(params, x, labels, names)
        | {"cost": float(hand.cost), "cost_difference": difference(hand.cost, grad.cost)},
        coords={"quantity": list(QUANTITIES), "layer": np.arange(1, len(params) + 1)},
        attrs={"shapes": shapes, "activation": config.activation, "precision": config.precision},
    )


def initial_params(config: Config, classes: int, x: jax.Array) -> list[dict[str, jax.Array]]:
    """The kernel and bias of every layer of the multilayer perceptron."""
    name = training.initializer_name(config, config.activation)
    network = networks.mlp(
        classes,
        depth=config.depth,
        width=config.width,
        activation=config.activation,
        weights=initializers.by_name(name),
    )
    params, _ = network.init(jax.random.key(config.seed), x)
    hidden = [params["hidden"][i]["dense"] for i in range(config.depth - 1)]
    return [params["first"]["dense"], *hidden, params["output"]["dense"]]


def factors(walk: Walk) -> dict[str, Any]:
    """The factors by which the weights above a layer, and then its slopes, change the error signal.

    They are ratios of root mean squares; their product over all layers is the RMS of delta at the
    first layer over that at the last.
    """
    delta, errors = (
        [rms(array) for array in arrays] for arrays in (walk.delta, walk.activation_errors)
    )
    with np.errstate(invalid="ignore"):  # where every unit is dead
        by_weights = [e / behind for e, behind in zip(errors[:-1], delta[1:], strict=True)]
        by_slopes = [d / e for d, e in zip(delta[:-1], errors[:-1], strict=True)]
    no_factor = [np.nan]  # the read-out's error comes from the cost
    return {
        "factor_of_weights": ("layer", by_weights + no_factor),
        "factor_of_slopes": ("layer", by_slopes + no_factor),
    }


def work(params: Params, x: jax.Array, labels: jax.Array, names: Sequence[str]) -> dict[str, Any]:
    """Operations and bytes of both passes: counted, and as XLA reports them."""
    widths = (x.shape[1], *(layer["bias"].size for layer in params))

    def forward(params, x):
        return losses.softmax_cross_entropy(
            backprop.forward(params, x, names).activations[-1], labels
        )

    def xla_work(walk_through):
        def passes(params, x):
            walk = walk_through(params, x, labels, names)
            return walk.cost, walk.kernels, walk.biases

        return backprop.xla_work(passes, params, x)

    forward_work = backprop.xla_work(forward, params, x)
    counted = [count(len(x), widths, x.dtype.itemsize) for count in _COUNTS]
    rows = [
        counted,
        [forward_work, xla_work(by_hand) - forward_work],
        [forward_work, xla_work(by_grad) - forward_work],
    ]
    return {
        "flops": (("source", "pass"), [[work.flops for work in row] for row in rows]),
        "bytes": (("source", "pass"), [[work.bytes for work in row] for row in rows]),
        "source": ["counted", "XLA, by hand", "XLA, jax.grad"],
        "pass": ["forward", "backward"],
    }


_COUNTS = (backprop.forward_work, backprop.backward_work)


def verdict(dataset: xr.Dataset) -> str:
    """Tables of every intermediate, of the factors and of the work, and an answer."""
    network = f"{dataset.attrs['shapes']}, {dataset.attrs['activation']}"
    largest = max(float(dataset.difference.max()), float(dataset.cost_difference))
    return "\n".join(
        [
            f"{network}; cost {float(dataset.cost):.4f} nats",
            "",
            *_intermediates(dataset),
            "",
            *_factors(dataset),
            "",
            *_signal_left(dataset),
            f"By hand and by jax.grad differ by {largest:.1e} at most, in "
            f"{dataset.attrs['precision']}.",
            "",
            *_costs(dataset),
        ]
    )


def _shown(dataset: xr.Dataset) -> list[int]:
    """The layers that tables show: those at either end."""
    last = int(dataset.layer[-1])
    return [int(n) for n in dataset.layer.values if n <= SHOWN or n > last - SHOWN]


def _intermediates(dataset: xr.Dataset) -> list[str]:
    """The table of every intermediate, by hand and by jax.grad."""
    rows = []
    for quantity, layer in itertools.product(dataset["quantity"].values, _shown(dataset)):
        entry = dataset.sel(quantity=quantity, layer=layer)
        sizes = (f"{float(entry.rms):.6g}", f"{float(entry.rms_by_grad):.6g}")
        rows.append([str(quantity), str(layer), *sizes, f"{float(entry.difference):.1e}"])
    left_out = dataset.sizes["layer"] - len(_shown(dataset))
    header = ["", "layer", "by hand", "jax.grad", "difference"]
    return [
        *_text.table(header, rows, texts=1).splitlines(),
        "",
        "by hand, jax.grad: root mean squares of pre-activations z, activations a, slopes,",
        "of their gradients (delta = dC/dz), and of those of weights and biases. difference: the",
        "largest difference between the two, entry by entry, over the largest entry.",
        *([f"The {left_out} layers between are in the dataset."] if left_out else []),
    ]


def _factors(dataset: xr.Dataset) -> list[str]:
    """The table of the factors of the error signal."""
    rows = []
    for layer in _shown(dataset)[:-1]:
        entry = dataset.sel(layer=layer)
        weights, slopes = float(entry.factor_of_weights), float(entry.factor_of_slopes)
        factors = (weights, slopes, weights * slopes)
        rows.append([str(layer), *(_text.number(factor, 3) or "-" for factor in factors)])
    return [
        *_text.table(["layer", "weights", "slopes", "factor"], rows, texts=1).splitlines(),
        "",
        "weights, slopes: what the weights above, and the layer's own slopes, multiply the",
        "root mean square of delta by; factor: both.",
    ]


def _signal_left(dataset: xr.Dataset) -> list[str]:
    """A sentence on the error signal that is left at the first layer."""
    factors = (dataset.factor_of_weights * dataset.factor_of_slopes).isel(layer=slice(None, -1))
    product = float(factors.prod("layer", skipna=False))
    delta = dataset.rms.sel(quantity="delta")
    if not np.isfinite(delta).all():
        return ["The error signal overflows: it is not finite at every layer."]
    if float(delta[0]) > 0:
        return [
            f"Of the error signal at the read-out {float(delta[0] / delta[-1]):.2e} is left at the",
            f"first layer: the product of the {factors.sizes['layer']} factors, {product:.2e}.",
        ]
    return ["Of the error signal nothing is left at the first layer that is not rounded to 0."]


def _costs(dataset: xr.Dataset) -> list[str]:
    """The table of operations and bytes."""
    rows = [
        [str(source), *_passes(dataset.flops, source), *_passes(dataset.bytes, source)]
        for source in dataset.source.values
    ]
    header = ["", "flops forward", "backward", "ratio", "bytes forward", "backward", "ratio"]
    return [
        *_text.table(header, rows, texts=1).splitlines(),
        "",
        "counted: as the equations are written, each array read and written once for each of",
        "them; what XLA fuses it keeps in registers. The first layer sends no error further.",
    ]


def _passes(work: xr.DataArray, source: str) -> list[str]:
    """The cost of the forward pass, of the backward pass, and their ratio."""
    forward, backward = (float(work.sel({"source": source, "pass": name})) for name in _PASSES)
    return [f"{forward:,.0f}", f"{backward:,.0f}", f"{backward / forward:.2f}"]


_PASSES = ("forward", "backward")


def figure(dataset: xr.Dataset) -> Figure:
    """Every intermediate by hand and by jax.grad, their difference, the factors, and the work."""
    title = "Backpropagation, step by step"
    drawing, grid = figures.panels(2, 3, title, size=(15.0, 8.0), share_rows=False)
    color = figures.colors(list(QUANTITIES))
    for axes, names in ((grid[0, 0], QUANTITIES[:3]), (grid[0, 1], QUANTITIES[3:])):
        for name in names:
            at = dataset.sel(quantity=name)
            axes.plot(at.layer, at.rms_by_grad, color=color[name], lw=1.3, label=name)
            axes.plot(at.layer, at.rms, "o", color=color[name], ms=5)
        figures.log_scale(axes)
        figures.note_if_empty(axes)
        figures.at_least_two_decades(axes)
        axes.set_ylabel("root mean square")
    grid[0, 0].set_title("Forward (lines: JAX; dots: by hand)", loc="left")
    grid[0, 1].set_title("Backward (lines: jax.grad; dots: by hand)", loc="left")
    for name in QUANTITIES:
        difference = dataset.difference.sel(quantity=name)
        grid[0, 2].plot(
            difference.layer, difference, "o-", color=color[name], lw=1, ms=4, label=name
        )
    grid[0, 2].margins(y=0.35)  # room for the legend
    grid[0, 2].set_ylim(bottom=0)
    grid[0, 2].set_ylabel("over the largest entry")
    grid[0, 2].set_title("Largest difference between the two", loc="left")
    for axes in grid[0]:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer")
        figures.legend(axes)
    _draw_factors(grid[1, 0], dataset)
    _draw_work(grid[1, 1], dataset.flops, "floating-point operations")
    _draw_work(grid[1, 2], dataset.bytes, "bytes read and written")
    return drawing


def _draw_factors(axes: Axes, dataset: xr.Dataset) -> None:
    hidden = dataset.isel(layer=slice(None, -1))
    parts = {"weights": hidden.factor_of_weights, "slopes": hidden.factor_of_slopes}
    parts["both"] = parts["weights"] * parts["slopes"]
    for offset, (name, factor) in zip((-0.27, 0.0, 0.27), parts.items(), strict=True):
        axes.bar(hidden.layer + offset, factor.where(np.isfinite(factor)), 0.25, label=name)
    axes.axhline(1.0, color="black", lw=1, ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer that the error signal arrives at")
    axes.set_ylabel("factor")
    axes.margins(y=0.25)  # room for the legend
    axes.set_title("Factors of the error signal", loc="left")
    axes.legend(loc="upper left", ncols=3)


def _draw_work(axes: Axes, work: xr.DataArray, label: str) -> None:
    sources = list(work.source.values)
    for place, name in zip((-0.2, 0.2), _PASSES, strict=True):
        heights = work.sel({"pass": name})
        bars = axes.bar(np.arange(len(sources)) + place, heights, 0.38, label=name)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks(range(len(sources)), sources)
    axes.margins(y=0.25)  # room for the legend
    axes.set_ylabel(label)
    axes.set_title("Cost of both passes", loc="left")
    axes.legend(loc="upper left", ncols=2)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
