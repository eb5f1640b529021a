"""What a probe costs: the first call and the running time of probed models, each in its process.

    python scripts/probed.py MODEL FORM ROUNDS

measures one model (of `MODELS`) in one form (of `FORMS`), and prints the result as JSON: CPU
seconds of the first call, milliseconds of a later call of it and of the plain loss, timed in turn,
and bytes of temporary memory of both. `scripts/benchmark` makes tables of it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import random

import vanishing

FORMS: dict[str, dict[str, Any] | None] = {  # options of `vanishing.probe`
    "plain": None,  # `jax.value_and_grad`
    "usual": {},
    "rms": {"summaries": ("rms",)},
    "finite": {"summaries": "finite"},
    "op": {"level": "op"},
}


class Model(NamedTuple):
    """A loss and its parameters."""

    loss: Callable[[Any], jax.Array]
    params: Any


def unrolled_mlp(depth: int, width: int = 32, batch: int = 16) -> Model:
    """Tanh layers, written out one after another."""
    x = random.normal(random.key(0), (batch, width))
    params = [random.normal(random.key(i), (width, width)) / width**0.5 for i in range(depth)]

    def loss(params):
        h = x
        for kernel in params:
            h = jnp.tanh(h @ kernel)
        return jnp.mean(h**2)

    return Model(loss, params)


def many_leaves(layers: int = 250, width: int = 16) -> Model:
    """Layers of four leaves: a kernel, a bias, a scale and a shift."""
    x = random.normal(random.key(0), (8, width))
    params = [
        {
            "kernel": random.normal(random.key(i), (width, width)) / width**0.5,
            "bias": jnp.zeros(width),
            "scale": jnp.ones(width),
            "shift": jnp.zeros(width),
        }
        for i in range(layers)
    ]

    def loss(params):
        h = x
        for p in params:
            h = p["scale"] * jnp.tanh(h @ p["kernel"] + p["bias"]) + p["shift"]
        return jnp.mean(h**2)

    return Model(loss, params)


class _Bottleneck(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.BatchNorm(use_running_average=False)  # noqa: E731
        h = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        h = nn.Conv(self.features, (3, 3), (self.stride, self.stride), use_bias=False)(h)
        h = norm()(nn.Conv(4 * self.features, (1, 1), use_bias=False)(nn.relu(norm()(h))))
        if x.shape != h.shape:
            strides = (self.stride, self.stride)
            x = norm()(nn.Conv(4 * self.features, (1, 1), strides, use_bias=False)(x))
        return nn.relu(x + h)


class _ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                x = _Bottleneck(16 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def resnet50() -> Model:
    """ResNet-50 (He et al., 2016) in Flax with a quarter of its channels, 4 images of 64 x 64."""
    x = random.normal(random.key(0), (4, 64, 64, 3))
    variables = _ResNet50().init(random.key(1), x)

    def loss(params):
        rest = {"batch_stats": variables["batch_stats"]}
        logits, _ = _ResNet50().apply({"params": params, **rest}, x, mutable=["batch_stats"])
        return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[:, 0])

    return Model(loss, variables["params"])


class _Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


def transformer(depth: int = 12, width: int = 64) -> Model:
    """Pre-norm transformer blocks of Flax NNX, on 4 x 16 tokens."""
    graph, params = nnx.split(nnx.List([_Block(width, nnx.Rngs(i)) for i in range(depth)]))
    x = random.normal(random.key(0), (4, 16, width))

    def loss(params):
        h = x
        for block in nnx.merge(graph, params, copy=True):
            h = block(h)
        return jnp.mean(h**2)

    return Model(loss, params)


def scanned_mlp(width: int, depth: int = 50) -> Model:
    """ReLU layers in a scan, batch = width."""
    x = random.normal(random.key(0), (width, width))
    params = random.normal(random.key(1), (depth, width, width)) * (2 / width) ** 0.5

    def loss(params):
        layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)  # noqa: E731
        return jnp.mean(jax.lax.scan(layer, x, params)[0] ** 2)

    return Model(loss, params)


def cnn() -> Model:
    """Ten 3 x 3 convolutions with 32 channels in a scan, on 32 images of 16 x 16."""
    kernels = random.normal(random.key(0), (10, 3, 3, 32, 32)) * (2 / 288) ** 0.5
    x = random.normal(random.key(1), (32, 16, 16, 32))

    def loss(kernels):
        def layer(x, kernel):
            layout = ("NHWC", "HWIO", "NHWC")
            h = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
            return jax.nn.relu(h), None

        return jnp.mean(jax.lax.scan(layer, x, kernels)[0] ** 2)

    return Model(loss, kernels)


def lstm(units: int = 128, batch: int = 64) -> Model:
    """An LSTM over 100 steps."""
    params = {
        "wx": random.normal(random.key(0), (units, 4 * units)) / units**0.5,
        "wh": random.normal(random.key(1), (units, 4 * units)) / units**0.5,
        "bias": jnp.zeros((1, 4 * units)),
    }
    xs = random.normal(random.key(2), (100, batch, units))

    def loss(params):
        def step(carry, x):
            h, c = carry
            gates = x @ params["wx"] + h @ params["wh"] + params["bias"]
            i, f, g, o = jnp.split(gates, 4, axis=1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        start = jnp.zeros((batch, units))
        (h, _), _ = jax.lax.scan(step, (start, start), xs)
        return jnp.mean(h**2)

    return Model(loss, params)


UNROLLED = {
    "MLP of 10 layers": lambda: unrolled_mlp(10),
    "MLP of 30 layers": lambda: unrolled_mlp(30),
    "MLP of 100 layers": lambda: unrolled_mlp(100),
    "MLP of 300 layers": lambda: unrolled_mlp(300),
    "ResNet-50": resnet50,
    "transformer of 12 blocks": transformer,
    "1,000 leaves": many_leaves,
}
SCANNED = {
    "MLP, 50 x 64": lambda: scanned_mlp(64),
    "MLP, 50 x 128": lambda: scanned_mlp(128),
    "MLP, 50 x 512": lambda: scanned_mlp(512),
    "CNN, 10 x 32 channels": cnn,
    "LSTM, 128 units, 100 steps": lstm,
}
MODELS = UNROLLED | SCANNED


class Cost(NamedTuple):
    """What one model costs in one form."""

    first: float  # CPU seconds of the first call
    plain_ms: float
    ms: float  # of a later call
    plain_memory: int  # bytes
    memory: int


def measure(model: str, form: str, rounds: int) -> Cost:
    """The cost of a model, in this process."""
    loss, params = MODELS[model]()
    jax.block_until_ready(params)
    options = FORMS[form]
    functions = {
        "plain": jax.jit(jax.value_and_grad(loss)),
        "form": jax.jit(
            jax.value_and_grad(loss) if options is None else vanishing.probe(loss, **options)
        ),
    }
    start = time.process_time()
    program = functions["form"].lower(params).compile()
    jax.block_until_ready(program(params))
    first = time.process_time() - start
    programs = {"form": program, "plain": functions["plain"].lower(params).compile()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            calls = 0
            while calls == 0 or time.perf_counter() - start < 0.1:
                jax.block_until_ready(program(params))
                calls += 1
            seconds[name].append((time.perf_counter() - start) / calls)
    ms = {
        name: 1e3 * statistics.median(values) if values else 0.0 for name, values in seconds.items()
    }
    analyses = {name: program.memory_analysis() for name, program in programs.items()}
    memory = {name: a.temp_size_in_bytes if a else 0 for name, a in analyses.items()}
    return Cost(
        first=first,
        plain_ms=ms["plain"],
        ms=ms["form"],
        plain_memory=memory["plain"],
        memory=memory["form"],
    )


def in_a_process(model: str, form: str, rounds: int, source: str = "") -> Cost | None:
    """The cost of a model in a process of its own; None if it failed.

    Args:
      model: its name.
      form: of the probe.
      rounds: see `table`.
      source: the folder with the source of another version of this library, or "".
    """
    environment = dict(os.environ, JAX_ENABLE_COMPILATION_CACHE="false")
    if source:
        environment["PYTHONPATH"] = source
    command = [sys.executable, __file__, model, form, str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return Cost(*json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def table(models: list[str], forms: list[str], rounds: int, repeats: int, before: str) -> list[str]:
    """Lines of a table of what models cost over the plain loss, in processes taken in turn.

    Args:
      models: their names.
      forms: of the probe.
      rounds: how often running times are measured in one process; with 0, first calls alone.
      repeats: how many processes each number is the median of.
      before: the source tree of an earlier version to compare with, or "".
    """
    sources = {"before": before, "now": ""} if before else {"now": ""}
    header = ["model", "plain"]
    header += [f"{form}{', ' + name if before else ''}" for form in forms for name in sources]
    header += ["memory"] if rounds else []
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for model in models:
        costs: dict[tuple[str, str], list[Cost | None]] = {}
        for _ in range(repeats):
            runs = [("plain", "now"), *((form, name) for form in forms for name in sources)]
            for form, name in runs:
                if form == "plain" and rounds:
                    continue
                cost = in_a_process(model, form, rounds, sources[name])
                costs.setdefault((form, name), []).append(cost)
        lines.append(f"| {model} | {' | '.join(_cells(costs, forms, list(sources), rounds))} |")
    return lines


def _cells(costs, forms: list[str], names: list[str], rounds: int) -> list[str]:
    def median(form: str, name: str, of: Callable[[Cost], float]) -> float:
        values = [of(cost) for cost in costs[form, name] if cost]
        return statistics.median(values) if values else float("nan")

    keys = [(form, name) for form in forms for name in names]
    if not rounds:
        plain = median("plain", "now", lambda cost: cost.first)
        ratios = [median(*key, lambda cost: cost.first) / plain for key in keys]
        return [f"{plain:.2f} s", *(f"{ratio:.1f}x" for ratio in ratios)]
    plain = median(forms[0], "now", lambda cost: cost.plain_ms)
    ratios = [median(*key, lambda cost: cost.ms / cost.plain_ms) for key in keys]
    extra = median(forms[0], "now", lambda cost: cost.memory - cost.plain_memory)
    share = median(forms[0], "now", lambda cost: cost.memory / cost.plain_memory)
    memory = f"+{extra / 2**20:.1f} MB ({share:.2f}x)"
    return [f"{plain:.2f} ms", *(f"{ratio:.2f}x" for ratio in ratios), memory]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
