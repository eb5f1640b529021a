"""Do plain networks of 100, 1,000 and 10,000 layers train, with neither skips nor normalisation?

    python -m experiments.extreme_depth --depths=100,1000,10000

Four minutes on two CPU cores, three of them for the deepest network. Expected, on handwritten
digits: 95 to 98 % test accuracy, as orthogonal weights at the critical scale pass the error signal
through every layer unchanged; predicted and measured error signal agree layer by layer. With
--checkpoint the activations are computed anew on the way back, block by block, in a fiftieth of the
memory at depth 10,000. (Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018,
first trained 10,000 plain layers: of convolutions.)
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import groups, launch, training
from experiments.common.options import new_default, option
from vanishing import _text, figures, initializers, layers, losses, sweep, theory, train
from vanishing.theory.roots import root

_FIRST = 100  # the depth that the learning rates are given for


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ClassifierOptions):
    """The networks to train."""

    activation: str = new_default(groups.ActivationOptions, "activation", "tanh")
    depths: tuple[int, ...] = option((100, 1000, 10000), "Numbers of hidden layers.", at_least=2)
    spread: float = option(
        0.5,
        "Standard deviation of the squared singular values of the whole network's Jacobian, whose "
        "mean is 1: sets the variance of the pre-activations.",
        more_than=0,
    )
    checkpoint: bool = option(
        False, "Keep the activations of every sqrt(depth)-th layer alone, with jax.checkpoint."
    )
    learning_rates: tuple[float, ...] = option(
        (0.001, 0.002),
        f"Learning rates at depth {_FIRST}; a network twice as deep gets half of it, since every "
        "layer adds to the change that a step makes.",
        more_than=0,
    )
    steps: int = new_default(groups.RunOptions, "steps", 300)
    record_every: int = new_default(groups.RunOptions, "record_every", 50)
    seeds: int = new_default(groups.RunOptions, "seeds", 1)


def variance(activation: str, depth: int, spread: float) -> float:
    """The q at which the squared singular values of so many layers have the deviation `spread`.

    With orthogonal weights at the critical scale these have the mean 1 and the variance
    depth * (mu_2 / mu_1^2 - 1), where mu_k = E[f'(h)^(2k)].

    Raises:
      ValueError: their deviation is larger at any q.

    Reference: Pennington, Schoenholz & Ganguli, Resurrecting the sigmoid, NeurIPS 2017, eq. 22.
    """
    facts = layers.facts_of(activation)

    def excess(log_q: float) -> float:
        m = facts.moments(math.exp(log_q), 0.0)
        return float(depth * (m.slope_fourth / m.slope_square**2 - 1)) - spread**2

    low, high = math.log(1e-8), math.log(10.0)
    if not excess(low) < 0 < excess(high):
        raise ValueError(
            f"{activation} has no scale at which {depth} layers keep all singular values within "
            f"{spread:g} of 1; take one that is smooth and straight at 0, such as tanh."
        )
    return math.exp(root(excess, low, high))


def critical_point(config: Config, depth: int) -> theory.CriticalPoint:
    """The critical scales at which the singular values of so many layers stay near 1."""
    return theory.critical_line(
        config.activation, variance(config.activation, depth, config.spread)
    )


def network(config: Config, depth: int, classes: int, *, checkpoint: bool) -> layers.Layer:
    """The network; with `checkpoint` in about sqrt(depth) blocks whose inputs alone are kept."""
    point = critical_point(config, depth)
    weights = initializers.Weights(initializers.orthogonal(float(point.sigma_w)))
    weights = weights._replace(bias_init=initializers.scaled(1.0, point.sigma_b).bias_init)
    block = layers.serial(
        dense=layers.dense(config.width, *weights), activation=layers.activation(config.activation)
    )
    parts = {"hidden": layers.repeat(block, depth - 1)}
    if checkpoint:
        inner = math.isqrt(depth - 1)
        blocks, remainder = divmod(depth - 1, inner)
        checkpoint_block = layers.checkpoint(layers.repeat(block, inner))
        parts = {"hidden": layers.repeat(checkpoint_block, blocks)}
        parts |= {"rest": layers.repeat(block, remainder)} if remainder else {}
    read_out = layers.serial(dense=layers.dense(classes, *weights))
    return layers.serial(flatten=layers.flatten(), first=block, **parts, output=read_out)


def scaled_to(examples: train.Data, config: Config, depth: int) -> float:
    """The factor of the inputs that gives the first pre-activations the variance q."""
    point = critical_point(config, depth)
    mean_square = jnp.mean(jnp.square(examples.x_train))
    return float(jnp.sqrt((point.q - point.sigma_b**2) / mean_square) / point.sigma_w)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every depth, trained at every learning rate from every seed, and predicted."""
    examples, classes = training.load(config)

    def cell(depth: int) -> sweep.Cell:
        scale = scaled_to(examples, config, depth)
        scaling = layers.stateless(lambda x: scale * x)
        net = layers.serial(
            scaling=scaling, network=network(config, depth, classes, checkpoint=config.checkpoint)
        )

        def label(history: train.History) -> xr.Dataset:
            plain = network(config, depth, classes, checkpoint=False)
            batch = examples.x_train[: config.examples_per_step() or None]
            prediction = theory.predict(plain, scale * batch)
            rows = [i for i, name in enumerate(prediction.names) if name.endswith(".dense")]
            log_backward = np.asarray(prediction.log_backward)[rows]
            return train.to_dataset(history).assign(
                q_predicted=("layer", np.asarray(prediction.q)[rows]),
                log_backward_predicted=("layer", log_backward - log_backward[-1]),
                memory=_memory(plain, batch),
                memory_with_checkpoint=_memory(
                    network(config, depth, classes, checkpoint=True), batch
                ),
            )

        return training.cell(config, net, label, rate_scale=_FIRST / depth)

    grid = sweep.Grid(structural={"depth": config.depths}, numeric=config.numeric_axes())
    dataset = run(grid, cell, shared=examples)
    return dataset.assign_coords(chance=training.chance(examples)).assign_attrs(
        checkpoint=str(config.checkpoint)
    )


def _memory(net: layers.Layer, x: jax.Array) -> float:
    """Bytes of working space of a batch's gradient, by XLA's own account."""
    y = jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)

    def loss(params, state, x, y):
        return losses.softmax_cross_entropy(net.apply(params, state, x).output, y)

    analysis = jax.jit(jax.grad(loss)).lower(params, state, x, y).compile().memory_analysis()
    return float(analysis.temp_size_in_bytes) if analysis else math.nan


