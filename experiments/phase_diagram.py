"""At which initial scales does a gradient survive, and where do networks agree with the map?

    python -m experiments.phase_diagram --activation=tanh

Ten seconds on two CPU cores, most of them for the measured dots. Expected: a critical line that
separates the ordered phase, whose gradients vanish, from the chaotic one, whose gradients explode;
the depth scale grows without bound towards it. Measured slopes of networks of width 300
agree with the map within 5 %, or 0.02 a layer.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.common import groups, launch
from experiments.common.options import new_default, option
from vanishing import _text, comparison, figures, initializers, layers, sweep, theory
from vanishing.sweep.parallel import Task

_LEVELS = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the depth scale, in layers


@dataclasses.dataclass(frozen=True)
class Config(groups.ActivationOptions, groups.DrawnOptions):
    """The part of the plane to map, and the networks to measure on it."""

    activation: str = new_default(groups.ActivationOptions, "activation", "tanh")
    sigma_w_from: float = option(0.5, "Smallest scale of the weights.", more_than=0)
    sigma_w_to: float = option(3.0, "Largest scale of the weights.", more_than=0)
    sigma_b_from: float = option(0.0, "Smallest scale of the biases.", at_least=0)
    sigma_b_to: float = option(1.0, "Largest scale of the biases.", more_than=0)
    points: int = option(200, "Points of the map along each axis.", at_least=2)
    dots: int = option(5, "Measured networks along each axis; 0 for none.", at_least=0)
    depth: int = option(20, "Layers of a measured network.", at_least=8)
    width: int = new_default(groups.DrawnOptions, "width", 300)
    seeds: int = option(8, "Networks drawn at every dot.", at_least=2)

    def __post_init__(self):
        super().__post_init__()
        for name in ("sigma_w", "sigma_b"):
            low, high = getattr(self, f"{name}_from"), getattr(self, f"{name}_to")
            if not low < high:
                raise ValueError(f"{name}_to has {high}; it must be over {name}_from, {low}.")


def fixed_point(activation: str, sigma_w: Float[Array, ""], sigma_b: Float[Array, ""]):
    """q* and chi_1 at a pair of scales."""
    q = theory.fixed_point(activation, sigma_w=sigma_w, sigma_b=sigma_b)
    # where the variance grows without bound, the slopes are those of the largest variances
    chi = theory.chi(activation, q=jnp.where(jnp.isfinite(q), q, 1e6), sigma_w=sigma_w)
    return q, chi


def network_slopes(config: Config) -> sweep.Cell:
    """The slope of the log mean-square gradient of networks drawn at their fixed point."""

    def network(point):
        weights = initializers.scaled(point["sigma_w"], point["sigma_b"])
        block = layers.serial(
            dense=layers.dense(config.width, *weights),
            activation=layers.activation(config.activation),
        )
        return layers.repeat(block, config.depth)

    def init(point, _):
        sigma_w, sigma_b = point["sigma_w"], point["sigma_b"]
        q = theory.fixed_point(config.activation, sigma_w=sigma_w, sigma_b=sigma_b)
        # inputs at which the first pre-activations have the variance q*
        size = jnp.clip((q - sigma_b**2) / sigma_w**2, 1e-6, 1e6)
        init_key, x_key, loss_key = jax.random.split(jax.random.key(point["seed"]), 3)
        x = size**0.5 * jax.random.normal(x_key, (64, config.width))
        return network(point).init(init_key, x), x, loss_key

    def slope(state, point, _):
        trace = comparison.measure(network(point), *state)
        rows = np.array([i for i, name in enumerate(trace.names) if name.endswith("dense")])[2:-2]
        logs = 2 * jnp.log(trace.backward.rms[rows])
        steps = jnp.arange(len(rows)) - (len(rows) - 1) / 2
        return state, -jnp.sum(steps * logs) / jnp.sum(steps**2)

    return sweep.Cell(
        Task(init, slope), lambda slope: xr.Dataset({"dot_measured": ("point", slope)})
    )


def measure(config: Config, run: Callable[..., xr.Dataset] = sweep.run) -> xr.Dataset:
    """The map, the critical line, and the slopes of drawn networks."""

    def on_the_map() -> sweep.Cell:
        return sweep.once(
            lambda point, _: fixed_point(
                config.activation, sigma_w=point["sigma_w"], sigma_b=point["sigma_b"]
            ),
            lambda result: xr.Dataset(
                {
                    "q": ("point", result[0], {"long_name": "fixed point of the variance"}),
                    "chi_1": ("point", result[1], {"long_name": "gradient's factor per layer"}),
                }
            ),
        )

    sigma_b = np.linspace(config.sigma_b_from, config.sigma_b_to, config.points, dtype=np.float32)
    sigma_w = np.linspace(config.sigma_w_from, config.sigma_w_to, config.points, dtype=np.float32)
    plane = sweep.Grid(numeric={"sigma_b": sigma_b, "sigma_w": sigma_w})
    dataset = run(plane, on_the_map, name="map").merge(_critical_line(config.activation))
    dataset.attrs["activation"] = config.activation
    if not config.dots:
        return dataset
    middles = (np.arange(config.dots) + 0.5) / config.dots
    w = np.asarray(
        config.sigma_w_from + middles * (config.sigma_w_to - config.sigma_w_from), np.float32
    )
    b = np.asarray(
        config.sigma_b_from + middles * (config.sigma_b_to - config.sigma_b_from), np.float32
    )
    dots = {"sigma_b": b, "sigma_w": w}
    predicted = run(sweep.Grid(numeric=dots), on_the_map, name="map at the dots")
    seeds = {"seed": range(config.seeds)}
    measured = run(sweep.Grid(numeric=dots | seeds), lambda: network_slopes(config), name="dots")
    at_dots = measured.assign(dot_predicted=np.log(predicted.chi_1))
    at_dots = at_dots.stack(dot=tuple(dots)).reset_index("dot").drop_attrs(deep=False)
    return dataset.merge(at_dots.rename(sigma_b="dot_sigma_b", sigma_w="dot_sigma_w"))


def _critical_line(activation: str) -> xr.Dataset:
    def critical(q):
        point = theory.critical_line(activation, q)
        scales = {"sigma_w": point.sigma_w, "sigma_b": point.sigma_b}
        slope = jax.grad(lambda q: theory.variance_map(activation, q=q, **scales))(q)
        return *scales.values(), slope

    q = jnp.geomspace(1e-6, 1e4, 2000)
    sigma_w, sigma_b, slope = jax.jit(jax.vmap(critical))(q)
    return xr.Dataset(
        {
            "line_sigma_w": ("line_q", sigma_w),
            "line_sigma_b": ("line_q", sigma_b),
            "line_lasts": ("line_q", slope < 1 + 1e-4, {"long_name": "q attracts"}),
        },
        {"line_q": q},
    )


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def verdict(dataset: xr.Dataset) -> str:
    """The critical scales, and the error of each measured slope."""
    name = dataset.attrs["activation"]
    lines = [f"{name}, critical scales:"]
    for sigma_b in np.unique(np.quantile(dataset.sigma_b.values, (0, 0.25, 0.5, 1)).round(3)):
        try:
            critical_points = theory.critical(name, float(sigma_b))
        except ValueError:
            lines.append(f"  sigma_b = {sigma_b:<6g} none")
            continue
        points = "; ".join(
            f"sigma_w = {point.sigma_w:.4f} at q = {point.q:.4g}"
            + ("" if point.stable else ", an unstable variance")
            for point in critical_points
        )
        lines.append(f"  sigma_b = {sigma_b:<6g} {points}")
    if "dot" not in dataset.dims:
        return "\n".join(lines)
    rows, agreeing = [], []
    for dot in range(dataset.sizes["dot"]):
        cell = dataset.isel(dot=dot)
        seeds = cell.dot_measured.values
        slope = comparison.Slope(
            float(cell.dot_predicted),
            float(seeds.mean()),
            float(seeds.std(ddof=1) / len(seeds) ** 0.5),
        )
        agreeing.append(slope.agrees)
        rows.append(
            [
                f"{float(cell.dot_sigma_w):.2f}",
                f"{float(cell.dot_sigma_b):.2f}",
                f"{slope.predicted:.4f}",
                f"{slope.measured:.4f} ± {slope.error:.4f}",
                f"{slope.measured - slope.predicted:+.4f}",
                slope.verdict,
            ]
        )
    header = ["sigma_w", "sigma_b", "log chi_1", "measured", "error", ""]
    lines += ["", _text.table(header, rows, texts=0)]
    lines += ["", f"{sum(agreeing)} of {len(agreeing)} agree: within 0.02 or 5 % of log chi_1."]
    return "\n".join(lines)


@np.errstate(all="ignore")  # sizes may be 0, infinite or nan
def figure(dataset: xr.Dataset) -> Figure:
    """chi_1 as colour, the critical line, the depth scale as contours, measured slopes as dots."""
    drawing, ((axes,),) = figures.panels(1, 1, "", size=(7.5, 5.5))
    log_chi = np.log(dataset.chi_1)
    finite = np.abs(log_chi.values[np.isfinite(log_chi.values)])
    reach = float(np.quantile(finite, 0.98)) if len(finite) else 1.0
    style = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    mesh = axes.pcolormesh(
        dataset.sigma_w, dataset.sigma_b, log_chi, shading="nearest", rasterized=True, **style
    )
    bar = drawing.colorbar(mesh, ax=axes)
    bar.set_label(r"$\log \chi_1$ of a layer: under 0 gradients vanish, over 0 they explode")
    with np.errstate(divide="ignore"):
        scale = 1 / np.abs(log_chi)
    contours = axes.contour(
        dataset.sigma_w, dataset.sigma_b, scale, _LEVELS, colors="0.35", linewidths=0.8
    )
    axes.clabel(contours, levels=_LEVELS[:-1], fmt="%g", fontsize=9)  # the last hugs the line
    axes.plot([], [], color="0.35", lw=0.8, label="depth scale, in layers")
    for lasts, style_of_line, label in (
        (dataset.line_lasts, "-", "critical line"),
        (~dataset.line_lasts, ":", "critical, but with an unstable variance"),
    ):
        line = dataset.line_sigma_b.where(lasts)
        if line.notnull().sum() > 1:
            axes.plot(dataset.line_sigma_w, line, "k", ls=style_of_line, lw=2, label=label)
    if "dot" in dataset.dims:
        axes.scatter(
            dataset.dot_sigma_w,
            dataset.dot_sigma_b,
            c=dataset.dot_measured.mean("seed"),
            s=80,
            edgecolors="black",
            linewidths=1.0,
            label="measured networks",
            **style,
        )
    axes.set_xlim(float(dataset.sigma_w[0]), float(dataset.sigma_w[-1]))
    axes.set_ylim(float(dataset.sigma_b[0]), float(dataset.sigma_b[-1]))
    axes.set_xlabel(r"$\sigma_w$: standard deviation of weights, times $\sqrt{fan\_in}$")
    axes.set_ylabel(r"$\sigma_b$: standard deviation of biases")
    axes.set_title(f"{dataset.attrs['activation']}: order and chaos", loc="left", weight="bold")
    drawing.legend(loc="outside lower center", ncols=3, fontsize=9)
    return drawing


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
