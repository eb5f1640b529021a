import numpy as np
import pytest

from vanishing import views


def test_annotate_puts_sizes_beside_the_lines_that_made_them(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("\n".join(f"line_{n} = {n}" for n in range(1, 9)))
    sources = [f"{file}:3", f"{file}:3", f"{file}:5", ""]
    said = views.annotate(sources, np.array([1, 2, 3, 4.0]), np.array([0.5, 1e-9, 7, 8]), around=1)
    lines = said.splitlines()
    assert [line.split("│")[1].strip() for line in lines[1:]] == [
        f"line_{n} = {n}" for n in range(2, 7)
    ]
    assert "1 … 2" in lines[2]
    assert "1.0e-09 … 0.5" in lines[2]
    assert lines[3].split("│")[0].split() == ["4"]


def test_annotate_names_lines_of_a_file_that_is_gone():
    said = views.annotate(["gone.py:7"], np.ones(1), np.ones(1))
    assert "gone.py" in said
    assert "7" in said


def test_html_is_escaped():
    assert "&lt;stdin&gt;" in views.html_table(["a"], [["<stdin>"]], 1, "<b>")
    assert "<b>" not in views.html_table(["a"], [["x"]], 0, "<b>")


@pytest.mark.parametrize("size", [1, 5, 200])
def test_plot_shows_both_ways_on_log_axes(size):
    backward = 10.0 ** -np.arange(size) if size < 10 else np.full(size, 0.0)
    figure = views.plot([f"row {i}" for i in range(size)], np.ones(size), backward, "title")
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), np.ones(size))
    assert upper.get_yscale() == "log"
    low, high = upper.get_ylim()
    assert low < 0.2 and high > 5, "a flat line is drawn flat"  # noqa: PT018
    figure.draw_without_rendering()
    assert "dL/dh" in lower.get_ylabel()
