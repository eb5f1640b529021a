"""A process to kill: forks an experiment again and again and kills it, until one survives.

    python tests/victim.py KILLS EXPERIMENT [FLAGS]

Forked from one process that has imported everything, so that a kill costs no start of Python.
Prints how many died, and exits as the survivor did.
"""

import importlib
import os
import random
import signal
import sys
import time


def attempt(experiment, flags):
    """Run the experiment in this process."""
    sys.argv = [experiment.__name__.split(".")[-1], *flags]
    experiment.launch.main(
        experiment.Config(), experiment.measure, experiment.verdict, experiment.figure
    )


def main(kills, name, *flags):
    experiment = importlib.import_module(f"experiments.{name}")
    moments = random.Random(0)
    longest = 1.0
    died = 0
    while True:
        start = time.monotonic()
        child = os.fork()
        if not child:
            attempt(experiment, flags)
            os._exit(0)
        if died < int(kills):
            time.sleep(moments.uniform(0.0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            died += 1
            longest *= 1.04
        elif died >= int(kills):
            print(f"killed {died} times", flush=True)
            sys.exit(os.waitstatus_to_exitcode(status))
        else:
            longest *= 0.7
        print(f"{time.monotonic() - start:.2f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
