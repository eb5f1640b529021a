import os

import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import figures
from vanishing.figures.rows import require_picture


@pytest.mark.parametrize("size", [1, 5, 200])
def test_plot_shows_both_ways_on_log_axes(size):
    backward = 10.0 ** -np.arange(size) if size < 10 else np.full(size, 0.0)
    figure = figures.plot([f"row {i}" for i in range(size)], np.ones(size), backward, "title")
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), np.ones(size))
    assert upper.get_yscale() == "log"
    low, high = upper.get_ylim()
    assert low < 0.2 and high > 5, "a flat line is drawn flat"  # noqa: PT018
    figure.draw_without_rendering()
    assert "dL/dh" in lower.get_ylabel()


def test_a_file_that_no_picture_can_be_written_to_is_refused(tmp_path):
    require_picture("plot", str(tmp_path / "trace.PNG"))
    require_picture("plot", "trace.svg")
    for file in ("trace.foo", "trace", str(tmp_path)):
        assert_refuses(lambda f=file: require_picture("plot", f), "it must end in one of ", ".png")
    absent = str(tmp_path / "absent" / "trace.png")
    assert_refuses(lambda: require_picture("plot", absent), f"there is no folder {tmp_path}/absent")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # which would be waited for
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "absent" / "picture.png")
    for name in ("folder.png", "pipe.png", "nowhere.png"):
        file = str(tmp_path / name)
        assert_refuses(lambda f=file: require_picture("plot", f), "which is there and no file")
    long = str(tmp_path / f"{'x' * 300}.png")
    assert_refuses(lambda: require_picture("plot", long), "which cannot be written: File name too")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"folder.png", "pipe.png", "nowhere.png"}, "to look leaves nothing behind"
    (tmp_path / "old.png").write_text("a picture")
    require_picture("plot", str(tmp_path / "old.png"))
    assert (tmp_path / "old.png").read_text() == "a picture"
