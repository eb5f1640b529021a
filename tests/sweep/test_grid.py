import jax
import numpy as np
import pytest
import xarray as xr

from tests.helpers import assert_refuses
from tests.train.test_labelled import recognisable_history
from vanishing import train
from vanishing.sweep import Grid, grid


class Anything:
    def __repr__(self):
        return "anything"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"structural": {"depth": ()}}, "axis depth is empty"),
        ({"numeric": {"seed": []}}, "axis seed is empty"),
        ({"numeric": {"seed": 3}}, "axis seed is 3; it must be a sequence of values."),
        ({"structural": {"s": "tanh"}}, "axis s is 'tanh'; it must be a sequence of values."),
        ({"structural": {"x": (1,)}, "numeric": {"x": (2,)}}, "x is both structural and numeric"),
        (
            {"structural": {"s": (1, "1")}},
            "axis s has 1 and '1', which are the same as text; leave",
        ),
        ({"structural": {"s": (None, "None")}}, "axis s has None; it must be a text, a number or"),
        ({"structural": {"s": (True, "True")}}, "axis s has True and 'True', which are the same"),
        ({"structural": {"s": (1, True)}}, "axis s has 1 and True, which are the same as labels"),
        ({"structural": {"s": (1, 2, 1.0)}}, "axis s has 1 and 1.0, which are the same as labels"),
        ({"structural": {"s": (0.5, 2**53, 2**53 + 1)}}, "which are the same as labels"),
        ({"structural": {"s": (2**70,)}}, "axis s has an integer beyond 64 bits"),
        ({"structural": {"s": (Anything(), Anything())}}, "axis s has anything; it must be a text"),
        ({"structural": {"s": (np.tanh, np.sin)}}, "axis s has the function tanh; it must be a"),
        ({"structural": {"s": ((8, 8), (4, 4))}}, "axis s has (8, 8); it must be a text, a number"),
        ({"numeric": {"x": (1e-50, 1.0)}}, "axis x has 1e-50, which JAX holds as 0.0; sizes of fl"),
        (
            {"numeric": {"x": (1e-40,)}},
            "axis x has 1e-40, which JAX holds as 0.0; sizes of float32",
        ),
        ({"numeric": {"x": (1e39,)}}, "axis x has 1e+39, which JAX holds as inf; sizes of float32"),
        (
            {"numeric": {"x": (0.1, 0.1 + 1e-10)}},
            "which are the same in float32; leave one of them",
        ),
        ({"numeric": {"x": (3.0, 3)}}, "axis x has 3.0 and 3, which are the same in float32"),
        ({"numeric": {"x": (0.0, -0.0)}}, "axis x has 0.0 and -0.0, which are the same in float32"),
        ({"numeric": {"x": (np.nan, 1.0, np.nan)}}, "axis x has nan and nan, which are the same"),
        ({"numeric": {"seed": (2**32 + 5, 5)}}, "axis seed has 4294967301, which JAX holds as 5;"),
        (
            {"numeric": {"seed": (2**31,)}},
            "axis seed has 2147483648, which JAX holds as -2147483648",
        ),
        (
            {"numeric": {"seed": (2**63,)}},
            "axis seed has 9223372036854775808, which JAX holds as 0",
        ),
        ({"numeric": {"seed": (2**64,)}}, "it must be numbers that JAX can hold"),
        ({"numeric": {"x": ("a",)}}, "axis x has ('a',); it must be numbers that JAX can hold"),
        ({"numeric": {"x": ((1, 2),)}}, "axis x has shape (1, 2); it must be a sequence"),
    ],
)
def test_a_grid_refuses(axes, message):
    assert_refuses(lambda: Grid(**axes), message)


def test_what_float32_cannot_tell_apart_is_told_apart_in_float64():
    axes = {"seed": (5, 2**32 + 5), "x": (0.1, 0.1 + 1e-10, 1e-50)}
    with jax.enable_x64(True):
        points = Grid(numeric=axes).points()
    assert points["seed"].tolist() == [5, 5, 5, *[2**32 + 5] * 3]
    assert points["x"].tolist() == list(axes["x"]) * 2


def test_numbers_that_precision_only_rounds_are_kept():
    axes = {"x": (0.1, -3e38, 1.2e-38, np.inf, 16777217.0), "seed": (0, 2**31 - 1)}
    points = Grid(numeric=axes).points()
    np.testing.assert_allclose(points["x"][::2], axes["x"], rtol=1e-6)
    assert points["seed"][:2].tolist() == [0, 2**31 - 1]


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
