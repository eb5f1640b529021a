"""How much gradient reaches a state t steps back, for which cell, and does it learn long lags?

    python -m experiments.recurrent --task=adding

Five minutes on two CPU cores. Expected of the adding problem over 100 steps: at initialisation an
IRNN keeps the norm of dL/dh all the way, an LSTM with chrono initialisation loses 1.4 decades, a
plain one 4, tanh RNNs 9 and a GRU 12. All gated cells learn it; what the gradient loses at first
does not decide: the GRU has opened its gates after 200 steps, as soon as its loss falls, and then
loses half a decade; the LSTM does so after 500 to 800. The others get below the memoryless loss at
the lowest learning rate alone, to about a third of it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import groups, launch, training
from experiments.common.options import new_default, option
from vanishing import (
    _text,
    data,
    figures,
    layers,
    losses,
    networks,
    optimizers,
    sweep,
    theory,
    train,
)
from vanishing.data.sequences import RECALLED, SYMBOLS
from vanishing.layers import through_time
from vanishing.sweep.parallel import Task

WATCHED = 64  # test examples whose gradients through time are recorded
WITHIN = 0.04  # largest error of a right answer to adding (Hochreiter & Schmidhuber 1997)
BOUNDED = ("chrono_lstm",)  # cells whose prediction is a bound: the norm lies above it
STAYS, LEARNS = 0.9, 0.1  # test losses, over the memoryless one, at which a cell stays or learns


@dataclasses.dataclass(frozen=True)
class Config(groups.ClippingOptions, groups.RunOptions):
    """The cells to train, and the task."""

    task: str = option(
        "adding",
        "Task: the sum of two marked numbers; ten symbols to repeat; which of two symbols came "
        "first; digits, pixel by pixel.",
        choices=("adding", "copy_memory", "temporal_order", "pixels"),
    )
    cells: tuple[str, ...] = option(
        tuple(networks.CELLS), "Recurrent cells to compare.", choices=tuple(networks.CELLS)
    )
    length: int = option(
        100, "Steps of a sequence; of copy_memory, blanks; pixels always have 64.", at_least=10
    )
    units: int = option(32, "Width of the state.", at_least=1)
    examples: int = option(
        10_000, "Sequences to train on; there are a tenth as many to test.", at_least=100
    )
    optimizer: str = option("adam", "Optimiser.", choices=("adam", "rmsprop", "sgd"))
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.001, 0.003, 0.01)
    )
    clipping: str = new_default(groups.ClippingOptions, "clipping", "global_norm")
    batch_size: int = new_default(groups.RunOptions, "batch_size", 32)
    steps: int = new_default(groups.RunOptions, "steps", 3000)
    record_every: int = new_default(groups.RunOptions, "record_every", 100)
    seeds: int = new_default(groups.RunOptions, "seeds", 2)


class Goal(NamedTuple):
    """A task, and the loss that is reached without memory."""

    examples: train.Data
    outputs: int
    sequence: bool  # whether there is an output at every time, or at the last one alone
    loss: losses.Loss
    score: losses.Loss
    memoryless: float  # the loss of the best answer that uses no distant input


def goal(config: Config) -> Goal:
    """The task of a configuration, with examples drawn from keys of its own."""
    if config.task == "pixels":
        digits = data.standardize(data.load("digits"))
        parts = [(data.by_pixel(part.x), part.y) for part in (digits.train, digits.test)]
        loss, score, outputs = losses.softmax_cross_entropy, losses.accuracy, digits.classes
        memoryless = math.log(digits.classes)
    else:
        make = getattr(data, config.task)
        counts = config.examples, config.examples // 10
        keys = jax.random.split(jax.random.key(0))
        parts = [make(key, count, config.length) for key, count in zip(keys, counts, strict=True)]
        outputs, loss, score, memoryless = {
            "adding": (1, squared_error, within, data.ADDING_MEMORYLESS),
            "copy_memory": (
                SYMBOLS + 1,
                losses.softmax_cross_entropy,
                recalled,
                data.copy_memoryless(config.length),
            ),
            "temporal_order": (
                4,
                losses.softmax_cross_entropy,
                losses.accuracy,
                data.TEMPORAL_ORDER_MEMORYLESS,
            ),
        }[config.task]
    examples = train.Data(*(jnp.asarray(array) for part in parts for array in part))
    return Goal(examples, outputs, config.task == "copy_memory", loss, score, memoryless)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error of outputs with a single feature."""
    return losses.mean_squared_error(outputs[..., 0], targets)


