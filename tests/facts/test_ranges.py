import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table
from vanishing.facts import RANGES, ranges, slope_range
from vanishing.layers import ACTIVATIONS

FARTHEST = 200.0
# Evenly in the logarithm, so that neighbours are closer than half of a percent.
SIZES = np.concatenate([[0.0], np.geomspace(1e-2, FARTHEST, 2001)])


@pytest.fixture
def optimized():
    """Kernels as users have them: the tests' cheaper tanh never rounds to 1 under 20."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def ends(row, sizes=SIZES):
    """The farthest numbers on both sides at which the slope is not 0."""
    function = ACTIVATIONS[row.name].function
    slope = jax.jit(jax.vmap(jax.grad(lambda x: function(x).astype(row.dtype))))
    for sign in (-1, 1):
        x = jnp.asarray(sign * sizes, row.dtype)
        reached = np.flatnonzero(np.asarray(slope(x), np.float64) != 0)
        farthest = float(abs(x[reached[-1]])) if len(reached) else 0.0
        yield sign * (math.inf if farthest == FARTHEST else farthest)


def measured(row):
    low, high = ends(row)
    return [(row.low, low), (row.high, high)]


def test_the_table_is_plain_data():
    assert_table(RANGES, lambda row: (row.name, row.dtype, row.version))
    assert_plain(ranges)


@pytest.mark.parametrize("row", [r for r in RANGES if r.name in ("tanh", "sigmoid")], ids=str)
def test_the_slope_is_0_beyond_the_range_and_not_within(optimized, row):
    slope = jax.jit(jax.vmap(jax.grad(ACTIVATIONS[row.name].function)))
    for end in (row.low, row.high):
        within, beyond = slope(jnp.asarray([0.97 * end, 1.03 * end], row.dtype))
        assert within != 0
        assert beyond == 0


def test_the_range_holds_that_in_which_the_slope_is_over_1_percent():
    """In float32; in a narrow dtype a slope may be 0 before that."""
    for row in RANGES:
        low, high = ACTIVATIONS[row.name].saturation
        if row.dtype == "float32" and " and " in row.version:
            assert row.low <= low
            assert high <= row.high


def is_of_the_installed(version):
    stated = re.findall(r"[\d.]+", version)
    return any(jax.__version__.startswith(number) for number in stated) or " and " in version


def test_where_versions_differ_the_range_is_the_widest():
    assert slope_range("elu", "float32") == (-87.0, math.inf)


def test_what_is_not_there_has_no_range():
    assert slope_range("leaky_relu", "float32") is None


@pytest.mark.slow
def test_every_range_is_as_stated(optimized):
    rows = [row for row in RANGES if is_of_the_installed(row.version)]
    assert_as_stated(rows, measured, rtol=0.01, atol=0.02)
