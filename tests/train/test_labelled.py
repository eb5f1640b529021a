import jax
import jax.numpy as jnp
import numpy as np

from vanishing import train
from vanishing.probing import probe
from vanishing.sweep import grid


def recognisable_history(runs=6, steps=4, layers=3):
    def numbers(*shape, start=0):
        return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)

    step = np.tile(np.arange(0, 10 * steps, 10), (runs, 1))

    def loss(params):
        h = jnp.ones((2, 2))
        for layer in params:
            h = jnp.tanh(h @ layer["kernel"] + layer["bias"])
        return jnp.sum(h)

    layer = {"kernel": jnp.eye(2), "bias": jnp.zeros((1, 2))}
    trace = probe(loss)([layer] * layers).trace  # its numbers are replaced by ones to recognise
    trace = jax.tree.map(lambda leaf: numbers(runs, steps, *leaf.shape, start=1000), trace)
    return train.History(step, *(numbers(runs, steps, start=100 * i) for i in range(4)), trace)


def test_every_run_lands_in_its_place():
    history = recognisable_history()
    axes = {"learning_rate": [0.1, 0.2], "seed": range(3)}
    dataset = grid.spread(train.to_dataset(history), axes)
    assert dataset.cotangent_rms.dims == ("learning_rate", "seed", "step", "layer")
    for i in range(6):
        run = dataset.sel(learning_rate=[0.1, 0.2][i // 3], seed=i % 3)
        np.testing.assert_array_equal(run.test_loss, history.test_loss[i])
        products = [row for row, site in enumerate(history.trace.sites) if site.kind == "matmul"]
        np.testing.assert_array_equal(run.cotangent_rms, history.trace.backward.rms[i][:, products])
        after = [row + 1 for row in products]
        np.testing.assert_array_equal(run.output_rms, history.trace.forward.rms[i][:, after])
        kernels = [history.trace.layout.param_names.index(f"[{n}].kernel") for n in range(3)]
        gradient = history.trace.params.gradient[i][:, kernels]
        np.testing.assert_array_equal(run.kernel_gradient_norm, gradient)
    assert dataset.step.values.tolist() == [0, 10, 20, 30]
    assert dataset.layer.values.tolist() == [1, 2, 3]
    assert all("long_name" in variable.attrs for variable in dataset.data_vars.values())
    assert all("units" in dataset[name].attrs for name in dataset.data_vars if name != "outcome")


def test_diverged_runs_are_marked():
    history = recognisable_history()
    history.loss[4, 2] = np.nan
    dataset = train.to_dataset(history)
    assert dataset.outcome.values.tolist() == [0, 0, 0, 0, 1, 0]
    assert dataset.outcome.attrs["flag_meanings"].split()[1] == "diverged"
