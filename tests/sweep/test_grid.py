import numpy as np
import pytest
import xarray as xr

from tests.helpers import assert_refuses
from tests.train.test_labelled import recognisable_history
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
    dataset = xr.Dataset(
        {"y": (("layer", "point"), [[1.0], [2.0]]), "z": 3.0}, {"w": ("point", [4.0])}
    )
    bare = grid.spread(dataset, {})
    assert bare.y.values.tolist() == [1.0, 2.0]
    assert "w" in bare.coords
    assert grid.spread(dataset, {"seed": [7]}).y.sel(seed=7, layer=1) == 2.0
    assert float(bare.z) == 3.0


def test_spread_refuses_axes_that_do_not_fit():
    with pytest.raises(ValueError, match="5} for 6 points"):
        grid.spread(train.to_dataset(recognisable_history()), {"seed": range(5)})


def test_cells_are_assembled_along_the_axes_with_nan_and_the_reason_where_one_failed():
    axes = Grid(structural={"depth": (2, 3), "norm": ("a", "b")}, numeric={"seed": (7, 8)})
    cells = [xr.Dataset({"y": ("point", [i, i + 0.5])}) for i in range(4)]
    cells[1] = cells[1].assign(why=("point", np.array(["x", "y"], dtype=object)))
    complete = grid.assemble(axes, [cells[0], cells[0], cells[2], cells[3]], [""] * 4)
    assert complete.y.dims == ("depth", "norm", "seed")
    assert complete.y.sel(depth=3, norm="a", seed=8) == 2.5
    assert "failure" not in complete
    dataset = grid.assemble(axes, [None, cells[1], None, cells[1]], ["too deep", "", "no", ""])
    assert np.isnan(dataset.y.sel(norm="a")).all()
    assert dataset.y.sel(depth=2, norm="b").values.tolist() == [1.0, 1.5]
    assert dataset.why.sel(depth=2).values.tolist() == [["", ""], ["x", "y"]]
    assert dataset.failure.values.tolist() == [["too deep", ""], ["no", ""]]


def test_a_grid_of_failed_cells_alone_is_refused():
    assert_refuses(lambda: grid.assemble(Grid({"depth": (2,)}), [None], ["no"]), "no dataset")
