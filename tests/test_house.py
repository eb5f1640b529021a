"""Tests of the shape of the code: what imports what, and that every module has its tests."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vanishing

ROOT = Path(__file__).parent.parent
PACKAGES = ("vanishing", "experiments")
MODULES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py", "_types.py")
)
FLOORS = (  # from the ground up; a file imports from the floors below, or from its own package
    "vanishing._types vanishing._extras vanishing._lazy vanishing._loading vanishing._annotations",
    "vanishing._text vanishing._numerics vanishing._arguments vanishing.figures vanishing.facts",
    "vanishing._held vanishing.data vanishing.meanfield vanishing.initializers",
    "vanishing.probing vanishing.sweep vanishing.layers vanishing.losses",
    "vanishing.networks vanishing.optimizers vanishing.theory vanishing.backprop",
    "vanishing.surrogate vanishing.diagnosis vanishing.comparison vanishing.train",
    "experiments.common",
    "experiments",
)
HELPERS = {
    "_types",
    "_extras",
    "_lazy",
    "_text",
    "_numerics",
    "_arguments",
    "_annotations",
    "_held",
    "figures",
}
APART = ("probing", "sweep")  # the probe and the grid engine know nothing of networks


def floor(module):
    """The number of the floor that a module is on, and the room that it is in."""
    rooms = ((n, room) for n, rooms in enumerate(FLOORS) for room in rooms.split())
    return next((n, r) for n, r in rooms if f"{module}.".startswith(f"{r}."))


def imported(path):
    """The project's modules that a file imports, written as dotted names."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif node.module.split(".")[0] in PACKAGES:
                yield node.module
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (n for n in names if n.split(".")[0] in PACKAGES)


def dotted(path):
    return ".".join(path.with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_run_downward(path):
    level, room = floor(dotted(path))
    wrong = [name for name in imported(path) if floor(name)[0] >= level and floor(name)[1] != room]
    assert not wrong, f"{path} imports {', '.join(wrong)}, which do not stand below it"


@pytest.mark.parametrize("package", APART)
def test_the_probe_and_the_grid_engine_stand_by_themselves(package):
    files = [path for path in MODULES if path.parts[:2] == ("vanishing", package)]
    rooms = {name.split(".")[1] for path in files for name in imported(path)}
    assert rooms <= HELPERS | {package}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_has_its_tests(path):
    parts = path.parts[1:] if path.parts[0] == "vanishing" else path.parts
    mirror = ROOT.joinpath("tests", *parts[:-1], f"test_{parts[-1].lstrip('_')}")
    assert mirror.exists(), f"{path} has no {mirror.relative_to(ROOT)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_are_short(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= 400, f"{path} has {lines} lines; a file over 400 has two ideas"


PUBLIC_PACKAGES = [
    "vanishing",
    *(f"vanishing.{p.parent.name}" for p in sorted((ROOT / "vanishing").glob("*/__init__.py"))),
]


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_no_package_exports_a_name_that_one_of_its_files_bears(package):
    module = importlib.import_module(package)
    files = {path.stem for path in Path(module.__file__).parent.iterdir()} - {"__init__"}
    names = {n for n in module.__all__ if not isinstance(getattr(module, n), type(sys))}
    assert not names & files


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_all_that_a_package_exports_is_there(package):
    module = importlib.import_module(package)
    assert all(hasattr(module, name) for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    assert len(set(module.__all__)) == len(module.__all__)


def test_an_editor_sees_what_a_lazy_package_gives():
    for package in PUBLIC_PACKAGES:
        module = importlib.import_module(package)
        names = [
            alias.name
            for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vanishing")
            for alias in node.names
        ]
        assert set(names) - {"attach"} == set(module.__all__), package


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_face():
    names = """
        probe Probe Probed Trace Budget SiteKind predict Prediction compare diagnose Diagnose
        Diagnosis assert_healthy Finding Layer backprop comparison data diagnosis facts figures
        initializers layers losses meanfield networks optimizers probing surrogate sweep theory
        train
    """.split()  # noqa: SIM905
    assert sorted(vanishing.__all__) == sorted(names)
    process = run(f"import vanishing\nprint([n for n in {names!r} if getattr(vanishing, n)])")
    assert process.stdout.strip() == str(names), process.stderr


def test_importing_the_library_loads_nothing_that_it_could_do_without():
    program = (
        "import sys, vanishing\n"
        "vanishing.probe, vanishing.diagnose, vanishing.predict, vanishing.networks\n"
        "vanishing.train.make_run, vanishing.data.load, vanishing.optimizers\n"
        "print([m for m in ('matplotlib', 'sklearn', 'pooch', 'xarray', 'orbax', 'h5py', 'tqdm',"
        " 'flax', 'chex') if m in sys.modules])"
    )
    process = run(program)
    assert process.stdout.strip() == "[]", process.stdout + process.stderr


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parts[0] == "vanishing"], ids=str
)
def test_calls_are_checked_where_shapes_are_written(path):
    """The tests check types and shapes of the calls of every module that has any."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    (option,) = (o for o in options["addopts"] if o.startswith("--jaxtyping-packages="))
    *packages, _ = option.partition("=")[2].split(",")
    if "\nfrom jaxtyping import" in (ROOT / path).read_text():
        module = ".".join(path.with_suffix("").parts)
        assert any(f"{module}.".startswith(f"{package}.") for package in packages)
