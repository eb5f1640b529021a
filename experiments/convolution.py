"""Do deeper convolutional networks train worse, and is it the shortcut or the norm that helps?

    python -m experiments.convolution --depths=8,20,56 --data=cifar10

Seven minutes on two CPU cores with the defaults, on digits. Expected after 100 steps: without
shortcuts 8 layers come to 86 %, 20 to 28 % (44 % with batch normalisation) and 56 learn nothing,
whose error signal vanishes by 0.82 a layer without a norm and explodes by 1.14 with one. With
shortcuts and batch normalisation 56 layers come to 92 %, 8 to 95 %; shortcuts alone make both
signals grow, and one of two seeds diverges. (He et al., Deep residual learning for image
recognition, CVPR 2016, fig. 6, on CIFAR-10 at four times the width.)
"""

import dataclasses
from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import layers, networks, sweep

NORMS = ("none", "batch_norm")


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ClassifierOptions):
    """The networks to train."""

    blocks: tuple[str, ...] = option(
        ("plain", "post_activation"), "Kinds of block to compare.", choices=tuple(networks.BLOCKS)
    )
    norms: tuple[str, ...] = option(NORMS, "With and without batch_norm.", choices=NORMS)
    depths: tuple[int, ...] = option((8, 20, 56), "Layers: 6 n + 2.", at_least=8)
    width: int = option(4, "Channels of the first of three stages.", at_least=1)
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.01, 0.03, 0.1)
    )
    batch_size: int = new_default(groups.RunOptions, "batch_size", 32)
    steps: int = new_default(groups.RunOptions, "steps", 100)
    record_every: int = new_default(groups.RunOptions, "record_every", 20)
    seeds: int = new_default(groups.RunOptions, "seeds", 2)

    def __post_init__(self):
        super().__post_init__()
        for depth in self.depths:
            if depth % 6 != 2:
                raise ValueError(f"depths has {depth}; it must be 6 n + 2: 8, 14, 20, 26, 32, ...")
        if "fixup" in self.blocks and "batch_norm" in self.norms:
            raise ValueError(
                "norms has batch_norm and blocks has fixup, which replaces norms; leave one out."
            )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every kind of block, with and without a norm, at every depth."""
    examples, classes = training.load(config)

    def network(block: str, norm: str, depth: int) -> layers.Layer:
        return networks.resnet(
            classes,
            depth=depth,
            width=config.width,
            kind=block,
            activation=config.activation,
            norm=layers.batch_norm(momentum=0.9) if norm == "batch_norm" else None,
        )

    members = {"block": config.blocks, "norm": config.norms, "depth": config.depths}
    dataset = families.measure_networks(config, run, members, network, examples)
    dataset.depth.attrs.update(long_name="number of layers with weights", units="1")
    return dataset


def named(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with the kind of block and the norm as one axis, `network`."""
    flat = dataset.stack(network=("block", "norm"))
    names = [f"{block}, {norm}" for block, norm in flat.network.values]
    return flat.drop_vars(("network", "block", "norm")).assign_coords(network=names)


def verdict(dataset: xr.Dataset) -> str:
    """A table of the networks' outcomes, and the best of them at each depth."""
    return families.verdict(named(dataset), "network")


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, before and after training, and the losses."""
    title = "Convolutions: the signal, the error signal on its way back, and the loss"
    profiles = families.Profiles(
        forward="signal_rms", forward_label="signal: RMS of pre-activations"
    )
    return families.figure(named(dataset), "network", title, profiles)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
