"""An experiment that compiles quickly, for tests to disturb: descent with momentum and noise.

python -m tests.walks --out=FOLDER
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from matplotlib.figure import Figure

from experiments.common import launch
from experiments.common.options import option
from vanishing import sweep
from vanishing.sweep.parallel import Task


@dataclasses.dataclass(frozen=True)
class Config(launch.SweepOptions):
    sizes: tuple[int, ...] = option(tuple(range(2, 10)), "Dimensions.", at_least=1)
    chunks: int = option(8, "Chunks of a walk.", at_least=1)


def measure(config, run=sweep.run):
    def cell(size):
        def optimizer(point):
            return optax.noisy_sgd(point["learning_rate"], gamma=0.55, key=point["seed"])

        def init(point, shared):
            params = jnp.linspace(1, 2, size)
            return params, optimizer(point).init(params), jax.random.key(point["seed"])

        def advance(state, point, shared):
            def step(state, _):
                params, opt_state, key = state
                key, own = jax.random.split(key)
                grads = params + 0.1 * jax.random.normal(own, params.shape)
                updates, opt_state = optimizer(point).update(grads, opt_state, params)
                params = optax.apply_updates(params, updates)
                return (params, opt_state, key), jnp.sum(params**2)

            return jax.lax.scan(step, state, length=5)

        def label(loss):
            return xr.Dataset({"loss": (("point", "step"), loss)})

        return sweep.Cell(Task(init, advance, config.chunks), label)

    grid = sweep.Grid({"size": config.sizes}, {"learning_rate": (0.01, 0.1), "seed": range(3)})
    return run(grid, cell)


def verdict(dataset):
    return f"loss {np.mean(dataset.loss.values):.3f}"


def figure(dataset):
    return Figure()


if __name__ == "__main__":
    launch.main(Config(), measure, verdict, figure)
