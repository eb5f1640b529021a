"""Does mean-field theory predict the signal and the gradient of networks as they are drawn?

    python -m experiments.mean_field --activations=tanh,relu --blocks=plain,residual

A minute and a half on two CPU cores. Expected: the log mean-square gradient falls or grows along a
straight line of the predicted slope, within 5 % or 0.02 a layer, for every activation and block;
but not behind batch norm before tanh, sine or hard_tanh at small batches (10 % for tanh at 32),
since a batch's normalised numbers are not quite normal.

Two causes make finite networks differ, and --depth=30 --initializers=derived shows both. Residual
ReLU, x + relu(dense(x)), adds to every unit's mean, so that all inputs come to share a direction.
Only one part in `width` of the gradient lies along it, which theory leaves out, but that part grows
faster than the rest: at depth 14 the slope is off by 0.062 at width 128, by 0.023 at 512 and by
0.007 at 2048; and at width 512 by 0.18 at depth 30. The variance of plain GELU at He's scale
converges to 0 alone: its signal dies out ever faster, which multiplies the differences between one
network and the next, and their mean logarithm is not the logarithm of the mean.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.common import groups, launch
from experiments.common.options import option
from vanishing import _text, comparison, figures, initializers, layers, sweep, theory
from vanishing.layers import Layer
from vanishing.probing import Trace
from vanishing.sweep.parallel import Task

BLOCKS = ("plain", "residual", "pre_activation", "batch_norm", "layer_norm")
DERIVED, CRITICAL = "derived", "critical"
_TRUNK = ("residual", "pre_activation")  # their sums are the rows that are compared
_QUANTITIES = {
    "q": "mean square of the signal",
    "correlation": "correlation of two inputs",
    "log_backward": "mean square of dL/dh",
}


@dataclasses.dataclass(frozen=True)
class Config(groups.DrawnOptions):
    """The networks to predict and to measure."""

    activations: tuple[str, ...] = option(
        ("tanh", "relu", "sigmoid", "gelu", "selu"),
        "Activations to compare.",
        choices=tuple(layers.ACTIVATIONS),
    )
    initializers: tuple[str, ...] = option(
        ("scaled",),
        "Initialisers; derived: the one derived for the activation; critical: the scale that "
        "theory gives.",
        choices=(DERIVED, CRITICAL, *initializers.INITIALIZERS),
    )
    blocks: tuple[str, ...] = option(
        ("plain", "residual", "pre_activation", "batch_norm"),
        "Kinds of block; pre_activation is x + dense(f(x)), residual x + f(dense(x)).",
        choices=BLOCKS,
    )
    depth: int = option(16, "Number of blocks.", at_least=4)
    batch_size: int = option(64, "Inputs at once.", at_least=4)
    correlation: float = option(0.5, "Cosine of the angle between two inputs.", at_least=0)
    skip: int = option(3, "Blocks at each end that the slope leaves out.", at_least=0)
    scale: float = option(1.0, "Scale of constant, normal, uniform and orthogonal kernels.")
    sigma_w: float = option(1.5, "Std of `scaled` kernels times sqrt(fan_in).", at_least=0)
    sigma_b: float = option(0.3, "Std of `scaled` and `critical` biases.", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.depth - 2 * self.skip < 2:
            raise ValueError(
                f"skip has {self.skip}; with a depth of {self.depth} it must be at most "
                f"{(self.depth - 2) // 2}."
            )
        if self.correlation > 1:
            raise ValueError(f"correlation has {self.correlation}; it must be at most 1.")


def network(config: Config, activation: str, block: str, initializer: str) -> Layer:
    """A read-in, `depth` blocks and a read-out."""
    dense = functools.partial(layers.dense, **_weights(config, activation, initializer)._asdict())
    nonlinearity = layers.activation(activation)
    linear = {"dense": dense(config.width)}
    norm = {"batch_norm": layers.batch_norm, "layer_norm": layers.layer_norm}.get(block)
    if norm:
        linear["norm"] = norm()
    forward = layers.serial(**linear, activation=nonlinearity)
    repeated, first = forward, forward
    if block == "residual":
        repeated = layers.residual(forward)
    if block == "pre_activation":
        first = layers.serial(**linear)
        repeated = layers.residual(layers.serial(activation=nonlinearity, **linear))
    return layers.serial(
        first=first, hidden=layers.repeat(repeated, config.depth), output=dense(10)
    )


def _weights(config: Config, activation: str, initializer: str) -> initializers.Weights:
    if initializer == CRITICAL:
        points = [p for p in theory.critical(activation, config.sigma_b) if p.stable]
        if not points:
            raise ValueError(
                f"{activation} has no critical scale with a variance that lasts at "
                f"sigma_b={config.sigma_b}; give another --sigma_b."
            )
        point = points[0]
        return initializers.scaled(point.sigma_w, point.sigma_b)
    if initializer == DERIVED:
        initializer = layers.ACTIVATIONS[activation].initializer
    scales = initializers.Scales(config.scale, config.sigma_w, config.sigma_b)
    return initializers.by_name(initializer, scales)


def inputs(config: Config) -> Float[Array, "batch width"]:
    """Gaussian inputs of mean square 1 with the correlation of the configuration."""
    shared, own = jax.random.split(jax.random.key(0))
    common = jax.random.normal(shared, (1, config.width))
    independent = jax.random.normal(own, (config.batch_size, config.width))
    c = config.correlation
    return c**0.5 * jnp.broadcast_to(common, independent.shape) + (1 - c) ** 0.5 * independent


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every activation, block and initialiser: predicted, and drawn `seeds` times."""

    def cell(activation: str, block: str, initializer: str) -> sweep.Cell:
        net = network(config, activation, block, initializer)

        def init(point, x):
            init_key, measure_key = jax.random.split(jax.random.key(point["seed"]))
            return net.init(init_key, x), measure_key

        def measure(state, point, x):
            variables, key = state
            return state, comparison.measure(net, variables, x, key)

        def label(trace: Trace) -> xr.Dataset:
            return _by_block(comparison.compare(theory.predict(net, x), trace), config, block)

        return sweep.Cell(Task(init, measure), label)

    x = inputs(config)
    grid = sweep.Grid(
        structural={
            "activation": config.activations,
            "block": config.blocks,
            "initializer": config.initializers,
        },
        numeric={"seed": range(config.seeds)},
    )
    return _with_slopes(run(grid, cell, shared=x), config.skip)


