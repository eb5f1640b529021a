"""Which way of clipping makes a network converge whose gradient explodes?

    python -m experiments.clipping --clippings=none,global_norm --sigma_w=2.4

A minute and a half on two CPU cores. Expected, of 10 ReLU layers that start at 1.7 times the scale
that keeps the signal: signal and gradient grow by 1.7 at every layer, and without clipping the loss
stays finite up to a learning rate of 0.001 only, and the network learns in part (60 % of the
digits). With any clipping the same runs stay finite at rates a hundred times as large and learn
more: 81 to 97 %. (Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural
networks, ICML 2013, sec. 3.2.)
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import families, groups, launch, training
from experiments.common.options import new_default, option
from vanishing import initializers, networks, optimizers, sweep, train


@dataclasses.dataclass(frozen=True)
class Config(
    groups.DataOptions,
    groups.NetworkOptions,
    groups.WidthOptions,
    groups.ActivationOptions,
    groups.LossOptions,
    groups.PenaltyOptions,
    groups.OptimizerOptions,
    groups.NumericsOptions,
):
    """The ways of clipping to compare, and the network."""

    own_network = ("activation", "depth", "width", "sigma_w")

    clippings: tuple[str, ...] = option(
        optimizers.CLIPPINGS, "Ways of clipping to compare.", choices=optimizers.CLIPPINGS
    )
    thresholds: tuple[float, ...] = option(
        (0.1, 1.0, 10.0), "Thresholds that each is allowed to choose from.", more_than=0
    )
    depth: int = option(10, "Number of hidden layers.", at_least=1)
    sigma_w: float = option(
        2.4,
        "Initial std of the weights, times sqrt(fan_in); ReLU keeps its signal at 1.41.",
        more_than=0,
    )
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every way of clipping at every threshold and learning rate, from every seed."""
    examples, classes = training.load(config)
    if config.network:
        network = training.given_network(config.network, examples, classes)
    else:
        network = networks.mlp(
            classes,
            depth=config.depth,
            width=config.width,
            activation=config.activation,
            weights=initializers.scaled(config.sigma_w),
        )

    def cell(clipping: str) -> sweep.Cell:
        return training.cell(config, network, clipping=clipping)

    numeric = {"clip_threshold": config.thresholds, **config.numeric_axes()}
    return families.measure(config, run, {"clipping": config.clippings}, cell, examples, numeric)


def at_best_threshold(dataset: xr.Dataset) -> xr.Dataset:
    """Each way of clipping at the threshold that gives it the lowest training loss."""

    def loss(at: int) -> np.ndarray:
        best = families.chosen(dataset.isel(clip_threshold=at))
        last = best.loss.isel(step=slice(-5, None)).astype(float)  # sums overflow in float32
        return last.mean(("seed", "step"), skipna=False).values

    losses = np.array([loss(at) for at in range(dataset.sizes["clip_threshold"])])
    index = np.where(np.isfinite(losses), losses, np.inf).argmin(0)
    index = xr.DataArray(index, dims="clipping")
    return dataset.isel(clip_threshold=index).rename(clip_threshold="threshold")


def survivors(dataset: xr.Dataset) -> xr.DataArray:
    """The largest learning rate at which all seeds stayed finite, at the threshold chosen."""
    finite = (dataset.outcome == train.Outcome.FINITE).all("seed")
    return dataset.learning_rate.where(finite).max("learning_rate")


def verdict(dataset: xr.Dataset) -> str:
    """A table of the outcomes with each way of clipping, and the best of them."""
    best = at_best_threshold(dataset)
    rates = survivors(best)
    finite = xr.apply_ufunc("{:g}".format, rates, vectorize=True).where(rates.notnull(), "none")
    notes = [
        f"threshold: of {dataset.sizes['clip_threshold']}, the one with the lowest training "
        "loss. finite up to: the largest",
        "learning rate at which every seed's loss stayed finite at that threshold.",
    ]
    return families.verdict(best, "clipping", {"finite up to": finite}, notes)


def figure(dataset: xr.Dataset) -> Figure:
    """Signal and error signal by layer, before and after training, and the losses."""
    title = "Clipping: the signal, the error signal on its way back, and the loss"
    return families.figure(at_best_threshold(dataset), "clipping", title)


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
