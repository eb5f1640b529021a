"""Tests of the shape of the code: what imports what, and that every module has its tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("vanishing", "experiments")
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
ORDER = (  # from the ground up: a module imports only from those before it, or its own package
    "vanishing.views",
    "vanishing.meanfield",
    "vanishing.require",
    "vanishing.initializers",
    "vanishing.layers",
    "vanishing.backprop",
    "vanishing.surrogate",
    "vanishing.networks",
    "vanishing.theory",
    "vanishing.losses",
    "vanishing.data",
    "vanishing.paths",
    "vanishing.jaxpr",
    "vanishing.facts",
    "vanishing.rows",
    "vanishing.sites",
    "vanishing.summary",
    "vanishing.through_time",
    "vanishing.optimizers",
    "vanishing.flow",
    "vanishing.tap",
    "vanishing.budget",
    "vanishing.trace",
    "vanishing.plan",
    "vanishing.check",
    "vanishing.probe",
    "vanishing.compare",
    "vanishing.diagnose",
    "vanishing.fleet",
    "vanishing.train",
    "vanishing.record",
    "vanishing.folder",
    "vanishing.sweep",
    "vanishing.figures",
    "experiments.catalog",
    "experiments.diagnose",
    "experiments.machine",
    "experiments.launch",
    "experiments.training",
    "experiments.comparison",
    "experiments.activation",
    "experiments.initialization",
    "experiments.residual",
    "experiments.normalization",
    "experiments.optimizer",
    "experiments.clipping",
    "experiments.regularization",
    "experiments.depth",
    "experiments.convolution",
    "experiments.surrogate",
    "experiments.backprop",
    "experiments.signal",
    "experiments.phase_diagram",
    "experiments.extreme_depth",
    "experiments.trainability",
    "experiments.recurrent",
    "experiments.all",
)


def rank(module):
    return next(i for i, name in enumerate(ORDER) if f"{module}.".startswith(f"{name}."))


def imported(path):
    """The project's modules that a file imports, written as dotted names."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in ("vanishing", "experiments"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif node.module.split(".")[0] in ("vanishing", "experiments"):
                yield node.module
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (n for n in names if n.split(".")[0] in ("vanishing", "experiments"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_run_downward(path):
    module = ".".join(path.with_suffix("").parts)
    above = [name for name in imported(path) if rank(name) > rank(module)]
    assert not above, f"{path} imports {', '.join(above)}, which stand above it"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_has_its_tests(path):
    parts = path.parts[1:] if path.parts[0] == "vanishing" else path.parts
    mirror = ROOT.joinpath("tests", *parts[:-1], f"test_{parts[-1]}")
    assert mirror.exists(), f"{path} has no {mirror.relative_to(ROOT)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_are_short(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= 400, f"{path} has {lines} lines; a file over 400 has two ideas"


def test_importing_the_library_loads_no_plotting_and_no_scikit_learn():
    program = (
        "import sys, vanishing.networks, vanishing.train, vanishing.data\n"
        "print([m for m in ('matplotlib', 'sklearn', 'pooch') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stdout + printed.stderr