_COLUMNS = ["depth", "rate", "test accuracy", "signal left", "predicted", "memory", "checkpoint"]


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def verdict(dataset: xr.Dataset) -> str:
    """A table of the accuracy and the memory of each depth, and of its error signal."""
    best = training.best_learning_rate(dataset, last=2)
    best_runs = dataset.sel(learning_rate=best)
    accuracy = best_runs.test_accuracy.isel(step=-1)
    start = 2 * np.log(best_runs.cotangent_rms.isel(step=0).astype(float))
    rows = []
    for depth in dataset.depth.values:
        logs = start.sel(depth=depth, layer=slice(1, int(depth))).mean("seed")
        share = float(np.exp((logs.isel(layer=0) - logs.isel(layer=-1)) / 2))
        line = dataset.log_backward_predicted.sel(depth=depth, layer=slice(1, int(depth)))
        predicted = float(np.exp((line.isel(layer=0) - line.isel(layer=-1)) / 2))
        ends = accuracy.sel(depth=depth)
        memory, less = (
            f"{float(dataset[name].sel(depth=depth)) / 1e6:.1f} MB"
            for name in ("memory", "memory_with_checkpoint")
        )
        rate = float(best.sel(depth=depth)) * _FIRST / int(depth)
        spread = training.mean_and_spread(float(ends.mean()), float(ends.std()), ends.sizes["seed"])
        numbers = [f"{rate:.2g}", spread, f"{share:.3f}", f"{predicted:.3f}", memory, less]
        rows.append([str(int(depth)), *numbers])
    lines = [
        _text.table(_COLUMNS, rows, texts=0),
        "",
        "signal left: the error signal of the first hidden layer over that of the last, at",
        "initialisation; predicted: the same by mean-field theory, before a weight is drawn.",
        "memory: working space of a gradient; checkpoint: the same with jax.checkpoint "
        f"({'on' if dataset.attrs['checkpoint'] == 'True' else 'off'} in this run).",
        f"test accuracy: {training.over_seeds(dataset.sizes['seed'])}, at the best of "
        f"{dataset.sizes['learning_rate']} rates; chance is {float(dataset.chance):.1%}.",
    ]
    return "\n".join(lines)


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, predicted and measured, and the curves of training."""
    best_runs = dataset.sel(learning_rate=training.best_learning_rate(dataset, last=2))
    depths = [int(depth) for depth in dataset.depth.values]
    drawing, grid = figures.panels(
        3, len(depths), "Plain networks at the critical scale: predicted (lines), measured (dots)"
    )
    color = figures.colors(["signal", "error signal", "after", "accuracy"])
    for column, depth in enumerate(depths):
        runs = best_runs.sel(depth=depth)
        hidden = runs.sel(layer=slice(1, depth))
        log_error = 2 * np.log(hidden.cotangent_rms)
        for row, (predicted, measured) in enumerate(
            (
                (np.log(hidden.q_predicted), 2 * np.log(hidden.signal_rms)),
                (
                    hidden.log_backward_predicted - hidden.log_backward_predicted.isel(layer=-1),
                    log_error - log_error.isel(layer=-1),
                ),
            )
        ):
            axes, name = grid[row, column], ("signal", "error signal")[row]
            figures.line_and_dots(
                axes, predicted, measured.isel(step=0), color=color[name], label="at initialisation"
            )
            after = measured.isel(step=-1).mean("seed")
            axes.plot(after.layer, after, color="gray", ls="--", lw=1, label="after training")
        figures.curve(grid[2, column], runs.test_accuracy, color=color["accuracy"], lw=1.5)
        grid[0, column].set_title(f"{depth:,} layers")
        grid[1, column].set_xlabel("layer (1 is next to the input)")
        grid[2, column].set_xlabel("training step")
        grid[2, column].axhline(0.9, color="gray", ls=":", lw=1)
    grid[2, 0].set_ylim(0, 1.02)
    grid[0, 0].set_ylabel("log mean square of the signal")
    grid[1, 0].set_ylabel("log mean square of dL/dh,\nover that of the last layer")
    grid[2, 0].set_ylabel("test accuracy")
    figures.legend(grid[1, 0])
    return drawing


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
