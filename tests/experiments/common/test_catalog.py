import subprocess
import sys
from pathlib import Path

from experiments.common import catalog

ROOT = Path(__file__).parents[3]


def test_every_module_that_can_be_run_has_a_question():
    experiments = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if "launch.main(Config()" in path.read_text()
    }
    assert len(experiments) >= 16
    assert set(catalog.questions()) == experiments


def test_python_m_experiments_lists_them_with_their_questions():
    process = subprocess.run(
        [sys.executable, "-m", "experiments"], capture_output=True, text=True, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr
    for name, question in catalog.questions().items():
        assert any(
            line.split()[:1] == [name] and line.endswith(question)
            for line in process.stdout.splitlines()
        )


def test_the_readme_lists_them_with_their_questions():
    lines = (ROOT / "experiments" / "README.md").read_text().splitlines()
    for name, question in catalog.questions().items():
        assert f"| `experiments.{name}` | {question} |" in lines
