"""How fast is a training step that records every layer, and how does compilation grow with depth?

    scripts/benchmark

Prints, for a tanh network of depth 50 with batch = width: milliseconds a step, with per-layer
gradient norms recorded at every step and at none but the first; and the share of the rate of a
plain matrix product of the same size that the recorded step's own matrix products reach. Then the
time to compile such a step at depths 10 to 10,000. What is compared is timed in turn, in one run:
machines are shared and noisy, so read the ratios.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import app, flags

from vanishing import losses, networks, optimizers, record, train

DEPTH = flags.DEFINE_integer("depth", 50, "Hidden layers of the timed step.", lower_bound=1)
WIDTHS = flags.DEFINE_list("widths", ["64", "128"], "Units of a layer, and examples of a batch.")
COMPILE_DEPTHS = flags.DEFINE_list(
    "compile_depths", ["10", "100", "1000", "10000"], "Depths whose compilation is timed."
)
ROUNDS = flags.DEFINE_integer("rounds", 9, "How often each thing is timed.", lower_bound=1)
STEPS = 50  # of one timed call


def compiled_run(depth: int, width: int, record_every: int, steps: int):
    """The state, the arguments and the compiled steps of one network, and the seconds it took."""

    def problem(settings):
        return train.Problem(
            networks.mlp(10, depth=depth, width=width, activation="tanh"),
            losses.softmax_cross_entropy,
            optimizers.by_name("momentum", settings),
        )

    run = train.make_run(problem, batch_size=width, record_every=record_every)
    key, rate = jax.random.key(0), jnp.float32(1e-3)
    x = jax.random.normal(key, (8 * width, width))
    y = jnp.zeros(len(x), jnp.int32)
    data = train.Data(x, y, x[:0], y[:0])
    state = jax.jit(run.init)(key, rate, data)
    steps_of = jax.jit(lambda s, r, d: run.advance(s, r, d, steps // record_every))
    start = time.perf_counter()
    program = steps_of.lower(state, rate, data).compile()
    return (state, rate, data), program, time.perf_counter() - start


def product_chain(width: int, products: int):
    """A compiled chain of products of square matrices, one after another."""
    matrix = jax.random.normal(jax.random.key(0), (width, width)) / width**0.5

    def chain(x):
        return jax.lax.scan(lambda x, _: (x @ matrix, None), x, length=products)[0]

    return (matrix,), jax.jit(chain).lower(matrix).compile()


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, all of them timed in turn."""
    seconds = {name: [] for name in calls}
    for timed in range(ROUNDS.value + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if timed:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step_table() -> None:
    """Print the time of a step and the share of the matrix-product rate."""
    depth = DEPTH.value
    products = 3 * (depth - 1) * STEPS  # forward, to the input, to the weights
    print(f"Training step, depth {depth}, batch = width, momentum; median of {ROUNDS.value}:")
    print("width   recorded      plain   recorded/plain   product rate   step's share of it")
    for width in map(int, WIDTHS.value):
        (recorded_args, recorded, _), (plain_args, plain, _) = (
            compiled_run(depth, width, record_every, STEPS) for record_every in (1, STEPS)
        )
        matrix, chain = product_chain(width, products)
        seconds = medians(
            {
                "recorded": lambda f=recorded, a=recorded_args: f(*a),
                "plain": lambda f=plain, a=plain_args: f(*a),
                "products": lambda f=chain, a=matrix: f(*a),
            }
        )
        rate = 2 * width**3 * products / seconds["products"] / 1e9
        print(
            f"{width:>5}  {seconds['recorded'] / STEPS * 1e3:>6.2f} ms  "
            f"{seconds['plain'] / STEPS * 1e3:>6.2f} ms  "
            f"{seconds['recorded'] / seconds['plain']:>15.2f}  {rate:>7.0f} GFLOP/s  "
            f"{seconds['products'] / seconds['recorded']:>19.0%}",
            flush=True,
        )


def compile_table() -> None:
    """Print the time of tracing and compiling a recorded step at growing depth."""
    print("\nCompiling a recorded step of width 64:")
    print("  depth    seconds   of the first")
    first = None
    for depth in map(int, COMPILE_DEPTHS.value):
        seconds = statistics.median(compiled_run(depth, 64, 1, 1)[-1] for _ in range(3))
        first = first or seconds
        print(f"{depth:>7}  {seconds:>9.2f}  {seconds / first:>12.2f}x", flush=True)


def main(argv: list[str]) -> None:
    """Print both tables."""
    if argv[1:]:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    print(f"JAX {jax.__version__} on {record.devices()}.\n")
    step_table()
    compile_table()


if __name__ == "__main__":
    app.run(main)
