"""A sweep with this library and with PyTorch, compared; `scripts/benchmark --versus=torch` runs it.

A tanh network of depth 50 with batch = width, SGD with momentum, 16 networks at once (4 learning
rates x 4 seeds; on a GPU up to 1,024), the norm of every layer's weight gradient recorded at every
step. Each arrangement runs in a process of its own, one after another in one run:

    vanishing                       a task of `vanishing.sweep.parallel` that records these norms
    vanishing, every layer probed   `vanishing.train`, as the experiments run it: the signal and
                                    error signal of every layer too, and a loop over the layers
    eager                           PyTorch's usual loop, one network after another on all cores
    torch.compile                   the same with its loss and its update compiled
    torch.func                      one vmapped step over the stacked models
    one process per core            eager, one thread each, the networks dealt out
"""

import dataclasses
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
JAX, PROBED, CORES = "vanishing", "vanishing, every layer probed", "one process per core"
TORCH = ("eager", "torch.compile", "torch.func", CORES)
NETWORKS = {"cpu": {}, "gpu": {64: 1024, 128: 256}}  # by width; else FEW
FEW = 16
STEPS = {64: 50, 128: 20}  # of a timed call; beyond these widths LARGE_STEPS
LARGE_STEPS, CALLS = 3, 4


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one arrangement."""

    rate: float  # network-steps per second, the median of the timed calls
    first: float  # seconds from the start of the process to the first result
    memory: float  # peak megabytes of the processes, or of the GPU


def table(say: Callable[[str], None], device: str, depth: int, widths: list[int]) -> None:
    """Print the arrangements' rates, their ratios, and fractions of the matrix-product rate."""
    say(f"Training tanh networks of depth {depth} side by side, batch = width, SGD with momentum,")
    say(f"every layer's gradient norm recorded at every step; on {machine(device)}.")
    for width in widths:
        steps = STEPS.get(width, LARGE_STEPS)
        results = {JAX: measure("sweep_jax.py", "norms", device, depth, width, steps)}
        results[PROBED] = measure("sweep_jax.py", "probe", device, depth, width, steps)
        for name in TORCH if device == "cpu" else TORCH[:-1]:
            results[name] = measure("sweep_torch.py", name, device, depth, width, steps)
        chain = 2 * width**3 * 3 * depth
        product_rate = chain * max(
            measure(script, "products", device, depth, width, steps).rate
            for script in ("sweep_jax.py", "sweep_torch.py")
        )
        work = 2 * width**3 * (3 * depth - 1)  # no gradient reaches the inputs
        best = max(results[name].rate for name in TORCH if name in results)
        networks = NETWORKS[device].get(width, FEW)
        say(f"\n{networks} networks of width {width}; matrix products of this shape alone reach")
        say(f"{product_rate / 1e9:.0f} GFLOP/s.\n")
        say(
            "| arrangement | network-steps/s | over eager | over PyTorch's best | "
            "share of products | first result | memory |"
        )
        say("|---|---|---|---|---|---|---|")
        for name, result in results.items():
            say(
                f"| {name} | {result.rate:.4g} | {result.rate / results['eager'].rate:.2f}x | "
                f"{result.rate / best:.2f}x | {result.rate * work / product_rate:.0%} | "
                f"{result.first:.1f} s | {result.memory:.0f} MB |"
            )


def measure(script: str, arrangement: str, device: str, depth: int, width: int, steps: int):
    """Run one arrangement; "one process per core" in as many processes at once."""
    processes = os.cpu_count() or 1 if arrangement == CORES else 1
    networks = NETWORKS[device].get(width, FEW)
    sizes = (depth, width, -(-networks // processes), steps, CALLS)
    started = f"{time.time()}"
    command = [sys.executable, HERE / script, started, arrangement, device, *map(str, sizes)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    results = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        last = " ".join(results[0][1].strip().splitlines()[-1:])
        raise ValueError(f"{script} {arrangement} failed: {last}")
    outputs = [json.loads(out.splitlines()[-1]) for out, _ in results]
    return Measured(
        rate=sum(statistics.median(output["rates"]) for output in outputs),
        first=max(output["first"] for output in outputs),
        memory=sum(output["memory"] for output in outputs),
    )


def machine(device: str) -> str:
    """The name of the processor and the number of its cores, or the name of the GPU."""
    if device == "gpu":
        ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"^model name\s*: (.*)$", listed, re.MULTILINE) or [platform.processor()]
    return f"{names[0]}, {os.cpu_count()} cores"
