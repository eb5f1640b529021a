import pytest

from tests.helpers import assert_refuses
from vanishing._loading import load_function


@pytest.fixture
def file(tmp_path):
    (tmp_path / "part_of_model.py").write_text("WIDTH = 3\n")
    path = tmp_path / "model_to_load.py"
    path.write_text("from part_of_model import WIDTH\ndef make():\n    return WIDTH\nnumber = 1\n")
    return path


def test_a_function_is_loaded_with_what_lies_beside_its_file(file):
    assert load_function(f"{file}:make", "model")() == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("make", "model is 'make'; write it as path/to/file.py:function."),
        (":make", "model is ':make'; write it as"),
        ("nowhere.py:make", "model names nowhere.py, which is no file."),
        ("{file}:absent", "has no function 'absent'."),
        ("{file}:number", "has no function 'number'."),
    ],
)
def test_what_cannot_be_loaded_is_refused(name, message, file):
    assert_refuses(lambda: load_function(name.format(file=file), "model"), message)


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "model.txt"
    file.write_text("")
    assert_refuses(lambda: load_function(f"{file}:make", "model"), "which is no Python file")
