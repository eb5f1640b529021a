import numpy as np
import pytest
import xarray as xr

from vanishing import figures


def norms(values):
    return xr.DataArray(
        np.asarray(values), dims=("seed", "layer"), coords={"layer": [1, 2, 3], "seed": [0, 1, 2]}
    )


def test_profile_draws_the_median_on_a_log_axis(axes):
    figures.profile(axes, norms([[1e-9, 1e-3, 1], [1e-8, 1e-2, 2], [1e-7, 1e-1, 3]]))
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), [1e-8, 1e-2, 2])
    assert axes.get_yscale() == "log"
    low, high = axes.collections[0].get_datalim(axes.transData).get_points()[:, 1]
    assert (low, high) == (pytest.approx(1e-9), pytest.approx(3))


def test_profile_leaves_out_what_a_log_axis_cannot_show(axes):
    figures.profile(axes, norms([[0, np.nan, 1], [0, 1e-2, np.inf], [0, 1e-4, 3]]))
    heights = axes.lines[0].get_ydata()
    assert np.isnan(heights[0])
    np.testing.assert_allclose(heights[1:], [5.05e-3, 2])


def test_curve_marks_where_a_run_diverged(axes):
    values = xr.DataArray(
        [[3.0, 2.0, 1.0], [3.0, 9.0, np.nan], [np.inf, np.nan, np.nan]],
        dims=("seed", "step"),
        coords={"seed": [0, 1, 2], "step": [0, 10, 20]},
    )
    figures.curve(axes, values, label="run")
    lengths = [len(line.get_xdata()) for line in axes.lines if line.get_marker() != "x"]
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert lengths == [3, 2, 0]
    assert crosses == [10, 0]
    assert [line.get_label() for line in axes.lines].count("run") == 1


def test_a_profile_of_nothing_but_zeros_is_empty_and_no_error():
    drawing, grid = figures.panels(1, 1, "nothing left")
    figures.profile(grid[0, 0], norms([[0, 0, 0], [np.nan, np.inf, 0], [0, 0, 0]]))
    drawing.draw_without_rendering()
    assert np.isnan(grid[0, 0].lines[0].get_ydata()).all()
