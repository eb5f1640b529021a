import numpy as np
import pytest

from vanishing.probing import templates
from vanishing.probing.axes import At
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.origins import Origin

LEAVES = templates.leaves_of(
    [Leaf("a.w", "a", (2, 3, 3)), Leaf("b.w", "b", (2, 3, 3)), Leaf("b.v", "b", (2, 3))], "layer"
)


def at(*index):
    return (At(np.array(index), frozenset({0})),)


@pytest.mark.parametrize(
    ("origins", "path"),
    [
        ([Origin(0)], "a"),  # alone in its container
        ([Origin(1)], "b.w"),
        ([Origin(1), Origin(2)], "b"),
        ([Origin(0), Origin(2)], "a.w"),  # the widest
        ([Origin(0, mixed=True), Origin(1, mixed=True)], "a.w|b.w"),
    ],
)
def test_a_path_is_what_leaves_share_or_the_widest_or_all(origins, path):
    assert templates.path_of(origins, LEAVES) == path


def test_what_contradicts_itself_has_no_index():
    turned = [Origin(0, at(0, 1), levels=frozenset({0})), Origin(0, at(1, 0))]
    assert templates.settled(turned) == [Origin(0)]
    same = [Origin(0, at(0, 1)), Origin(0)]
    assert len(templates.settled(same)) == 2
