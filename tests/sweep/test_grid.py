import pytest
import xarray as xr

from tests.helpers import assert_refuses
from tests.train.test_labelled import made_record
from vanishing import train
from vanishing.sweep import Grid, grid


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"structural": {"depth": ()}}, "axis depth is empty"),
        ({"numeric": {"seed": []}}, "axis seed is empty"),
        ({"structural": {"x": (1,)}, "numeric": {"x": (2,)}}, "x is both structural and numeric"),
    ],
)
def test_a_grid_refuses(axes, message):
    assert_refuses(lambda: Grid(**axes), message)


def test_spread_keeps_what_has_no_points_and_needs_no_axes():
    made = xr.Dataset(
        {"y": (("layer", "point"), [[1.0], [2.0]]), "z": 3.0}, {"w": ("point", [4.0])}
    )
    bare = grid.spread(made, {})
    assert bare.y.values.tolist() == [1.0, 2.0]
    assert "w" in bare.coords
    assert grid.spread(made, {"seed": [7]}).y.sel(seed=7, layer=1) == 2.0
    assert float(bare.z) == 3.0


def test_spread_refuses_axes_that_do_not_fit():
    with pytest.raises(ValueError, match="5} for 6 points"):
        grid.spread(train.to_dataset(made_record()), {"seed": range(5)})
