import numpy as np
import pytest

from vanishing.theory.roots import crossings


def test_every_crossing_is_found_to_rounding():
    grid = np.linspace(0.1, 10, 50)
    roots = crossings(np.sin, grid, np.sin(grid))
    assert roots == pytest.approx([np.pi, 2 * np.pi, 3 * np.pi], rel=1e-14)
