"""Groups of options that several experiments share; see `options`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp

from experiments.common.launch import OutputOptions, SweepOptions
from experiments.common.options import option
from vanishing import data, initializers, layers, losses, optimizers, train
from vanishing._loading import locate

PENALTIES = {"none": lambda params: jnp.zeros(()), "l1": losses.l1, "l2": losses.l2}


@dataclasses.dataclass(frozen=True)
class DrawnOptions(SweepOptions):
    """Networks that are drawn and measured but not trained."""

    width: int = option(512, "Units of every hidden layer.", at_least=2)
    seeds: int = option(8, "Networks drawn of every kind.", at_least=1)


@dataclasses.dataclass(frozen=True)
class DataOptions(OutputOptions):
    """The images that networks learn to classify."""

    data: str = option("digits", "Data set.", choices=tuple(data.DATASETS))
    data_dir: str = option(
        "", "Folder of its published files. If empty: $VANISHING_DATA_DIR, else downloaded once."
    )
    subset: bool = option(False, "Accept data files that hold fewer examples than published.")

    def question(self) -> dict[str, Any]:
        """The part that the results depend on: not the place of complete data files."""
        options = super().question()
        if not self.subset:
            del options["data_dir"]
        return options


@dataclasses.dataclass(frozen=True)
class WidthOptions(OutputOptions):
    """The width of a network."""

    width: int = option(64, "Units of every hidden layer.", at_least=1)


@dataclasses.dataclass(frozen=True)
class ActivationOptions(OutputOptions):
    """The nonlinearity of a network."""

    activation: str = option("relu", "Nonlinearity.", choices=tuple(layers.ACTIVATIONS))


@dataclasses.dataclass(frozen=True)
class InitializerOptions(OutputOptions):
    """The initial weights of a network, by name."""

    initializer: str = option(
        "derived",
        "How kernels and biases are drawn; `derived` is the one derived for the activation.",
        choices=("derived", *(i for i in initializers.INITIALIZERS if i != "delta_orthogonal")),
    )


@dataclasses.dataclass(frozen=True)
class ScaledInitializerOptions(InitializerOptions):
    """The initial weights of a network, by name and scale."""

    init_scale: float = option(1.0, "Scale of constant, normal, uniform and orthogonal kernels.")
    sigma_w: float = option(1.0, "Std of `scaled` kernels times sqrt(fan_in).", at_least=0)
    sigma_b: float = option(0.0, "Std of `scaled` biases.", at_least=0)

    def without_effect(self) -> dict[str, str]:
        """The scales that the named initialiser does not read."""
        unread = () if self.initializer == "scaled" else ("sigma_w", "sigma_b")
        unread += () if self.initializer in _SCALED else ("init_scale",)
        instead = f"initializer is {self.initializer}, which does not read it"
        return super().without_effect() | dict.fromkeys(unread, instead)

    def scales(self) -> initializers.Scales:
        """The numbers that the named initialisers read."""
        return initializers.Scales(self.init_scale, self.sigma_w, self.sigma_b)


_SCALED = ("constant", "normal", "uniform", "identity", "orthogonal")

WEIGHTS = tuple(  # the options that initial weights are drawn by
    field.name
    for field in dataclasses.fields(ScaledInitializerOptions)
    if field.name not in {inherited.name for inherited in dataclasses.fields(OutputOptions)}
)


@dataclasses.dataclass(frozen=True)
class NetworkOptions(OutputOptions):
    """A network of the user's own.

    `own_network` of a Config names the options of the experiment's own network, which then have
    no effect: they are refused unless they have their defaults, and are no part of the question.
    """

    own_network: ClassVar[tuple[str, ...]] = ()

    network: str = option(
        "",
        "A network of yours in place of the experiment's, as path/to/file.py:name. The function "
        "takes nothing and returns a vanishing.Layer, a Flax Linen module, or a function of rngs "
        "that builds a Flax NNX model.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.network:
            return
        locate(self.network, "network")

    def without_effect(self) -> dict[str, str]:
        """The options of the experiment's own network, where another is given."""
        instead = "--network brings a network of its own"
        names = self.own_network if self.network else ()
        return super().without_effect() | dict.fromkeys(names, instead)

    def question(self) -> dict[str, Any]:
        """The part that the results depend on: the given network, or the experiment's options."""
        unread = self.own_network if self.network else ("network",)
        return {name: value for name, value in super().question().items() if name not in unread}

    def sources(self) -> dict[str, Path]:
        """The file of the given network."""
        return {"network": locate(self.network, "network")[0]} if self.network else {}


@dataclasses.dataclass(frozen=True)
class LossOptions(OutputOptions):
    """The loss of training."""

    loss: str = option("softmax_cross_entropy", "Loss.", choices=tuple(losses.LOSSES))


