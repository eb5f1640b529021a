"""A toy project of one package whose face is lazy, and of experiments that use parts of it."""

import functools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vanishing.sweep import sources

FACE = '''
"""A face."""
from typing import TYPE_CHECKING
from vanishing._lazy import attach
if TYPE_CHECKING:
    from toy_library import checked
    from toy_library.deep import deepest
__version__ = "1"
__getattr__, __dir__ = attach(__name__, {"tool": "tools", "deepest": "deep", "tools": ""})
__all__ = ["deepest", "tool", "tools"]
'''
FILES = {
    "toy_library/__init__.py": FACE,
    "toy_library/tools.py": "from toy_library import base\ntool = base.zero",
    "toy_library/base.py": "zero = 0",
    "toy_library/checked.py": "only = 'for type checkers'",
    "toy_library/unused.py": "nobody = 'imports this'",
    "toy_library/late.py": "late = 1",
    "toy_library/deep/__init__.py": FACE.replace(
        '{"tool": "tools", "deepest": "deep", "tools": ""}', '{"deepest": "inner", "other": "odd"}'
    ),
    "toy_library/deep/inner.py": "from ..base import zero\ndeepest = zero",
    "toy_library/deep/odd.py": "other = 2",
    "toy_experiments/eager.py": "from toy_library import tool",
    "toy_experiments/lazy.py": (
        "def run():\n    from toy_library import late\n    return late.late"
    ),
    "toy_experiments/attribute.py": "import toy_library\nvalue = toy_library.deepest",
    "toy_experiments/chain.py": "import toy_library as t\nvalue = t.deep.deepest",
    "toy_experiments/value.py": "from toy_library import deep\nnames = getattr(deep, 'other')",
    "toy_experiments/shadow.py": (
        "from toy_library import deep\ndef run(deep):\n    return deep\nvalue = deep.deepest"
    ),
}
TOOLS = {"toy_library", "toy_library.tools", "toy_library.base"}
DEEP = {"toy_library", "toy_library.deep", "toy_library.deep.inner", "toy_library.base"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def hashes(*roots):
    return sources.module_hashes([*roots, "toy_library.base"])


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("experiment", "modules"),
    [
        ("eager", TOOLS),
        ("lazy", {"toy_library", "toy_library.late", "toy_library.base"}),
        ("attribute", DEEP),
        ("chain", DEEP),
        ("value", DEEP | {"toy_library.deep.odd"}),
        ("shadow", DEEP),
    ],
)
def test_the_modules_are_those_that_the_code_uses(toy, experiment, modules):
    own = {name for name in hashes(f"toy_experiments.{experiment}") if name.startswith("toy")}
    assert own == modules | {f"toy_experiments.{experiment}"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("toy_library/base.py", "zero = 0", "# a comment\nzero    =   (0)\n\n\n'a docstring'"),
        ("toy_library/__init__.py", '"""A face."""', '"""Another."""'),
        ("toy_library/__init__.py", '__version__ = "1"', '__version__ = "2"'),
        ("toy_library/__init__.py", '"tools": ""}', '"tools": "", "unused": ""}'),
        ("toy_library/__init__.py", "import checked", "import unused"),
        ("toy_library/unused.py", "nobody", "somebody"),
        ("toy_library/checked.py", "only", "merely"),
        ("toy_library/late.py", "1", "2"),
        ("toy_experiments/lazy.py", "return", "yield"),
    ],
)
def test_what_the_code_does_not_use_changes_no_hash(toy, name, old, new):
    before = hashes("toy_experiments.eager")
    change(toy / name, old, new)
    assert hashes("toy_experiments.eager") == before


@pytest.mark.parametrize(
    ("name", "old", "new", "module"),
    [
        ("toy_library/base.py", "zero = 0", "zero = 1", "toy_library.base"),
        ("toy_library/tools.py", "base.zero", "-base.zero", "toy_library.tools"),
        ("toy_library/__init__.py", '__version__ = "1"', "import os", "toy_library"),
        ("toy_library/__init__.py", '__version__ = "1"', "attach.fast = True", "toy_library"),
        ("toy_experiments/eager.py", "tool", "tool as hammer", "toy_experiments.eager"),
    ],
)
def test_code_that_is_used_changes_its_own_hash_alone(toy, name, old, new, module):
    before = hashes("toy_experiments.eager")
    change(toy / name, old, new)
    after = hashes("toy_experiments.eager")
    assert {n for n in after if after[n] != before[n]} == {module}
    assert list(after) == list(before)


def test_a_file_counts_with_what_it_imports_from_its_folder_and_the_packages(toy, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "net.py").write_text("import helper, toy_library\nuse = toy_library.tool")
    (folder / "helper.py").write_text("width = 3")
    (folder / "unrelated.py").write_text("x = 1")
    before = hashes("toy_experiments.lazy", folder / "net.py")
    assert {"net", "helper", "toy_library.tools", "toy_library.late"} <= set(before)
    assert "unrelated" not in before
    change(folder / "helper.py", "3", "4")
    after = hashes("toy_experiments.lazy", folder / "net.py")
    assert {name for name in after if after[name] != before[name]} == {"helper"}


def test_a_root_without_a_source_is_unknown(toy):
    assert hashes("toy_library.absent")["toy_library.absent"] == "unknown"


def test_an_experiment_depends_on_what_it_trains_and_on_no_other_experiment():
    modules = set(sources.module_hashes(["experiments.clipping"]))
    assert {"vanishing.train.steps", "vanishing.probing.tap", "vanishing.sweep.engine"} <= modules
    assert not {name for name in modules if name.startswith("vanishing.backprop")}
    assert {n for n in modules if n.startswith("experiments.") and ".common" not in n} == {
        "experiments.clipping"
    }


def test_the_walks_of_the_tests_are_found_without_the_tests_around_them():
    modules = set(sources.module_hashes(["tests.walks", "experiments.common.launch"]))
    assert {"tests.walks", "experiments.common.machine", "vanishing.sweep.engine"} <= modules
    assert not {name for name in modules if name.startswith("tests.")} - {"tests.walks"}


def test_a_function_knows_its_module(tmp_path):
    assert sources.module_of(sources.module_hashes) == "vanishing.sweep.sources"
    partial = functools.partial(sources.module_hashes, [])
    assert sources.module_of(partial) == "vanishing.sweep.sources"


@pytest.mark.parametrize(
    "arguments", [("-m", "toy_experiments.main"), ("toy_experiments/main.py",)]
)
def test_a_module_that_python_runs_has_its_own_name_and_a_script_its_path(toy, arguments):
    program = """
        import sys
        sys.path[:0] = [{root!r}]
        from vanishing.sweep import sources
        def measure(): pass
        print(sources.module_of(measure))
    """
    root = str(Path(__file__).parent.parent.parent)
    path = toy / "toy_experiments" / "main.py"
    path.write_text(textwrap.dedent(program).format(root=root))
    process = subprocess.run([sys.executable, *arguments], cwd=toy, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    expected = "toy_experiments.main" if arguments[0] == "-m" else str(path)
    assert process.stdout.strip() in (expected, arguments[0])
