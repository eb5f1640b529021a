import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import vanishing

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={out}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_library_alone_and_no_pictures(wheel):
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {
        "vanishing",
        f"vanishing-{vanishing.__version__}.dist-info",
    }
    assert {Path(name).suffix for name in names if name.startswith("vanishing/")} <= {
        *(".py", ".typed", ".md", ".json"),
    }
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "vanishing").rglob("*.py")}
    assert files <= set(names), "every module is in it"
    assert "vanishing/py.typed" in names


def test_the_wheel_brings_the_command_line(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "vanishing = vanishing.__main__:main" in wheel.read(name).decode()


def test_the_core_is_what_predicts_probes_diagnoses_and_trains():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    assert core == {"absl-py", "flax", "jax", "jaxlib", "jaxtyping", "numpy", "optax"}
    packages = {name.partition(">")[0] for name in project["dependencies"] if "<" in name}
    assert packages == {"jax", "jaxlib"}, "an upper bound stands only where an internal is met"


def test_an_installed_copy_offers_the_library_alone_too(tmp_path):
    """So a folder `experiments` of the user's own is not taken for this one's, nor hidden by it."""
    pytest.importorskip("editables")
    build = "import hatchling.build as b, sys; print(b.build_editable(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with zipfile.ZipFile(tmp_path / process.stdout.split()[-1]) as archive:
        names = [name for name in archive.namelist() if "dist-info" not in name]
        text = "".join(archive.read(name).decode() for name in names)
    assert f"F.map_module('vanishing', {str(ROOT / 'vanishing' / '__init__.py')!r})" in text
    assert "experiments" not in text.replace(str(ROOT), "")
    assert str(ROOT) not in text.splitlines(), "no line of the .pth is the folder of the copy"


CORE_ALONE = """
import importlib.abc, sys

ABSENT = {"matplotlib", "xarray", "h5netcdf", "h5py", "filelock", "tqdm", "sklearn", "pooch"}
ABSENT |= {"chex", "equinox", "beartype", "hypothesis"}


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
import jax, jax.numpy as jnp, optax, vanishing
from vanishing import losses, networks, train

net = networks.mlp(3, depth=6, width=8, activation="sigmoid")
x, y = jax.random.normal(jax.random.key(0), (12, 4)), jnp.arange(12) % 3
params, state = net.init(jax.random.key(1), x)
loss = lambda p: losses.softmax_cross_entropy(net.apply(p, state, x).output, y)
probed = vanishing.probe(loss)(params)
print(probed.trace)
print(probed.trace.budget())
print(vanishing.diagnose(probed.trace))
print(vanishing.predict(net, x))
problem = lambda s: train.Problem(net, losses.softmax_cross_entropy, optax.sgd(s["rate"]))
run = train.make_run(problem, batch_size=4)
settings = {"seed": jnp.arange(2), "rate": jnp.full(2, 0.1)}
print(train.fit(run, settings, train.Data(x, y, x, y), records=2).loss.shape)
"""


def test_the_core_alone_predicts_probes_diagnoses_and_trains():
    cheap = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles much, runs little
    program = [sys.executable, "-c", CORE_ALONE]
    process = subprocess.run(program, capture_output=True, text=True, env=cheap)
    assert process.returncode == 0, process.stderr
    assert process.stdout.rstrip().endswith("(2, 3)")
