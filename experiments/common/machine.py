"""The machine an experiment runs on: its devices and processes, and the folder they share."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import jax

from vanishing.sweep import parallel, run_folder
from vanishing.sweep.run_folder import Folder


@runtime_checkable
class Config(Protocol):
    """The part of a launched configuration that is about the machine."""

    @property
    def out(self) -> str: ...
    @property
    def host_devices(self) -> int: ...
    @property
    def distributed(self) -> bool: ...
    @property
    def coordinator(self) -> str: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def process_id(self) -> int: ...


def set_up(config: Config) -> None:
    """Tell JAX of devices and processes, and where to keep what it compiles; before all else.

    Raises:
      ValueError: the processes are not told apart, or cannot find each other.
    """
    jax.config.update("jax_num_cpu_devices", config.host_devices or _cores())
    _join(config)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(config.out, "cache").absolute()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


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


def _join(config: Config) -> None:
    named = (config.coordinator, config.num_processes, config.process_id >= 0)
    if any(named) and not all(named):
        raise ValueError(
            "coordinator, num_processes and process_id belong together; give all three, or "
            "--distributed where a cluster tells them."
        )
    if not (any(named) or config.distributed):
        return
    try:
        if config.distributed:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id)
    except RuntimeError as error:
        raise ValueError(f"the processes did not find each other: {error}") from None


@contextlib.contextmanager
def claimed(
    path: Path, config: Mapping[str, Any], code: Mapping[str, str], overwrite: bool
) -> Iterator[Folder]:
    """A run folder for all processes, claimed by the first; see `folder.claimed`."""
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
            raise ValueError("the first process stopped; it says why.")
        if not (path / "config.json").exists():
            raise ValueError(
                f"{path} of the first process is not seen by process {jax.process_index()}; "
                "give an --out on a file system that all share."
            )
        yield Folder(path)
        parallel.wait_for_all()


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """The arithmetic of an experiment: "float64" or less."""
    # Accelerators round float32 products to TF32 or bfloat16 unless told to keep float32.
    with jax.enable_x64(name == "float64"), jax.default_matmul_precision("highest"):
        yield
