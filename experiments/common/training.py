"""Training one network over a grid, as several experiments do, and its best learning rate."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.common.groups import (
    PENALTIES,
    DataOptions,
    InitializerOptions,
    RunOptions,
    TrainingOptions,
)
from vanishing import data, layers, losses, networks, optimizers, sweep, train
from vanishing._loading import load_function

Settings = Mapping[str, Any]  # a value for each numeric axis of the sweep


@dataclasses.dataclass(frozen=True)
class _Completed(TrainingOptions):
    """The options of one network, of which it may leave some to those that it is compared with."""

    def without_effect(self) -> dict[str, str]:
        """Nothing is refused: whether an option is read at all was asked of the experiment."""
        return {}


def complete(config: RunOptions, **compared: Any) -> TrainingOptions:
    """The training options of a configuration together with those that it compares.

    Args:
      config: has some of the training options; the others have their defaults.
      compared: values of options that the experiment compares and `config` therefore lacks.

    Raises:
      TypeError: `config` has one of `compared` as well, which would be ignored.
    """
    names = {field.name for field in dataclasses.fields(TrainingOptions)}
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return _Completed(**{n: v for n, v in values.items() if n in names}, **compared)


def initializer_name(config: InitializerOptions, activation: str) -> str:
    """The initialiser that a network with this activation gets."""
    derived = layers.ACTIVATIONS[activation].initializer
    return derived if config.initializer == "derived" else config.initializer


def load(config: DataOptions) -> tuple[train.Data, int]:
    """The standardised data of a configuration as device arrays, and the number of classes."""
    dataset = data.standardize(data.load(config.data, config.data_dir or None, config.subset))
    return train.Data(*map(jnp.asarray, (*dataset.train, *dataset.test))), dataset.classes


def given_network(name: str, examples: train.Data, classes: int) -> layers.Layer:
    """The network that --network names, checked to classify the examples.

    Args:
      name: path/to/file.py:function.
      examples: the data; the network takes batches of `x_train`.
      classes: the length of its outputs.

    Raises:
      ValueError: there is no such function, or it returns no such network.
    """
    value = load_function(name, "network")()
    if not (isinstance(value, layers.Layer) or callable(value)):
        raise ValueError(
            f"network {name} returns {type(value).__name__}; it must return a vanishing.Layer, a "
            "Flax Linen module, or a function of rngs that builds a Flax NNX model."
        )
    x = examples.x_train[:2]

    def outputs(key: jax.Array) -> jax.Array:
        params, state = network.init(key, x)
        return network.apply(params, state, x).output

    try:
        network = value if isinstance(value, layers.Layer) else networks.from_flax(value)
        spec = jax.eval_shape(outputs, jax.random.key(0))
    except (TypeError, ValueError) as error:
        raise ValueError(f"network {name} does not run on images {x.shape[1:]}: {error}") from error
    if spec.shape != (len(x), classes):
        raise ValueError(
            f"network {name} maps {len(x)} images to outputs of shape {spec.shape}; it must be "
            f"{(len(x), classes)}, a number for each class."
        )
    return network


def chance(examples: train.Data) -> xr.Variable:
    """The accuracy of always answering the commonest class of the test examples."""
    accuracy = np.bincount(np.asarray(examples.y_test)).max() / len(examples.y_test)
    attrs = {"long_name": "accuracy of naming the commonest class", "units": "1"}
    return xr.Variable((), float(accuracy), attrs)


def cell(
    config: RunOptions,
    network: layers.Layer | Callable[[Settings], layers.Layer],
    label: Callable[[train.History], xr.Dataset] | None = None,
    rate_scale: float = 1.0,
    **compared: Any,
) -> sweep.Cell:
    """One network trained at every point of the numeric axes.

    Args:
      config: how to train it.
      network: the network, or what makes it from the point's settings.
      label: maps records to a dataset with the dimension `point`; `labelled` if None.
      rate_scale: what the points' learning rates are multiplied by.
      compared: training options that the experiment compares and `config` therefore lacks.
    """
    options = complete(config, **compared)
    run = train.make_run(
        lambda settings: _problem(options, network, settings, rate_scale),
        batch_size=options.examples_per_step(),
        record_every=options.record_every,
        precision=options.precision,
    )
    records = options.steps // options.record_every

    def of_all_records(history: train.History) -> xr.Dataset:
        trimmed = jax.tree.map(lambda leaf: leaf[:, : records + 1], history)
        return (label or labelled)(trimmed)

    def inspect(history: train.History) -> None:
        broken = ~np.isfinite(history.loss).all(0) & (history.step[0] <= options.steps)
        if options.abort_nonfinite and broken.any():
            at = history.step[0][broken][0]
            raise FloatingPointError(f"a loss is infinite or nan at step {at}.")

    return sweep.Cell(train.task(run, records=records), of_all_records, inspect)


def _problem(
    options: TrainingOptions,
    network: layers.Layer | Callable[[Settings], layers.Layer],
    settings: Settings,
    rate_scale: float,
) -> train.Problem:
    """The problem of one point: its network, loss, optimiser and penalty."""
    optimizer = optimizers.by_name(
        options.optimizer,
        rate_scale * settings["learning_rate"],
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        steps=options.steps,
        warmup_steps=options.warmup_steps,
        clipping=options.clipping,
        clip_threshold=settings.get("clip_threshold", options.clip_threshold),
    )
    return train.Problem(
        network=network if isinstance(network, layers.Layer) else network(settings),
        loss=losses.LOSSES[options.loss],
        optimizer=optimizer,
        penalty=lambda params: options.penalty_weight * PENALTIES[options.penalty](params),
    )


def labelled(history: train.History) -> xr.Dataset:
    """The history as a dataset, with a sentence on where each run's gradient was lost at first."""
    starts = [history.at(run, 0).trace for run in range(len(history.loss))]
    sentences = np.array([s.budget().sentence() if s else "" for s in starts], dtype=object)
    return train.to_dataset(history).assign(explanation=("point", sentences))


def best_learning_rate(dataset: xr.Dataset, last: int = 5) -> xr.DataArray:
    """For each network, the rate with the lowest training loss: mean over seeds and last records.

    A rate at which any seed diverged comes after all that stayed finite. Test examples have no
    influence.
    """
    losses = dataset.loss.isel(step=slice(-last, None)).astype(float)  # sums overflow in float32
    score = losses.mean(("step", "seed"), skipna=False)
    stayed = np.isfinite(dataset.loss).all(("step", "seed"))
    score = score.where(stayed & (score < float("inf")), float("inf"))
    return dataset.learning_rate.isel(learning_rate=score.argmin("learning_rate"))


def mean_and_spread(mean: float, spread: float, seeds: int) -> str:
    """A mean over seeds and their spread, in percent."""
    if np.isnan(mean):
        return "-"
    return f"{mean:.1%}" if seeds == 1 else f"{mean:.1%} ± {spread:5.1%}"


def over_seeds(seeds: int) -> str:
    """What `mean_and_spread` shows, in words."""
    return "of one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"


def power(log10: float) -> str:
    """10 to a power that may be outside of the range of floating-point numbers, as text."""
    if not np.isfinite(log10):
        return "nan" if np.isnan(log10) else "inf" if log10 > 0 else "0"
    exponent = int(np.floor(round(log10, 2)))
    return f"{10 ** (log10 - exponent):.1f}e{exponent:+03d}"
