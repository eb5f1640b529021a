"""One arrangement of the benchmark's sweep in JAX; run by versus.py, prints one line of JSON.

python scripts/sweep_jax.py STARTED ARRANGEMENT DEVICE DEPTH WIDTH NETWORKS STEPS CALLS

STARTED is the time at which the process was started, in seconds since the epoch.
"""

import json
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vanishing import losses, optimizers, train
from vanishing.networks import mlp
from vanishing.sweep import parallel


def norms_recorded(depth: int, width: int, steps: int) -> parallel.Task:
    """Training with the norm of every kernel's gradient recorded at every step."""
    net = mlp(10, depth=depth, width=width, activation="tanh", unroll=True)

    def init(point, data):
        params, state = net.init(jax.random.key(point["seed"]), data[0])
        return params, state, optax.sgd(point["learning_rate"], 0.9).init(params)

    def advance(state, point, data):
        optimizer = optax.sgd(point["learning_rate"], 0.9)

        def loss(params, state):
            return losses.softmax_cross_entropy(net.apply(params, state, data[0]).output, data[1])

        def step(carry, _):
            params, state, opt_state = carry
            value, grads = jax.value_and_grad(loss)(params, state)
            norms = [
                jnp.sqrt(jnp.sum(leaf**2, axis=(-2, -1)))
                for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
                if "kernel" in jax.tree_util.keystr(path)
            ]
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), state, opt_state), (value, norms)

        return jax.lax.scan(step, state, length=steps)

    return parallel.Task(init, advance)


def probed(depth: int, width: int, steps: int) -> parallel.Task:
    """Training with signal, error signal and gradient of every layer probed at every step."""

    def problem(settings):
        return train.Problem(
            mlp(10, depth=depth, width=width, activation="tanh"),
            losses.softmax_cross_entropy,
            optimizers.by_name("momentum", settings["learning_rate"]),
        )

    run = train.make_run(problem, batch_size=0)

    def with_test(data):
        x, y = data
        return train.Data(x, y, x[:0], y[:0])

    return parallel.Task(
        lambda point, data: run.init(jax.random.key(point["seed"]), point, with_test(data)),
        lambda state, point, data: run.advance(state, point, with_test(data), steps),
    )


def products(width: int, count: int) -> parallel.Task:
    """A chain of products of square matrices, one after another."""

    def init(point, _):
        return jax.random.normal(jax.random.key(point["seed"]), (width, width)) / width**0.5

    def advance(matrix, point, _):
        last, _ = jax.lax.scan(lambda x, _: (x @ matrix, None), matrix, length=count)
        return matrix, jnp.sum(last)

    return parallel.Task(init, advance)


def main(
    started: float,
    arrangement: str,
    device: str,
    depth: int,
    width: int,
    networks: int,
    steps: int,
    calls: int,
):
    """Time the calls and print the rates, the time of the first result and the memory."""
    jax.config.update("jax_default_matmul_precision", "highest")  # float32, as PyTorch's
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", os.cpu_count())
    if arrangement == "products":
        task, networks = products(width, 3 * depth * steps), os.cpu_count() or 1
    else:
        task = (norms_recorded if arrangement == "norms" else probed)(depth, width, steps)
    x = jax.random.normal(jax.random.key(0), (width, width))
    data = (x, jnp.arange(width) % 10)
    rates = 1e-3 * (1 + np.arange(networks) % 4)
    points = {"seed": np.arange(networks) // 4, "learning_rate": rates.astype(np.float32)}
    compiled = parallel.build(task, points, data)
    points = jax.tree.map(lambda values: values[: compiled.size], points)  # what fits at once
    networks = len(points["seed"])
    placed = parallel.place(compiled, points, data)
    state, seconds, first = parallel.start(compiled, placed), [], 0.0
    for call in range(calls + 1):
        before = time.perf_counter()
        state, _ = parallel.advance(compiled, state, placed)
        first = first or time.time() - started
        if call:
            seconds.append(time.perf_counter() - before)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    if device == "gpu":
        memory = jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    work = networks * steps
    print(json.dumps({"rates": [work / s for s in seconds], "first": first, "memory": memory}))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:9]))
