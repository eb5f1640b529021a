import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing.groups import MEMBERS, in_groups

ITEMS = [
    jnp.full((rows, *shape), i, jnp.float32)
    for i, (rows, shape) in enumerate([(1, (3,)), (2, (2, 2)), (1, (3,)), (3, (3,)), (1, (2, 2))])
]


@pytest.mark.parametrize(("limit", "calls"), [(10**9, 2), (24, 4), (1, 5)])
def test_every_row_is_computed_once_and_found_again(limit, calls):
    stacks = []

    def total(key, x):
        stacks.append(x)
        return {"sum": x.reshape(len(x), -1).sum(1), "key": jnp.full(len(x), key)}

    result, starts = in_groups(total, ITEMS, [7] * len(ITEMS), limit)
    assert len(stacks) == calls
    assert result["key"].tolist() == [7] * 8
    for i, (start, item) in enumerate(zip(starts, ITEMS, strict=True)):
        rows = result["sum"][start : start + len(item)]
        np.testing.assert_array_equal(rows, np.asarray(item).reshape(len(item), -1).sum(1))
        assert i == rows[0] / item[0].size
    assert max(x.nbytes for x in stacks) <= max(limit, max(x.nbytes for x in ITEMS))


def test_items_of_different_keys_and_dtypes_stay_apart():
    items = [jnp.ones((1, 2)), jnp.ones((1, 2), jnp.bfloat16), jnp.ones((1, 2))]
    keys = ["a", "a", "b"]
    stacks = []
    in_groups(lambda key, x: (stacks.append((key, x.dtype)), jnp.zeros(len(x)))[1], items, keys)
    assert len(stacks) == len(set(stacks)) == 3


def test_a_stack_has_a_bounded_number_of_items_and_each_row_is_found():
    items = [jnp.full((1, 2), i) for i in range(2 * MEMBERS + 3)]
    stacks = []
    first, starts = in_groups(lambda _, x: (stacks.append(len(x)), x[:, 0])[1], items)
    assert stacks == [MEMBERS, MEMBERS, 3]
    np.testing.assert_array_equal(first[starts], np.arange(len(items)))