def _by_block(comparison: xr.Dataset, config: Config, block: str) -> xr.Dataset:
    """The rows of the blocks' pre-activations, or of a residual network's sums."""
    names = [
        f"hidden[{i}]" + ("/add" if block in _TRUNK else ".dense") for i in range(config.depth)
    ]
    selection = comparison.sel(row=names).rename(row="layer", batch_0="point")
    return selection.assign_coords(layer=np.arange(1, config.depth + 1)).drop_attrs(deep=False)


def _with_slopes(dataset: xr.Dataset, skip: int) -> xr.Dataset:
    """The dataset with the growth of each network's gradient from block to block."""
    axes = ("activation", "block", "initializer")
    results = {}
    for names in itertools.product(*(dataset[axis].values for axis in axes)):
        cell = dataset.sel(dict(zip(axes, names, strict=True))).rename(layer="row")
        if cell.log_backward_measured.isnull().all():
            slope, verdict = comparison.Slope(np.nan, np.nan, np.nan), "failed"
        else:
            slope = comparison.slope(cell.assign_coords(row=cell["row"].astype(str)), r"\d+", skip)
            verdict = slope.verdict
        results[names] = {f"slope_{k}": v for k, v in slope._asdict().items()}
        results[names] |= {"agrees": slope.agrees, "verdict": verdict}
    sizes = [dataset.sizes[axis] for axis in axes]
    tables = {
        name: (axes, np.array([of[name] for of in results.values()]).reshape(sizes))
        for name in next(iter(results.values()))
    }
    return dataset.assign(tables)


_COLUMNS = [
    "activation",
    "block",
    "initializer",
    "slope",
    "measured",
    "error",
    "q ratio",
    "c error",
    "",  # the verdict
]


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def verdict(dataset: xr.Dataset) -> str:
    """A table of predicted and measured slopes, and of the errors of signal and correlation."""
    cells = [
        dataset.sel(activation=activation, block=block, initializer=initializer)
        for activation in dataset.activation.values
        for block in dataset.block.values
        for initializer in dataset.initializer.values
    ]
    agreeing = [bool(cell.agrees) for cell in cells]
    return "\n".join(
        [
            _text.table(_COLUMNS, [_row(cell) for cell in cells], texts=3),
            "",
            f"{sum(agreeing)} of {len(agreeing)} agree: within 0.02 or 5 % of the predicted slope.",
            "slope: growth of the log mean-square gradient from a block to the one before it; over",
            "0 gradients explode, under 0 they vanish. measured: mean over seeds ± standard error.",
            "error: measured less predicted. q ratio: mean square of the signal after the last",
            "block, measured over predicted. c error: error of two inputs' correlation there.",
        ]
    )


def _row(cell: xr.Dataset) -> list[str]:
    """The row of one kind of network in the table."""
    error = float(cell.slope_measured - cell.slope_predicted)
    end = cell.isel(layer=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.exp(float(np.log(end.q_measured / end.q_predicted).mean("seed")))
    c_error = float((end.correlation_measured - end.correlation_predicted).mean("seed"))
    return [
        *(str(cell[axis].item()) for axis in ("activation", "block", "initializer")),
        f"{float(cell.slope_predicted):.4f}",
        f"{float(cell.slope_measured):.4f} ± {float(cell.slope_error):.4f}",
        f"{error:+.4f}",
        f"{ratio:.3f}",
        f"{c_error:+.3f}",
        str(cell.verdict.item()),
    ]


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def figure(dataset: xr.Dataset) -> Figure:
    """Prediction as lines with their finite-width band, measurement as dots, by layer."""
    names = list(dataset.activation.values)
    columns = [(b, i) for b in dataset.block.values for i in dataset.initializer.values]
    color = figures.colors(names)
    title = "Predicted (lines) and measured (dots), by layer"
    drawing, grid = figures.panels(3, len(columns), title)
    for column, (block, initializer) in enumerate(columns):
        for row, quantity in enumerate(_QUANTITIES):
            axes = grid[row, column]
            for name in names:
                cell = dataset.sel(activation=name, block=block, initializer=initializer)
                figures.line_and_dots(
                    axes,
                    cell[f"{quantity}_predicted"],
                    cell[f"{quantity}_measured"],
                    cell.log_backward_std if quantity == "log_backward" else None,
                    color=color[name],
                    label=name,
                )
            if quantity == "q":
                figures.log_scale(axes)
        grid[0, column].set_title(f"{block.replace('_', ' ')}, {initializer}")
        grid[2, column].set_xlabel("layer (1 is next to the input)")
    grid[1, 0].set_ylim(-0.15, 1.05)
    for row, label in enumerate(_QUANTITIES.values()):
        grid[row, 0].set_ylabel(label)
    grid[2, 0].set_ylabel("log " + _QUANTITIES["log_backward"] + ",\nover that of the output")
    figures.legend(grid[2, 0])
    return drawing


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
