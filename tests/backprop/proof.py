"""What the tests of backpropagation by hand share: random shapes in float64, and equality."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**31 - 1)
small = st.sampled_from([1, 2, 3])


def over_random_shapes(examples=15, **shapes):
    """The test at drawn sizes and a drawn seed, in float64; the same ones every time.

    A few of the examples are drawn always, all of them with --slow.
    """

    def decorate(test):
        many = pytest.param(examples, marks=pytest.mark.slow)

        @pytest.mark.parametrize("examples", [min(examples, 4), many])
        def run(examples):
            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            @given(draws=st.fixed_dictionaries(shapes), seed=seeds)
            def drawn(draws, seed):
                with jax.enable_x64(True):
                    test(np.random.default_rng(seed), **draws)

            drawn()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


def assert_equal(by_hand, automatic, rtol=1e-10, atol=0.0):
    """Every array within rtol of its largest entry (and atol), in the same structure.

    Not of each entry: one that is a difference of large ones has lost their rounding.
    """
    assert jax.tree.structure(by_hand) == jax.tree.structure(automatic)
    for (path, actual), expected in zip(
        jax.tree_util.tree_leaves_with_path(by_hand), jax.tree.leaves(automatic), strict=True
    ):
        assert actual.dtype == expected.dtype == np.float64
        assert actual.shape == expected.shape
        bound = rtol * np.abs(expected).max(initial=0.0) + atol
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path)
        )
