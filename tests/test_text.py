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


def test_the_middle_of_a_long_repeat_is_counted_and_all_else_is_shown():
    rows = [("first", "1"), *((f"h[{i}]", str(i)) for i in range(20)), ("last", "2")]
    shown = _text.elided(rows)
    assert [row[0] for row in shown[:4]] == ["first", "h[0]", "h[1]", "h[2]"]
    assert shown[4] == ("… 14 rows, h[3] to h[16] …",)
    assert [row[0] for row in shown[5:]] == ["h[17]", "h[18]", "h[19]", "last"]
    assert ("h[9]", "9") in _text.elided(rows, keep=[10])
    assert _text.elided(rows[:12]) == rows[:12]
    assert "… 14 rows" in _text.table(("row", "x"), shown, texts=1)
    assert '<td colspan="2">… 14 rows' in _text.html_table(("row", "x"), shown, texts=1)