@dataclasses.dataclass(frozen=True)
class PenaltyOptions(OutputOptions):
    """The penalty that is added to the loss."""

    penalty: str = option("none", "Penalty over the kernels.", choices=tuple(PENALTIES))
    penalty_weight: float = option(1e-4, "Factor of the penalty.", at_least=0)

    def without_effect(self) -> dict[str, str]:
        """The weight of no penalty."""
        unread = {"penalty_weight": "penalty is none"} if self.penalty == "none" else {}
        return super().without_effect() | unread


@dataclasses.dataclass(frozen=True)
class ClippingOptions(OutputOptions):
    """The limit on the gradient."""

    clipping: str = option("none", "Limit on the gradient.", choices=optimizers.CLIPPINGS)
    clip_threshold: float = option(1.0, "Threshold of the limit.", more_than=0)

    def without_effect(self) -> dict[str, str]:
        """The threshold of no limit."""
        unread = {"clip_threshold": "clipping is none"} if self.clipping == "none" else {}
        return super().without_effect() | unread


@dataclasses.dataclass(frozen=True)
class RunOptions(SweepOptions):
    """The size of training runs, and the grid of them that every network is trained over."""

    learning_rates: tuple[float, ...] = option(
        (0.001, 0.003, 0.01, 0.1),
        "Learning rates that every network is allowed to choose from.",
        more_than=0,
    )
    batch_size: int = option(64, "Examples per step; 0 for all of them.", at_least=0)
    steps: int = option(600, "Training steps.", at_least=1)
    record_every: int = option(10, "Steps from one record to the next.", at_least=1)
    seeds: int = option(3, "Independent runs of every network, side by side.", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.steps % self.record_every:
            raise ValueError(
                f"steps is {self.steps}; it must be a multiple of record_every "
                f"({self.record_every})."
            )

    def examples_per_step(self) -> int:
        """The batch size; 0 for all examples."""
        return self.batch_size

    def numeric_axes(self) -> dict[str, Sequence[float]]:
        """The numeric axes of the grid."""
        # Every learning rate meets the same seeds: the same initial weights and the same batches.
        return {"learning_rate": self.learning_rates, "seed": range(self.seeds)}


@dataclasses.dataclass(frozen=True)
class NumericsOptions(OutputOptions):
    """The arithmetic of training, and what a loss that is not finite leads to."""

    precision: str = option("float32", "Arithmetic of the networks.", choices=tuple(train.DTYPES))
    abort_nonfinite: bool = option(
        False, "Give a network up, as failed, when the loss of any of its runs is infinite or nan."
    )


@dataclasses.dataclass(frozen=True)
class UpdateOptions(RunOptions):
    """The numbers that optimisers read."""

    momentum: float = option(0.9, "Fraction of the last update kept, 0 to 1.", at_least=0)
    weight_decay: float = option(1e-4, "Weight decay of adamw and lion.", at_least=0)
    schedule: str = option("constant", "Learning rate over steps.", choices=optimizers.SCHEDULES)
    warmup_steps: int = option(0, "Length of a warm-up.", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.schedule == "warmup" and self.warmup_steps < 1:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; with schedule warmup it must be at least 1."
            )
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}; it must be under 1.")

    def without_effect(self) -> dict[str, str]:
        """The warm-up of a schedule that has none."""
        has_none = not self.schedule.startswith("warmup")
        unread = {"warmup_steps": f"schedule is {self.schedule}"} if has_none else {}
        return super().without_effect() | unread


def unread_by(names: Sequence[str]) -> list[str]:
    """The options that none of these optimisers reads."""
    readers = {
        "momentum": {"momentum", "nesterov"},
        "weight_decay": {"adamw", "lion"},
        "batch_size": set(optimizers.OPTIMIZERS) - {"gradient_descent"},
    }
    return [option for option, read_by in readers.items() if not read_by & set(names)]


@dataclasses.dataclass(frozen=True)
class OptimizerOptions(UpdateOptions):
    """The optimiser."""

    optimizer: str = option("momentum", "Optimiser.", choices=tuple(optimizers.OPTIMIZERS))

    def without_effect(self) -> dict[str, str]:
        """The numbers that the named optimiser does not read."""
        instead = f"optimizer is {self.optimizer}, which does not read it"
        return super().without_effect() | dict.fromkeys(unread_by([self.optimizer]), instead)

    def examples_per_step(self) -> int:
        """The batch size; 0, for all examples, with gradient descent, which is defined so."""
        return 0 if self.optimizer == "gradient_descent" else self.batch_size

    def question(self) -> dict[str, Any]:
        """The part that the results depend on, with the batch size that is used."""
        return super().question() | {"batch_size": self.examples_per_step()}


@dataclasses.dataclass(frozen=True)
class TrainingOptions(
    LossOptions, PenaltyOptions, ClippingOptions, OptimizerOptions, NumericsOptions
):
    """All options that the training of a given network reads."""


@dataclasses.dataclass(frozen=True)
class ClassifierOptions(DataOptions, WidthOptions, TrainingOptions):
    """All options of an experiment that compares networks, each trained to classify images."""
