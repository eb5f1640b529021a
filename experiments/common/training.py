"""What the training experiments share: their options, and one network trained over a grid."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.common import launch
from experiments.common.launch import option
from vanishing import data, initializers, layers, losses, optimizers, sweep, train

Settings = Mapping[str, Any]  # a value for each numeric axis of the sweep

PENALTIES = {"none": lambda params: jnp.zeros(()), "l1": losses.l1, "l2": losses.l2}


@dataclasses.dataclass(frozen=True)
class DataConfig(launch.Config):
    """Options of an experiment that looks at images."""

    data: str = option("digits", "Data set.", choices=tuple(data.DATASETS))
    data_dir: str = option(
        "", "Folder of its published files. If empty: $VANISHING_DATA_DIR, else downloaded once."
    )
    subset: bool = option(False, "Accept data files that hold fewer examples than published.")

    def question(self) -> dict[str, Any]:
        """The part that the results depend on: not where the data files lie, if they are whole."""
        options = super().question()
        if not self.subset:
            del options["data_dir"]
        return options


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Options of an experiment that trains networks to classify images."""

    width: int = option(64, "Units of every hidden layer.", at_least=1)
    loss: str = option("softmax_cross_entropy", "Loss.", choices=tuple(losses.LOSSES))
    penalty: str = option("none", "Penalty over the kernels.", choices=tuple(PENALTIES))
    penalty_weight: float = option(1e-4, "What the penalty is multiplied by.", at_least=0)
    optimizer: str = option("momentum", "Optimiser.", choices=tuple(optimizers.OPTIMIZERS))
    learning_rates: tuple[float, ...] = option(
        (0.001, 0.003, 0.01, 0.1),
        "Learning rates that every network is allowed to choose from.",
        more_than=0,
    )
    momentum: float = option(0.9, "Share of the last update kept, 0 to 1.", at_least=0)
    weight_decay: float = option(1e-4, "Of adamw and lion.", at_least=0)
    schedule: str = option("constant", "Learning rate over steps.", choices=optimizers.SCHEDULES)
    warmup_steps: int = option(0, "Length of a warm-up.", at_least=0)
    clipping: str = option("none", "Limit on the gradient.", choices=optimizers.CLIPPINGS)
    clip_threshold: float = option(1.0, "What the limit compares with.", more_than=0)
    batch_size: int = option(64, "Examples per step; 0 for all of them.", at_least=0)
    steps: int = option(600, "Training steps.", at_least=1)
    record_every: int = option(10, "Steps from one record to the next.", at_least=1)
    seeds: int = option(3, "Independent runs of every network, side by side.", at_least=1)
    precision: str = option("float32", "Arithmetic of the networks.", choices=tuple(train.DTYPES))
    abort_nonfinite: bool = option(
        False, "Give a network up, as failed, when the loss of any of its runs is infinite or nan."
    )

    def __post_init__(self):
        super().__post_init__()
        require_whole_records(self.steps, self.record_every)
        if self.schedule == "warmup" and self.warmup_steps < 1:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; with schedule warmup it must be at least 1."
            )
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}; it must be under 1.")

    def question(self) -> dict[str, Any]:
        """The part that the results depend on, with the batch size that is used."""
        return super().question() | {"batch_size": self.examples_per_step()}

    def examples_per_step(self) -> int:
        """The batch size; 0, for all examples, where that is what the optimiser is named for."""
        return 0 if self.optimizer == "gradient_descent" else self.batch_size


@dataclasses.dataclass(frozen=True)
class InitializedConfig(Config):
    """Options of such an experiment whose question is not how the weights are drawn."""

    initializer: str = option(
        "derived",
        "How kernels and biases are drawn; `derived` is the one derived for the activation.",
        choices=("derived", *(i for i in initializers.INITIALIZERS if i != "delta_orthogonal")),
    )
    init_scale: float = option(1.0, "Scale of constant, normal, uniform and orthogonal kernels.")
    sigma_w: float = option(1.0, "Std of `scaled` kernels times sqrt(fan_in).", at_least=0)
    sigma_b: float = option(0.0, "Std of `scaled` biases.", at_least=0)

    def scales(self) -> initializers.Scales:
        """The numbers that the named initialisers read."""
        return initializers.Scales(self.init_scale, self.sigma_w, self.sigma_b)


def require_whole_records(steps: int, record_every: int) -> None:
    """Refuse a run that would end between two records.

    Raises:
      ValueError: with both numbers.
    """
    if steps % record_every:
        raise ValueError(
            f"steps is {steps}; it must be a multiple of record_every ({record_every})."
        )


