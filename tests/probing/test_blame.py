import importlib.util
from pathlib import Path

import pytest

from vanishing import networks
from vanishing.probing.blame import blamed, users_place

MODEL = """
import json
def divide():
    return 1 / 0
def deep():
    return json.loads("{")
def refused():
    from vanishing import networks
    return networks.mlp(3, depth=0, width=8)
def again():
    try:
        divide()
    except ZeroDivisionError as error:
        raise RuntimeError("no width") from error
def silent():
    raise AssertionError
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model_to_blame.py"
    path.write_text(MODEL)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caught(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    ("name", "start", "line"),
    [
        ("divide", "ZeroDivisionError: division by zero (", 4),
        ("deep", "JSONDecodeError: Expecting property name", 6),
        ("refused", "mlp has depth 0; it must be at least 1", 9),
        ("again", "RuntimeError: no width (", 4),
        ("silent", "AssertionError (", 16),
    ],
)
def test_the_users_own_innermost_line_is_named(name, start, line, model):
    text = blamed(caught(getattr(model, name)))
    assert text.startswith(start)
    assert text.endswith(f" ({model.__file__}:{line}; --verbosity=1 shows the traceback)")
    assert "\n" not in text


def test_a_file_that_is_no_python_is_named_by_its_wrong_line(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("x = 1\ny = = 2\n")
    error = caught(lambda: compile(path.read_text(), str(path), "exec"))
    assert blamed(error).startswith("SyntaxError: invalid syntax (")
    assert users_place(error) == f"{path}:2"


def test_a_refusal_without_the_users_code_is_its_message_alone(model):
    here = Path(__file__).parent
    error = caught(lambda: networks.mlp(3, depth=0, width=8))
    assert blamed(error, here).startswith("mlp has depth 0; it must be at least 1")
    assert "verbosity" not in blamed(error, here)
    assert users_place(error, here) == ""
    assert users_place(caught(model.divide), here) == f"{model.__file__}:4"
