import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import skips
from vanishing.probing.plan import make_plan

W = jnp.eye(4)
X = jnp.ones((3, 4))


def scaled(step):
    def loss(w, x):
        return jnp.sum(step(step(x, w), w))

    line = f"test_skips.py:{step.__code__.co_firstlineno}"
    found = skips.scaled(make_plan(loss, (W, X), {}).program)
    return [(skip.factor, skip.at.endswith(line)) for skip in found]


SMALL = lambda x, w: 0.25 * x + jnp.tanh(x @ w)  # noqa: E731
OTHER_WAY = lambda x, w: jax.nn.relu(x @ w) + x * 0.25  # noqa: E731


@pytest.mark.parametrize("step", [SMALL, OTHER_WAY])
def test_the_factor_of_a_skip_connection_and_its_line_are_found(step):
    assert scaled(step) == [(0.25, True)]


@pytest.mark.parametrize(
    "step",
    [
        lambda x, w: x + 0.25 * jnp.tanh(x @ w),  # the branch
        lambda x, w: 0.25 * (x + jnp.tanh(x @ w)),  # the sum
        lambda x, w: 0.25 * X + jnp.tanh(x @ w),  # another signal
        lambda x, w: 0.25 * x + x,  # no branch
    ],
)
def test_what_is_no_scaled_skip_connection_is_none(step):
    assert scaled(step) == []


def test_a_skip_connection_in_a_scan_is_found_once():
    def loss(w, x):
        return jnp.sum(jax.lax.scan(lambda h, _: (SMALL(h, w), None), x, length=5)[0])

    found = skips.scaled(make_plan(loss, (W, X), {}).program)
    assert [skip.factor for skip in found] == [0.25]


def test_small_numbers_of_the_program_are_found_in_loops_and_out_of_them():
    def loss(w, x):
        x = jax.lax.scan(lambda x, _: (1e-3 * (x @ w) + 0.5 * x, None), x, None, 3)[0]
        return 1e-4 * jnp.sum(x)

    found = skips.small_factors(make_plan(loss, (W, X), {}).program)
    assert sorted(skip.factor for skip in found) == pytest.approx([1e-4, 1e-3])


def test_a_first_signal_that_is_added_to_each_block_is_no_stream():
    def unrolled(w, x):
        first = h = x @ w
        for _ in range(3):
            h = 0.2 * first + jnp.tanh(h @ w)
        return jnp.sum(h)

    def scanned(w, x):
        first = x @ w
        step = lambda h, _: (0.2 * first + jnp.tanh(h @ w), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, first, None, 3)[0])

    for loss in (unrolled, scanned):
        assert skips.scaled(make_plan(loss, (W, X), {}).program) == ()
