"""Which plain networks train, by depth and initial scale, and does theory's depth scale say so?

    python -m experiments.trainability

Six minutes on two CPU cores. Expected: at sigma_b^2 = 0.05 the deepest tanh networks that train,
80 layers here, do so next to the critical sigma_w, 1.33, and ever shallower ones away from it: for
nine in ten, six times the depth scale of two inputs' correlation predicts whether they train.
(Schoenholz et al., Deep information propagation, ICLR 2017, fig. 5, drew this multiple on MNIST, at
width 300. At width 64 no network of 100 layers trains in 600 steps even at the critical scale.)
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import groups, launch, training
from experiments.common.options import new_default, option
from vanishing import _text, figures, initializers, layers, networks, sweep, theory, train


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.ClassifierOptions):
    """The networks to train."""

    activation: str = new_default(groups.ActivationOptions, "activation", "tanh")
    depths: tuple[int, ...] = option(
        (5, 10, 20, 30, 40, 60, 80, 100), "Numbers of hidden layers.", at_least=1
    )
    sigma_ws: tuple[float, ...] = option(
        (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 1.9, 2.2, 2.6, 3.0),
        "Initial scales of the weights: their std is sigma_w / sqrt(fan_in).",
        more_than=0,
    )
    sigma_b: float = option(0.05**0.5, "Initial scale of the biases: their std.", at_least=0)
    multiple: float = option(6.0, "Depth that is predicted to train, in depth scales.", more_than=0)
    learns_at: float = option(0.5, "Test accuracy from which a network counts as trained.")
    learning_rates: tuple[float, ...] = new_default(
        groups.RunOptions, "learning_rates", (0.001, 0.01)
    )
    steps: int = new_default(groups.RunOptions, "steps", 600)
    record_every: int = new_default(groups.RunOptions, "record_every", 100)
    seeds: int = new_default(groups.RunOptions, "seeds", 2)


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """Every depth and scale, trained at every learning rate from every seed; and the theory."""
    examples, classes = training.load(config)

    def cell(depth: int) -> sweep.Cell:
        def network(settings: training.Settings) -> layers.Layer:
            return networks.mlp(
                classes,
                depth=depth,
                width=config.width,
                activation=config.activation,
                weights=initializers.scaled(settings["sigma_w"], config.sigma_b),
            )

        return training.cell(config, network, train.to_dataset)

    grid = sweep.Grid(
        structural={"depth": config.depths},
        numeric={"sigma_w": config.sigma_ws, **config.numeric_axes()},
    )
    dataset = run(grid, cell, shared=examples)
    line = jnp.linspace(min(config.sigma_ws), max(config.sigma_ws), 200)
    scale = jax.jit(  # one program, where its operations one by one would be hundreds
        jax.vmap(
            lambda sigma_w: (
                theory.depth_scales(
                    config.activation, sigma_w=sigma_w, sigma_b=config.sigma_b
                ).correlation
            )
        )
    )
    return dataset.assign(
        depth_scale=("sigma_w", scale(jnp.asarray(config.sigma_ws))),
        line_depth_scale=("line_sigma_w", scale(line)),
        multiple=config.multiple,
        learns_at=config.learns_at,
    ).assign_coords(line_sigma_w=line, chance=training.chance(examples))


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def accuracy(dataset: xr.Dataset) -> xr.DataArray:
    """Test accuracy at the end, at each network's best learning rate: the mean over seeds."""
    best = training.best_learning_rate(dataset, last=2)
    return dataset.test_accuracy.isel(step=-1).sel(learning_rate=best).mean("seed")


def verdict(dataset: xr.Dataset) -> str:
    """The scales at which networks of each depth train, measured and predicted."""
    trains = accuracy(dataset) >= dataset.learns_at
    predicted = dataset.multiple * dataset.depth_scale >= dataset.depth
    rows = []
    for depth in dataset.depth.values:
        row, predicted_row = trains.sel(depth=depth), predicted.sel(depth=depth)
        agreeing = int((row == predicted_row).sum())
        spans = _spans(row), _spans(predicted_row)
        rows.append([f"{int(depth):>5}", *spans, f"{agreeing} of {row.size}"])
    agree = {
        k: float((trains == (k * dataset.depth_scale >= dataset.depth)).mean())
        for k in (1, 2, 3, 4, 6, 8, 10, 15, 20)
    }
    best = max(agree, key=lambda k: agree[k])
    right = float((trains == predicted).mean())
    lines = [
        _text.table(["depth", "trains at sigma_w", "predicted", "agree"], rows, texts=4),
        "",
        f"predicted: a network trains up to {float(dataset.multiple):g} depth scales; this is "
        f"right for {right:.0%} of the networks.",
        f"Of round multiples {best} comes nearest, with {agree[best]:.0%}.",
        f"trains: a test accuracy of {float(dataset.learns_at):.0%} or more (chance is "
        f"{float(dataset.chance):.1%}), mean over {dataset.sizes['seed']} seeds",
        f"at the best of {dataset.sizes['learning_rate']} learning rates.",
        "depth scale: layers over which the distance of two inputs' correlation from its fixed",
        "point shrinks by a factor e.",
    ]
    return "\n".join(lines)


def figure(dataset: xr.Dataset) -> Figure:
    """Accuracy as colour over sigma_w and depth, and the multiple of the depth scale as a line."""
    drawing, ((axes,),) = figures.panels(1, 1, "", size=(7.5, 5.5))
    accuracies = accuracy(dataset).transpose("depth", "sigma_w")
    mesh = axes.pcolormesh(
        *map(_edges, (accuracies.sigma_w.values, accuracies.depth.values)),
        accuracies,
        cmap="magma",
        vmin=0.0,
        vmax=1.0,
    )
    drawing.colorbar(mesh, ax=axes).set_label("test accuracy at the end")
    multiple = float(dataset.multiple)
    axes.plot(
        dataset.line_sigma_w,
        multiple * dataset.line_depth_scale,
        color="cyan",
        lw=2,
        label=f"{multiple:g} depth scales of the correlation (predicted)",
    )
    axes.set_ylim(*_edges(accuracies.depth.values)[[0, -1]])
    axes.set_xlim(*_edges(accuracies.sigma_w.values)[[0, -1]])
    axes.grid(False)
    axes.set_xlabel(r"$\sigma_w$: standard deviation of initial weights, times $\sqrt{fan\_in}$")
    axes.set_ylabel("depth: number of hidden layers")
    axes.set_title("Which plain networks train", loc="left", weight="bold")
    drawing.legend(loc="outside lower center", fontsize=10)
    return drawing


def _edges(values: np.ndarray) -> np.ndarray:
    """Cell borders half-way between values, and as far beyond the first and the last."""
    middles = (values[1:] + values[:-1]) / 2
    if not len(middles):
        return np.array([values[0] - 0.5, values[0] + 0.5])
    return np.array([2 * values[0] - middles[0], *middles, 2 * values[-1] - middles[-1]])


def _spans(chosen: xr.DataArray) -> str:
    """The values of sigma_w where something holds, neighbours joined: "1 to 1.5, 2.2"."""
    values, spans = chosen.sigma_w.values, []
    holds = np.flatnonzero(chosen.values)
    for group in np.split(holds, np.flatnonzero(np.diff(holds) > 1) + 1) if len(holds) else ():
        ends = (values[group[0]], values[group[-1]])
        spans.append(f"{ends[0]:g}" if len(group) == 1 else f"{ends[0]:g} to {ends[1]:g}")
    return ", ".join(spans) or "none"


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
