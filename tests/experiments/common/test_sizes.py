import numpy as np
import pytest

from experiments.common.sizes import difference, rms


def test_what_is_too_small_to_square_keeps_its_size():
    assert rms(np.array([3e-200, 4e-200])) == pytest.approx(12.5**0.5 * 1e-200, rel=1e-14)
    assert rms(np.array([1.0, np.inf])) == np.inf
    # rounding of numbers that have one binary digit left
    assert difference(np.array([1e-323]), np.array([5e-324])) < 1e-15
    assert difference(np.array([1e-300]), np.array([2e-300])) == 0.5


def test_what_both_have_made_infinite_differs_by_nothing_and_else_by_everything():
    inf, nan = np.inf, np.nan
    assert difference(np.array([1.0, inf, nan]), np.array([1.0, inf, nan])) == 0.0
    assert difference(np.array([1.0, inf]), np.array([1.5, inf])) == pytest.approx(1 / 3)
    for a, b in ((inf, 1.0), (nan, 1.0), (inf, -inf), (inf, nan)):
        assert difference(np.array([a]), np.array([b])) == inf
