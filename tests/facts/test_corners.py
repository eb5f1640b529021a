import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table
from vanishing.facts import CORNERS, corner, corners


def slope_of(row):
    function = eval(f"lambda x: {row.spelling}", {"jnp": jnp, "lax": lax, "nn": nn})
    at = np.array(row.at, np.float32)
    return np.atleast_1d(jax.grad(function)(jnp.asarray(at if len(at) > 1 else at[0])))


def test_the_table_is_plain_data():
    assert_table(CORNERS, lambda row: (row.spelling, row.at))
    assert_plain(corners)
    assert all(len(row.at) == len(row.slope) for row in CORNERS)


@pytest.mark.parametrize("name", ["relu", "max", "clip", "clamp", "abs"])
def test_a_slope_at_0_is_jax_s(name):
    row = corner(name)
    assert row is not None
    np.testing.assert_allclose(slope_of(row), row.slope)


def test_the_two_sides_bound_the_slope():
    """Whatever slope is taken at a corner, it lies between those of the two sides."""
    for row in CORNERS:
        if len(row.at) == 1 and row.name != "sign":
            sides = [slope_of(row._replace(at=(row.at[0] + step,)))[0] for step in (-1e-3, 1e-3)]
            assert min(sides) - 5e-3 <= row.slope[0] <= max(sides) + 5e-3, row


def test_what_is_not_there_has_no_row():
    assert corner("relu", 1.0) is None
    assert corner("tanh") is None


@pytest.mark.slow
def test_every_slope_is_as_stated():
    assert_as_stated(CORNERS, lambda row: [(row.slope, slope_of(row))], rtol=1e-4)
