"""Measures the cost of probing and of recorded training steps, and the growth of compile time.

    scripts/benchmark
    scripts/benchmark --write=scripts/README.md
    scripts/benchmark --versus=torch --device=gpu

Prints, and writes between the two benchmark marks of a file, what `vanishing.probe` costs against
`jax.value_and_grad` of the same model, with the usual summaries, the RMS alone, and the search for
inf and nan alone: the time of a later call, the memory it adds to the program, and the first call,
in processes of its own.
`--before=folder` measures an earlier version beside this one: `git worktree add folder commit`.

Then, for a tanh network of depth 50 with batch = width: milliseconds per training step, with every
layer recorded at every step and at the first step alone; and the rate of the recorded step's matrix
products as a fraction of that of a plain product of the same size. Then the time to compile such a
step at depths 10 to 10,000. Then the time of predictions, once compiled. Compared programs are
timed in turn, in one run: machines are shared and noisy, so read the ratios.

With --versus=torch it measures instead a sweep of small networks, with this library and with
several arrangements of PyTorch, whose CPU build the project's extra [benchmark] installs.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import probed
import versus
from absl import app, flags, logging

from experiments import phase_diagram
from vanishing import initializers, losses, networks, optimizers, theory, train
from vanishing.sweep import storage

DEPTH = flags.DEFINE_integer("depth", 50, "Hidden layers of the timed step.", lower_bound=1)
WIDTHS = flags.DEFINE_list("widths", ["64", "128"], "Units of a layer, and examples of a batch.")
COMPILE_DEPTHS = flags.DEFINE_list(
    "compile_depths", ["10", "100", "1000", "10000"], "Depths whose compilation is timed."
)
BEFORE = flags.DEFINE_string("before", "", "Folder of an earlier version to probe with as well.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Processes for each probed model.", lower_bound=1)
WRITE = flags.DEFINE_string(
    "write", "", "File whose lines between the marks to replace: scripts/README.md."
)
VERSUS = flags.DEFINE_enum("versus", None, ["torch"], "Library to compare a sweep with.")
DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Device of that comparison.")
VERSUS_WIDTHS = flags.DEFINE_list("versus_widths", ["64", "128", "512"], "Its widths.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Repetitions of each timing.", lower_bound=1)
STEPS = 50  # of one timed call
LINES = []

for name in ("widths", "compile_depths", "versus_widths"):
    flags.register_validator(
        name,
        lambda values: all(value.isdecimal() and int(value) > 0 for value in values),
        message="it takes whole numbers over 0, separated by commas.",
    )


def say(line: str = "") -> None:
    """Print a line, and keep it for the file."""
    print(line, flush=True)
    LINES.append(line)


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
    """Print the time of a step, and its rate as a fraction of that of matrix products."""
    depth = DEPTH.value
    products = 3 * (depth - 1) * STEPS  # forward, to the input, to the weights
    say("\n```text")
    say(f"Training step, depth {depth}, batch = width, momentum; median of {ROUNDS.value}:")
    say("width   recorded      plain   recorded/plain   product rate   step's share of it")
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
        say(
            f"{width:>5}  {seconds['recorded'] / STEPS * 1e3:>6.2f} ms  "
            f"{seconds['plain'] / STEPS * 1e3:>6.2f} ms  "
            f"{seconds['recorded'] / seconds['plain']:>15.2f}  {rate:>7.0f} GFLOP/s  "
            f"{seconds['products'] / seconds['recorded']:>19.0%}"
        )


def compile_table() -> None:
    """Print the time of tracing and compiling a recorded step at growing depth."""
    say("\nCompiling a recorded step of width 64:")
    say("  depth    seconds   of the first")
    first = None
    for depth in map(int, COMPILE_DEPTHS.value):
        seconds = statistics.median(compiled_run(depth, 64, 1, 1)[-1] for _ in range(3))
        first = first or seconds
        say(f"{depth:>7}  {seconds:>9.2f}  {seconds / first:>12.2f}x")
    say("```")


def probe_tables() -> None:
    """Print the cost of probing several models: of later calls, and of the first."""
    before = BEFORE.value
    say("Probe against `jax.value_and_grad` of the same model, every layer recorded: a later call,")
    say("and the temporary memory that the program takes beyond the plain one's:\n")
    forms, repeats = ["usual", "rms", "finite"], REPEATS.value
    for line in probed.table(list(probed.SCANNED), forms, ROUNDS.value, repeats, before):
        say(line)
    say("\nThe first call, with tracing and compiling, in CPU seconds of fresh processes:\n")
    for line in probed.table(list(probed.UNROLLED), [*forms, "op"], 0, repeats, before):
        say(line)
    say()


def theory_table() -> None:
    """Print how long predictions take once compiled."""
    side = 200
    sigma_w, sigma_b = jnp.linspace(0.5, 3.0, side), jnp.linspace(0.0, 1.0, side)
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    calls = {}
    for name in ("tanh", "relu"):
        point = functools.partial(phase_diagram.fixed_point, name)
        plane = jax.jit(jax.vmap(jax.vmap(point, (0, None)), (None, 0)))
        calls[f"phase diagram of {name}, {side} x {side}"] = (plane, (sigma_w, sigma_b))
        for depth in (50, 1000):
            calls[f"{name} network of depth {depth}"] = (predicted(name, depth, x), (1.0,))
    say("\nPrediction, once compiled:\n")
    say("| of | compiling | then |")
    say("|---|---|---|")
    for name, (function, args) in calls.items():
        start = time.perf_counter()
        program = function.lower(*args).compile()
        compiling = time.perf_counter() - start
        seconds = medians({"run": lambda p=program, a=args: p(*map(jnp.float32, a))})["run"]
        say(f"| {name} | {compiling:.2f} s | {seconds * 1e3:.2f} ms |")


def predicted(activation: str, depth: int, x: jax.ShapeDtypeStruct):
    """The gains of a network at a scale of its weights, as a program."""

    def log_gain(sigma_w):
        weights = initializers.scaled(sigma_w, 0.1)
        net = networks.mlp(10, depth=depth, width=64, activation=activation, weights=weights)
        return theory.predict(net, x).log_gain

    return jax.jit(log_gain)


def main(argv: list[str]) -> None:
    """Print the tables."""
    if argv[1:]:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    logging.set_verbosity(logging.WARNING)  # JAX reports absent back ends at INFO
    if VERSUS.value:
        versus.table(say, DEVICE.value, DEPTH.value, [int(width) for width in VERSUS_WIDTHS.value])
    else:
        say(f"JAX {jax.__version__} on {storage.devices()}, {os.cpu_count()} cores.\n")
        probe_tables()
        step_table()
        compile_table()
        theory_table()
    if WRITE.value:
        part = f"versus {VERSUS.value}" if VERSUS.value else "benchmark"
        start, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->\n"
        before, rest = Path(WRITE.value).read_text().split(start)
        _, after = rest.split(end)
        text = "\n".join(LINES) + "\n"
        Path(WRITE.value).write_text(before + start + text + end + after)


if __name__ == "__main__":
    app.run(main)
