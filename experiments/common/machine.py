"""The machine that an experiment runs on: devices and processes, and the folder they share."""

import contextlib
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax

from experiments.common.options import Options, option
from vanishing.sweep import parallel, run_folder
from vanishing.sweep.run_folder import CodeVersion, Folder

_ADDRESS = re.compile(
    r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}"
)  # host:port, the host perhaps of IPv6


@dataclasses.dataclass(frozen=True)
class MachineOptions(Options):
    """Devices and processes that an experiment is spread over."""

    host_devices: int = option(
        0,
        "Devices that a CPU is presented as, which runs are dealt out to; 0: one a core.",
        at_least=0,
        in_question=False,
    )
    distributed: bool = option(
        False,
        "Work together with the other processes that the cluster (Slurm, Kubernetes, Open MPI, "
        "Cloud TPU) has started, in a folder that all of them can reach.",
        in_question=False,
    )
    coordinator: str = option(
        "", "The first process's host:port, without a cluster that knows it.", in_question=False
    )
    num_processes: int = option(
        0, "How many processes work together; 0: unknown.", at_least=0, in_question=False
    )
    process_id: int = option(
        -1, "The number of this process, from 0; -1: unknown.", at_least=-1, in_question=False
    )


def set_up(options: MachineOptions, cache: Path) -> None:
    """Configure JAX before anything else uses it: devices, processes, compilation cache.

    Args:
      options: devices and processes.
      cache: folder of compiled programs, unless $JAX_COMPILATION_CACHE_DIR names another.

    Raises:
      ValueError: a process has no number, or the processes cannot find each other.
    """
    jax.config.update("jax_num_cpu_devices", options.host_devices or _cores())
    _join(options)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    # it only saves time, and what fills the disk is said where a result is lost
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _cores() -> int:
    """The cores that this process may use, which a cluster makes fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stop(message: str) -> NoReturn:
    """End this process with a line on what went wrong, without waiting for others to end too."""
    if jax.distributed.is_initialized():
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(message)


def _join(options: MachineOptions) -> None:
    """Join the other processes, if there are any."""
    named = (options.coordinator, options.num_processes, options.process_id >= 0)
    if any(named) and not all(named):
        raise ValueError(
            "coordinator, num_processes and process_id belong together; give all three, or "
            "--distributed where a cluster knows them."
        )
    if not (any(named) or options.distributed):
        return
    if options.coordinator and not _ADDRESS.fullmatch(options.coordinator):
        raise ValueError(
            f"coordinator is {options.coordinator!r}; it must be host:port, as 10.0.0.1:1234."
        )
    if options.coordinator and options.process_id >= options.num_processes:
        raise ValueError(
            f"process_id is {options.process_id}; of {options.num_processes} processes it must be "
            f"at most {options.num_processes - 1}."
        )
    try:
        if options.distributed:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(
                options.coordinator, options.num_processes, options.process_id
            )
    except RuntimeError as error:
        raise ValueError(f"the processes did not find each other: {error}") from None


@contextlib.contextmanager
def claimed(
    path: Path, config: Mapping[str, Any], code: CodeVersion, overwrite: bool
) -> Iterator[Folder]:
    """A run folder for all processes, claimed by the first; see `run_folder.claimed`."""
    if jax.process_index() == 0:
        with contextlib.ExitStack() as stack:
            try:
                store = stack.enter_context(
                    run_folder.claimed(path, config, code, overwrite=overwrite)
                )
            except BaseException:
                parallel.broadcast_from_first(False)
                raise
            parallel.broadcast_from_first(True)
            yield store
            parallel.wait_for_all()
    else:
        if not parallel.broadcast_from_first(False):
            raise ValueError("the first process stopped; its message says why.")
        if not (path / "config.json").exists():
            raise ValueError(
                f"{path} of the first process is not seen by process {jax.process_index()}; "
                "give an --out on a file system that all share."
            )
        yield run_folder.of(path, config, code)
        parallel.wait_for_all()


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """The arithmetic of an experiment: "float64" or less."""
    # Accelerators round float32 products to TF32 or bfloat16 unless told to keep float32.
    with jax.enable_x64(name == "float64"), jax.default_matmul_precision("highest"):
        yield