def within(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Fraction of answers within 0.04 of the sum."""
    return jnp.mean(jnp.abs(outputs[..., 0] - targets) < WITHIN, dtype=outputs.dtype)


def recalled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Fraction of the ten symbols that are recalled."""
    count = RECALLED
    return losses.accuracy(outputs[..., -count:, :], targets[..., -count:])


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every cell trained at every learning rate from every seed, and predicted."""
    target = goal(config)
    chrono = target.examples.x_train.shape[1]
    grid = sweep.Grid(
        structural={"cell": config.cells},
        numeric=config.numeric_axes(),
    )
    dataset = run(grid, lambda cell: trained(config, target, cell, chrono), shared=target.examples)
    x = target.examples.x_train
    lags = dataset.lag.values
    lines = [predicted(cell, lags, x, config.units, chrono) for cell in config.cells]
    return dataset.assign(
        predicted_log10_left=(("cell", "lag"), np.stack(lines)),
        is_bound=("cell", [cell in BOUNDED for cell in config.cells]),
        memoryless=target.memoryless,
    ).assign_attrs(task=config.task)


def trained(config: Config, target: Goal, cell: str, chrono: int) -> sweep.Cell:
    """One cell trained at every point of the numeric axes, watched through time as it learns."""
    network = networks.rnn(
        target.outputs, cell=cell, width=config.units, chrono=chrono, sequence=target.sequence
    )
    recurrent = networks.recurrent_layer(cell, config.units, chrono, target.sequence)
    read_out = layers.dense(target.outputs)

    def problem(settings):
        optimizer = optimizers.by_name(
            config.optimizer,
            settings["learning_rate"],
            clipping=config.clipping,
            clip_threshold=config.clip_threshold,
        )
        return train.Problem(network, target.loss, optimizer, score=target.score)

    def through(params, examples):
        def of_last(h):
            outputs = read_out.apply(params["output"], {}, h).output
            targets = examples.y_test[:WATCHED]
            if target.sequence:  # else what the later answers add would hide how little gets far
                outputs, targets = outputs[:, -1], targets[:, -1]
            return target.loss(outputs, targets)

        x = examples.x_test[:WATCHED]
        return through_time.log_norms(recurrent, params["recurrent"], x, of_last)

    run = train.make_run(problem, batch_size=config.batch_size, record_every=config.record_every)
    records = config.steps // config.record_every
    task = train.task(run, records=records, chunks=records)

    def advance(state, settings, examples):
        logs = {name: part[None] for name, part in through(state.params, examples).items()}
        state, history = task.advance(state, settings, examples)
        return state, (history, logs)

    return sweep.Cell(Task(task.init, advance, task.chunks), labelled)


def labelled(output: tuple[train.History, dict[str, np.ndarray]]) -> xr.Dataset:
    """The losses and scores, and the gradient with respect to the state of every time."""
    history, logs = output
    dataset = train.to_dataset(history)
    dataset = dataset.drop_dims("layer")  # a step of time would count as one
    for name in ("h", "c"):
        backward = logs[name][..., ::-1] if name in logs else np.full(logs["h"].shape, np.nan)
        attrs = {"long_name": f"log10 of the norm of dL/d{name}, lag steps before the last"}
        values = np.asarray(backward, np.float64) / np.log(10)
        dataset[f"log10_{name}"] = (("point", "step", "lag"), values, attrs)
    lags = np.arange(dataset.sizes["lag"])
    return dataset.assign_coords(lag=("lag", lags, {"long_name": "steps back", "units": "1"}))


def predicted(cell: str, lags: np.ndarray, x: jax.Array, units: int, chrono: int) -> np.ndarray:
    """log10 of the predicted norm of the gradient at initialisation; nan where theory has none.

    It takes inputs for new at every step; where a part of them stays, as the mean of the numbers to
    add does, a gated cell keeps up to a tenth more a step. For the `BOUNDED` cells it is the mean
    along the gates that keep the state, which the norm does not fall under.
    """
    sigma_x = float(jnp.mean(jnp.square(x))) ** 0.5
    if cell in ("rnn", "orthogonal_rnn"):
        chi = jax.jit(lambda sigma_x: theory.rnn_chi("tanh", 1.0, sigma_x=sigma_x))(sigma_x)
        return lags * float(jnp.log10(chi)) / 2
    if cell in ("lstm", "gru"):
        gain = {"lstm": theory.lstm_gain, "gru": theory.gru_gain}[cell]
        params, _ = networks.recurrent_layer(cell, units).init(jax.random.key(0), x[:1])
        return gain(params, int(lags[-1]), sigma_x=sigma_x)[lags] / np.log(100)
    if cell == "chrono_lstm":
        gain = jax.jit(jax.vmap(lambda lag: theory.chrono_gain(lag, chrono)))(lags)
        return np.log10(np.asarray(gain, float))
    return np.full(len(lags), np.nan)


def decades(dataset: xr.Dataset) -> xr.DataArray:
    """Change of |dL/dh| in decades from the last state but one to the first; median over seeds."""
    ends = dataset.log10_h.isel(lag=-1, drop=True) - dataset.log10_h.sel(lag=1, drop=True)
    return ends.median("seed")


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def summary(dataset: xr.Dataset) -> xr.Dataset:
    """The change of the gradient, the loss and the score of each cell at its best learning rate."""
    best = dataset.sel(learning_rate=training.best_learning_rate(dataset))
    change, end = decades(best), best.isel(step=-1, drop=True)
    rates = dataset.learning_rate
    return xr.Dataset(
        {
            "learning_rate": best.learning_rate,
            "at_an_end": (best.learning_rate == rates[0]) | (best.learning_rate == rates[-1]),
            "decades": change.isel(step=0, drop=True),
            "decades_after": change.isel(step=-1, drop=True),
            "loss": end.test_loss.mean("seed") / dataset.memoryless,
            "score": end.test_accuracy.mean("seed"),
            "spread": end.test_accuracy.std("seed"),
            "diverged": (best.outcome == train.Outcome.DIVERGED).sum("seed"),
        }
    )


def answer(loss: float, diverged: int, seeds: int) -> str:
    """The outcome of a cell, from its test loss over the memoryless one."""
    if diverged:
        return f"diverges ({diverged} of {seeds} seeds)"
    if np.isnan(loss):
        return "failed"
    if loss >= STAYS:
        return "stays at the memoryless baseline"
    return "learns" if loss <= LEARNS else "learns in part"


def verdict(dataset: xr.Dataset) -> str:
    """A table of the cells' outcomes, and their order by test loss."""
    results, seeds = summary(dataset), dataset.sizes["seed"]
    rows = []
    for name in dataset.cell.values:
        row = results.sel(cell=name)
        mark = "*" if row.at_an_end and dataset.sizes["learning_rate"] > 1 else " "
        rows.append(
            [
                str(name),
                f"{float(row.decades):+.1f}",
                f"{float(row.decades_after):+.1f}",
                f"{float(row.learning_rate):g}{mark}",
                f"{float(row.loss):.3f}",
                training.mean_and_spread(float(row.score), float(row.spread), seeds),
                answer(float(row.loss), int(row.diverged), seeds),
            ]
        )
    header = ["cell", "decades", "after", "rate ", "loss", "score", ""]
    score = {
        "adding": f"fraction of sums answered within {WITHIN:g}",
        "copy_memory": "fraction of the ten symbols recalled",
    }.get(dataset.attrs["task"], "fraction of sequences classified right")
    finite = results.loss.where(results.diverged == 0).fillna(np.inf)
    order = [str(name) for name in finite.sortby(finite).cell.values]
    return "\n".join(
        [
            *_text.table(header, rows, 1).splitlines(),
            "",
            f"decades: by how many powers of ten |dL/dh_t| changes over {dataset.sizes['lag'] - 2} "
            "steps back in time,",
            "from the last state but one to the first, at initialisation; after: after training",
            "(-inf: nothing is left, as where all rectified units are off).",
            f"rate: of {dataset.sizes['learning_rate']} learning rates, the one with the lowest "
            "training loss; * the lowest or highest.",
            f"loss: test loss over {float(dataset.memoryless):.4g}, the loss of an answer without "
            "memory.",
            f"score: {score}, {training.over_seeds(seeds)}.",
            "",
            f"From the lowest test loss to the highest: {', '.join(order)}.",
        ]
    )


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def figure(dataset: xr.Dataset) -> Figure:
    """|dL/dh| by lag, before and after training and predicted, and the training loss."""
    best = dataset.sel(learning_rate=training.best_learning_rate(dataset))
    drawing, (gradient,), ((loss,),) = figures.panels_beside(
        1, 1, 1, "Gradient by time, and the training loss"
    )
    color = figures.colors(list(map(str, dataset.cell.values)))
    for name in dataset.cell.values:
        runs = best.sel(cell=name)
        start, end = (runs.log10_h.isel(step=at).median("seed") for at in (0, -1))
        for values, style in ((start, "-"), (end, "--")):
            finite = values.where(np.isfinite(values))
            gradient.plot(finite.lag, finite, style, color=color[str(name)], lw=1.3)
        score = f"{float(runs.test_accuracy.isel(step=-1).mean('seed')):.0%}"
        diverged = bool((runs.outcome == train.Outcome.DIVERGED).any())
        label = f"{name}: {'diverged' if diverged else score}"
        figures.curve(loss, runs.loss, color=color[str(name)], lw=1, label=label)
    gradient.set_ylim(gradient.get_ylim())  # a prediction that is off would flatten all else
    for name in dataset.cell.values:
        prediction = dataset.predicted_log10_left.sel(cell=name)
        first = best.log10_h.sel(cell=name, lag=1).isel(step=0).median("seed")
        line = first + prediction - prediction.sel(lag=1)
        style = "-." if bool(dataset.is_bound.sel(cell=name)) else ":"
        gradient.plot(line.lag, line, style, color=color[str(name)], lw=1)
    styles = {"-": "at initialisation", "--": "after training", ":": "predicted"}
    if dataset.is_bound.any():
        styles["-."] = "a bound from below"
    for style, label in styles.items():
        gradient.plot([], [], style, color="gray", label=label)
    figures.legend(gradient)
    gradient.set_xlabel("steps before the last")
    gradient.set_ylabel("log10 |dL/dh|")
    base = float(dataset.memoryless)
    loss.axhline(base, color="black", lw=1, ls=":", label="without memory")
    loss.set_ylim(0, 2 * base)
    loss.set_xlabel("training step")
    loss.set_ylabel("training loss")
    figures.legend(loss, title="score")
    return drawing


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