def initializer_name(config: InitializedConfig, activation: str) -> str:
    """The initialiser that a network with this activation gets."""
    derived = layers.ACTIVATIONS[activation].initializer
    return derived if config.initializer == "derived" else config.initializer


def load(config: DataConfig) -> tuple[train.Data, int]:
    """The standardised data of a configuration as device arrays, and the number of classes."""
    dataset = data.standardize(data.load(config.data, config.data_dir or None, config.subset))
    return train.Data(*map(jnp.asarray, (*dataset.train, *dataset.test))), dataset.classes


def chance(examples: train.Data) -> xr.Variable:
    """Accuracy of naming the commonest class of the test examples every time."""
    share = np.bincount(np.asarray(examples.y_test)).max() / len(examples.y_test)
    named = {"long_name": "accuracy of naming the commonest class", "units": "1"}
    return xr.Variable((), float(share), named)


def numeric_axes(config: Config) -> dict[str, Sequence[float]]:
    """The numeric axes that every network is trained over."""
    # Every learning rate meets the same seeds: the same initial weights and the same batches.
    return {"learning_rate": config.learning_rates, "seed": range(config.seeds)}


def cell(
    config: Config,
    network: layers.Layer | Callable[[Settings], layers.Layer],
    label: Callable[[train.History], xr.Dataset] | None = None,
    rate_scale: float = 1.0,
) -> sweep.Cell:
    """One network trained at every point of the numeric axes.

    Args:
      config: everything but the network.
      network: the network, or what makes it from the point's settings.
      label: maps records to a dataset with the dimension `point`; `train.to_dataset` if None.
      rate_scale: what the points' learning rates are multiplied by.
    """

    def problem(settings):
        return train.Problem(
            network=network(settings) if not isinstance(network, layers.Layer) else network,
            loss=losses.LOSSES[config.loss],
            optimizer=optimizers.by_name(
                config.optimizer,
                rate_scale * settings["learning_rate"],
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                schedule=config.schedule,
                steps=config.steps,
                warmup_steps=config.warmup_steps,
                clipping=config.clipping,
                clip_threshold=settings.get("clip_threshold", config.clip_threshold),
            ),
            penalty=lambda params: config.penalty_weight * PENALTIES[config.penalty](params),
        )

    run = train.make_run(
        problem,
        batch_size=config.examples_per_step(),
        record_every=config.record_every,
        precision=config.precision,
    )
    records = config.steps // config.record_every

    def of_all_records(history: train.History) -> xr.Dataset:
        trimmed = jax.tree.map(lambda leaf: leaf[:, : records + 1], history)
        return (label or labelled)(trimmed)

    def inspect(history: train.History) -> None:
        broken = ~np.isfinite(history.loss).all(0) & (history.step[0] <= config.steps)
        if config.abort_nonfinite and broken.any():
            at = history.step[0][broken][0]
            raise FloatingPointError(f"a loss is infinite or nan at step {at}.")

    return sweep.Cell(train.task(run, records=records), of_all_records, inspect)


def labelled(history: train.History) -> xr.Dataset:
    """Everything recorded, and a sentence on where each run's gradient was lost at its start."""
    starts = [
        jax.tree.map(lambda leaf, run=run: leaf[run, 0], history.trace)
        for run in range(len(history.loss))
    ]
    sentences = np.array([start.budget().sentence() for start in starts], dtype=object)
    return train.to_dataset(history).assign(explanation=("point", sentences))


def best_learning_rate(dataset: xr.Dataset, last: int = 5) -> xr.DataArray:
    """For each network, the rate with the lowest training loss: mean over seeds and last records.

    A rate at which any seed diverged comes after all that stayed finite. Test examples have no say.
    """
    score = dataset.loss.isel(step=slice(-last, None)).mean(("step", "seed"), skipna=False)
    stayed = np.isfinite(dataset.loss).all(("step", "seed"))
    score = score.where(stayed & (score < float("inf")), float("inf"))
    return dataset.learning_rate.isel(learning_rate=score.argmin("learning_rate"))


def share(mean: float, spread: float, seeds: int) -> str:
    """A mean over seeds and their spread, in percent."""
    if np.isnan(mean):
        return "-"
    return f"{mean:.1%}" if seeds == 1 else f"{mean:.1%} ± {spread:5.1%}"


def over(seeds: int) -> str:
    """What `share` shows."""
    return "of one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"
