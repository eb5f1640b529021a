"""Command lines as processes of their own, forked from one process that has imported everything.

A new Python spends four seconds on imports, which is more than most of these commands then do.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax

# For commands that run longer than they compile: XLA's passes without LLVM's dear ones. Programs
# take half the time to compile of what users have, and run as fast; the other commands' programs,
# which have neither passes, compile in half of that again and take up to ten times as long to run.
# Newer versions of JAX have the programs of users, as in conftest.py.
BRISK = {
    "backend_optimization_level": "1",
    "llvm_disable_expensive_passes": "true",
    "cpu_use_fusion_emitters": "false",
    "cpu_parallel_codegen_split_count": "1",
}
LONGEST = 240.0  # seconds; none of the tests' commands takes a fifth of it
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])


class Ended(NamedTuple):
    """What is left of a command that has ended."""

    returncode: int  # minus the signal's number if one ended it
    stdout: str
    stderr: str


class Running:
    """A module, run as `python -m` would, or a file.py, as `python` would, without a new Python."""

    def __init__(self, module, *flags, cwd=None, optimized=False, home=None):
        self.folder = Path(tempfile.mkdtemp(prefix="vanishing-command-"))
        run = (module, flags, str(self.folder), str(cwd or os.getcwd()), optimized, home)
        # a daemon: it is ended if the tests are
        self.process = FORKS.Process(target=_become, args=run, daemon=True)
        self.process.start()

    def stdout(self):
        """What it has said so far."""
        return (self.folder / "stdout").read_text() if (self.folder / "stdout").exists() else ""

    def wait_until(self, holds, longest=LONGEST):
        """Return once something holds, long before the command ends."""
        start = time.monotonic()
        while not holds():
            alive = self.process.is_alive() and time.monotonic() - start < longest
            assert alive or holds(), f"it did not come to it: {self.ended(0.0)}"
            time.sleep(0.002)

    def interrupt(self):
        """Ctrl-C."""
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self):
        """SIGKILL."""
        self.process.kill()

    def ended(self, longest=LONGEST):
        """What is left of it; it is killed, and so fails, after so many seconds."""
        self.process.join(longest)
        self.process.kill()
        self.process.join()
        texts = [(self.folder / name).read_text() for name in ("stdout", "stderr")]
        return Ended(self.process.exitcode, *texts)


def command(*flags, experiment="activation", **surroundings):
    """The experiment's command line; optimised only where it runs longer than it compiles."""
    return Running(f"experiments.{experiment}", *flags, **surroundings).ended()


def _become(module, flags, folder, cwd, optimized, home):
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("VANISHING_DATA_DIR", "NPROC"):
        os.environ.pop(name, None)
    if optimized:
        brisk = BRISK if jax.__version_info__ < (0, 11) else {}
        os.environ["XLA_FLAGS"] = " ".join(f"--xla_{name}={value}" for name, value in brisk.items())
    jax.config.update("jax_disable_most_optimizations", not optimized)
    os.environ["HOME"] = str(home or os.environ.get("HOME", "/"))
    os.chdir(cwd)
    sys.argv[1:] = flags
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
        sys.stdout.flush()
