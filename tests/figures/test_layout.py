import pytest

from vanishing import figures


@pytest.mark.parametrize("count", [2, 18])
def test_a_legend_stays_within_its_panel(axes, count):
    for i in range(count):
        axes.plot([0, 1], [i, i], label=f"hard_sigmoid {i}: 100%")
    figures.legend(axes, title="test accuracy")
    axes.figure.draw_without_rendering()
    box, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
    assert frame.x0 <= box.x0 <= box.x1 <= frame.x1


@pytest.mark.parametrize("count", [3, 18])
def test_names_get_colors_of_their_own(count):
    names = [f"name {i}" for i in range(count)]
    assert len(set(figures.colors(names).values())) == count
