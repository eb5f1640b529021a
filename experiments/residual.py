"""Which way of adding a block to its input keeps the gradient of a deep network?

    python -m experiments.residual --blocks=plain,post_activation,rezero --counts=8,32

Four minutes on two CPU cores. Expected: of 32 blocks (64 layers) without a norm, plain ones learn
half of it; bare sums multiply the signal and the error signal by about 2^(1/2) a block and diverge
at every learning rate; those that start small (scaled, ReZero, SkipInit, Fixup) or with
their gates nearly shut (highway) keep both and learn. With --gate_bias=-2 a highway of 32 blocks
keeps 0.90 of its error signal a block and does not.
"""

import dataclasses
from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import layers, networks, sweep, train

NORMS = {"none": None, "batch_norm": layers.batch_norm(), "layer_norm": layers.layer_norm()}


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ClassifierOptions):
    """The blocks to compare."""

    blocks: tuple[str, ...] = option(
        tuple(networks.BLOCKS), "Kinds of block to compare.", choices=tuple(networks.BLOCKS)
    )
    counts: tuple[int, ...] = option((8, 32), "Numbers of blocks, each of two layers.", at_least=1)
    norm: str = option("none", "Norm of the blocks.", choices=tuple(NORMS))
    gate_bias: float = option(
        -4.0, "Initial bias of a highway's gates; a deeper network needs a lower one."
    )
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
    )

    def __post_init__(self):
        super().__post_init__()
        if "fixup" in self.blocks and self.norm != "none":
            raise ValueError(
                f"norm has {self.norm} and blocks has fixup, which replaces norms; leave one out."
            )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every kind and number of blocks, trained at every learning rate from every seed."""
    examples, classes = training.load(config)

    def cell(block: str, count: int) -> sweep.Cell:
        network = networks.residual_mlp(
            classes,
            kind=block,
            blocks=count,
            width=config.width,
            activation=config.activation,
            norm=NORMS[config.norm],
            gate_bias=config.gate_bias,
        )
        return training.cell(config, network, labelled)

    members = {"block": config.blocks, "count": config.counts}
    dataset = families.measure(config, run, members, cell, examples)
    dataset["count"].attrs.update(long_name="number of blocks, each of two layers", units="1")
    return dataset


def labelled(history: train.History) -> xr.Dataset:
    """The history as a dataset, with the signal and the error signal between the blocks."""
    assert history.trace is not None  # experiments probe
    sizes = {
        name: (("point", "step", "place"), values, {"units": "1"})
        for name, values in train.trunk(history.trace).items()
    }
    dataset = training.labelled(history).assign(sizes)
    return dataset.assign_coords(place=range(1, dataset.sizes["place"] + 1))


def between_blocks(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with the places between blocks in the place of its layers."""
    inside = [name for name in dataset.data_vars if "layer" in dataset[name].dims]
    names = {"place": "layer", "trunk_rms": "output_rms", "trunk_cotangent_rms": "cotangent_rms"}
    places = dataset.drop_vars([*inside, "layer"]).rename(names)
    last = dataset["count"] + 2  # after the blocks comes the network's output
    return places.assign(exists=places.layer.where(places.layer <= last))


def verdict(dataset: xr.Dataset) -> str:
    """A table of the outcomes with each kind of block, and the best of them."""
    notes = [
        "The signal is measured between blocks: the first layer is the input of the first block,",
        "the last hidden one the output of the last, and a layer is a block. (nan: with fixup no",
        "error signal leaves the read-out, which starts at zero, at the first step.)",
    ]
    return families.verdict(between_blocks(dataset), "block", notes=notes)


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal between the blocks, before and after training, and the losses."""
    return families.figure(
        between_blocks(dataset),
        "block",
        "The signal from block to block, the error signal on its way back, and the loss",
        families.Profiles(
            forward_label="signal: RMS between blocks",
            backward_label="error signal: RMS of its gradient",
            layer_label="place (1 is before the first block)",
        ),
    )


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
