import subprocess
import sys

import pytest

from tests.helpers import slow

ABSENT = """
import sys
for name in {names!r}:
    sys.modules[name] = None  # as if it were not installed
import vanishing
{program}
"""


@pytest.mark.parametrize(
    ("program", "absent", "extra"),
    [
        ("vanishing.compare", "xarray", "sweeps"),
        ("vanishing.figures.plot", "matplotlib", "figures"),
        ("vanishing.data.load('digits')", "sklearn", "experiments"),
        *slow(
            ("vanishing.sweep.run", "orbax", "sweeps"),
            ("vanishing.train.to_dataset", "xarray", "sweeps"),
            ("vanishing.data.fetch('mnist')", "pooch", "experiments"),
        ),
    ],
)
def test_what_needs_an_absent_package_names_the_command_that_installs_it(program, absent, extra):
    names = ["xarray", "orbax", "orbax.checkpoint", "matplotlib", "sklearn", "pooch"]
    names = [name for name in names if name.partition(".")[0] == absent]
    program = ABSENT.format(names=names, program=program)
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = process.stderr.strip().splitlines()[-1]
    message = f"{absent} is not installed; run: pip install 'vanishing[{extra}]'"
    assert last == f"ModuleNotFoundError: {message}", process.stderr
