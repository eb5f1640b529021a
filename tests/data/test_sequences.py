"""The sequence tasks against their definitions, read off in NumPy, and their baselines."""

import jax
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import data

EXAMPLES = 100_000


def frequencies_are_even(indices, low, high):
    """Every value from low to high - 1 comes up equally often, within five standard errors."""
    counts = np.bincount(indices - low, minlength=high - low)
    p = 1 / (high - low)
    assert len(counts) == high - low
    assert np.abs(counts / len(indices) - p).max() <= 5 * (p * (1 - p) / len(indices)) ** 0.5


@pytest.mark.parametrize("length", [*slow(10), 7])
def test_adding_sums_the_two_marked_numbers(length, key):
    x, y = map(np.asarray, data.adding(key, EXAMPLES, length))
    values, marks = x[..., 0], x[..., 1]
    assert set(np.unique(marks)) == {0.0, 1.0}
    first, second = np.nonzero(marks)[1].reshape(EXAMPLES, 2).T  # fails unless there are two
    frequencies_are_even(first, 0, length // 2)
    frequencies_are_even(second, length // 2, length)
    rows = np.arange(EXAMPLES)
    np.testing.assert_allclose(y, values[rows, first] + values[rows, second], rtol=1e-6)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 1 / 2) < 5 * (1 / 12 / values.size) ** 0.5
    errors = (y - 1.0) ** 2  # of the best constant
    assert abs(errors.mean() - data.ADDING_MEMORYLESS) < 5 * errors.std() / EXAMPLES**0.5


@pytest.mark.parametrize("blanks", [*slow(1), 30])
def test_copy_memory_asks_for_what_it_has_shown(blanks, key):
    examples = 5_000
    x, y = map(np.asarray, data.copy_memory(key, examples, blanks))
    assert x.shape == (examples, blanks + 20, 10)
    np.testing.assert_array_equal(x.sum(-1), np.ones((examples, blanks + 20)))
    symbols = x.argmax(-1)
    frequencies_are_even(symbols[:, :10].ravel(), 0, 8)
    tail = [8] * (blanks - 1) + [9] + [8] * 10
    np.testing.assert_array_equal(symbols[:, 10:], np.tile(tail, (examples, 1)))
    np.testing.assert_array_equal(y[:, : blanks + 10], np.full((examples, blanks + 10), 8))
    np.testing.assert_array_equal(y[:, blanks + 10 :], symbols[:, :10])


@pytest.mark.parametrize(
    ("blanks", "nats"),  # Arjovsky et al. 2016: 10 ln 8 / (T + 20)
    [(100, 0.17329), (200, 0.09452), (300, 0.06498), (500, 0.03999), (2000, 0.01029)],
)
def test_copy_memory_without_memory(blanks, nats):
    assert data.copy_memoryless(blanks) == pytest.approx(nats, abs=5e-6)


@pytest.mark.parametrize("length", [*slow(10), 57])
def test_temporal_order_names_the_order(length, key):
    examples = 20_000
    x, y = map(np.asarray, data.temporal_order(key, examples, length))
    symbols = x.argmax(-1)
    np.testing.assert_array_equal(x.sum(-1), np.ones((examples, length)))
    first, second = np.nonzero(symbols < 2)[1].reshape(examples, 2).T
    frequencies_are_even(first, length // 10, length // 5)
    frequencies_are_even(second, length // 2, 6 * length // 10)
    names = np.array(["X", "Y", "a", "b", "c", "d"])[symbols]
    rows = np.arange(examples)
    letters = np.char.add(names[rows, first], names[rows, second])
    np.testing.assert_array_equal(np.array(["XX", "XY", "YX", "YY"])[y], letters)
    frequencies_are_even(y, 0, 4)  # so the best guess costs log(4) nats
    frequencies_are_even(symbols[symbols >= 2], 2, 6)
    assert pytest.approx(1.386294, abs=1e-6) == data.TEMPORAL_ORDER_MEMORYLESS


def test_by_pixel_reads_row_after_row():
    images = np.arange(2 * 2 * 3 * 2.0).reshape(2, 2, 3, 2)
    pixels = data.by_pixel(images)
    assert pixels.shape == (2, 6, 2)
    np.testing.assert_array_equal(pixels[1, 4], images[1, 1, 1])


def test_the_tasks_run_in_jit_with_a_key(key):
    make = jax.jit(lambda key: data.adding(key, 4, 9))
    np.testing.assert_array_equal(make(key).x, data.adding(key, 4, 9).x)
    assert (make(key).y != make(jax.random.key(1)).y).all()


def test_lengths_that_are_too_short_are_refused(key):
    assert_refuses(lambda: data.adding(key, 3, 1), "length is 1", "at least 2")
    assert_refuses(lambda: data.copy_memory(key, 3, 0), "blanks is 0", "at least 1")
    assert_refuses(lambda: data.temporal_order(key, 3, 9), "length is 9", "at least 10")
