import os
import sys

import numpy as np

from vanishing import _text


def test_annotate_puts_sizes_beside_the_lines_that_made_them(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("\n".join(f"line_{n} = {n}" for n in range(1, 9)))
    sources = [f"{file}:3", f"{file}:3", f"{file}:5", ""]
    text = _text.annotate(sources, np.array([1, 2, 3, 4.0]), np.array([0.5, 1e-9, 7, 8]), around=1)
    lines = text.splitlines()
    assert [line.split("│")[1].strip() for line in lines[1:]] == [
        f"line_{n} = {n}" for n in range(2, 7)
    ]
    assert "1 … 2" in lines[2]
    assert "1.0e-09 … 0.5" in lines[2]
    assert lines[3].split("│")[0].split() == ["4"]


def test_annotate_names_lines_of_a_file_that_is_gone():
    text = _text.annotate(["gone.py:7"], np.ones(1), np.ones(1))
    assert "gone.py" in text
    assert "7" in text


def test_html_is_escaped():
    assert "&lt;stdin&gt;" in _text.html_table(["a"], [["<stdin>"]], 1, "<b>")
    assert "<b>" not in _text.html_table(["a"], [["x"]], 0, "<b>")


def test_remarks_at_the_end_of_a_table_stand_to_the_left():
    lines = _text.table(["n", ""], [["1", "learns"], ["10", "no"]], texts=0).splitlines()
    assert lines == [" n", " 1  learns", "10  no"]


def test_a_reader_that_has_gone_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        for _ in range(2):
            _text.say("nobody reads this")
        monkeypatch.undo()
