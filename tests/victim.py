"""Forks an experiment and kills it, again and again, then lets it run to its end.

    python -m tests.victim KILLS OUT

The forks come from one process that has imported everything, so that none has to start Python.
Prints what the folder held after each kill, and exits with the exit code of the last run.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from experiments.common import launch
from tests import walks


def fork(out):
    """The number of a new process that runs the experiment."""
    child = os.fork()
    if not child:
        sys.argv = ["walks", f"--out={out}", "--checkpoint_every=0.001"]
        launch.main(walks.Config(), walks.measure, walks.verdict, walks.figure)
        os._exit(0)
    return child


def left_behind(out):
    """The contents of the folder: the number of finished parts, and the chunks at checkpoints."""
    try:
        seals = list(out.glob("checkpoints/*/*/*/seal.sha256"))
    except FileNotFoundError:  # some were removed meanwhile
        return left_behind(out)
    chunks = [path.parent.name for path in seals if path.parent.name.isdecimal()]
    return len(list(out.glob("cells/*/[0-9]*.nc"))), *sorted(map(int, chunks))


def wait(out, changes, longest=20.0):
    """Return once the folder has changed `changes` times."""
    start, last = time.monotonic(), left_behind(out)
    while changes and time.monotonic() - start < longest:
        time.sleep(0.002)
        now = left_behind(out)
        changes -= now != last
        last = now


def main(kills, out):
    moments, out = random.Random(0), Path(out)
    for _ in range(int(kills)):
        child = fork(out)
        changes = moments.randint(0, 2)
        wait(out, changes)
        # while it starts and compiles, or else before it gets much further: it must not end
        time.sleep(moments.uniform(0.0, 0.004 if changes else 0.05))
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            sys.exit("it ended before it was killed")
        print("killed; parts, and chunks at checkpoints:", *left_behind(out), flush=True)
    _, status = os.waitpid(fork(out), 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
