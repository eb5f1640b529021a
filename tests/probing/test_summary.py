import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from vanishing.probing import slopes, summary
from vanishing.probing.patterns import SiteKind

SIZES = [1e-34, 1e-30, 1e-5, 1.0, 1e15, 1e30, 8e37]
NAMES = summary.ForwardSummary._fields


def summarized(x, names, is_saturated=None):
    measured = summary.measure(x, summary.measures_of(names), is_saturated)
    entries = summary.entries(measured, np.full(len(x), float(x[0].size)))
    return {name: value for name, value in entries.items() if name in names}


def signal(size, shape=(40, 8)):
    noise = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(size * np.where(noise < -1, 0, noise), jnp.float32)


@pytest.mark.parametrize("transform", [jax.jit, *slow(lambda f: f)])
def test_summaries_of_signals_of_all_sizes_are_those_of_numpy_in_float64(transform):
    """In one stack, so that no signal blurs another."""
    stack = jnp.stack([signal(size) for size in SIZES])
    forward = transform(lambda x: summarized(x, NAMES))(stack)
    sizes, x = np.array(SIZES), np.asarray(stack, np.float64)
    rms = np.sqrt(np.mean((x / sizes[:, None, None]) ** 2, (1, 2))) * sizes
    np.testing.assert_allclose(forward["rms"], rms, rtol=1e-5)
    np.testing.assert_allclose(forward["mean"], x.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(forward["largest"], np.abs(x).max((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(forward["zeros"], np.mean(x == 0, (1, 2)), rtol=1e-6)
    assert (forward["zeros"] > 0.1).all()


def test_what_is_not_finite_is_counted_and_shows():
    x = jnp.array([[1.0, jnp.inf, -jnp.inf, 0.0], [1.0, 2.0, jnp.nan, 0.0], [3e38, -3e38, 0, 0]])
    entries = summarized(x, summary.BackwardSummary._fields)
    assert entries["non_finite"].tolist() == [2, 1, 0]
    assert entries["largest"][0] == entries["rms"][0] == np.inf
    assert np.isnan([entries["largest"][1], entries["rms"][1]]).all()
    np.testing.assert_allclose(entries["rms"][2], 3e38 / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(entries["zeros"], [0.25, 0.25, 0.5])


@pytest.mark.parametrize("size", [8, 5000, 300_000])
def test_one_nan_shows_in_a_signal_of_any_size(size):
    """XLA for CPUs leaves nan out of the maximum of a large array (jaxlib 0.10.2 to 0.12)."""
    x = jnp.ones((4, size)).at[0, 3].set(jnp.nan).at[1, 5].set(-jnp.inf).at[2].set(jnp.nan)
    entries = jax.jit(lambda x: summarized(x, ("mean", "rms", "largest", "non_finite")))(x)
    assert entries.pop("non_finite").tolist() == [1, 1, size, 0]
    assert all(np.isfinite(entry).tolist() == [False] * 3 + [True] for entry in entries.values())
    assert entries["largest"][1] == np.inf


def test_complex_signals_are_summarised_by_their_magnitudes():
    x = jnp.array([[3 + 4j, 0, -5j, 1e-30]])
    entries = summarized(x, ("rms", "largest", "mean", "zeros"))
    expected = {"rms": 12.5**0.5, "largest": 5, "mean": 2.5, "zeros": 0.25}
    assert {n: float(v[0]) for n, v in entries.items()} == pytest.approx(expected, rel=1e-6)


def test_signals_without_elements_have_size_0():
    entries = summarized(jnp.zeros((2, 0, 3)), summary.BackwardSummary._fields)
    assert all(value.tolist() == [0, 0] for value in entries.values())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_narrow_dtypes_are_summarised_in_float32(dtype):
    x = jnp.array([[0.5, -2.0, 0.0, 1.0]], dtype)
    with jax.numpy_dtype_promotion("strict"):
        entries = summarized(x, ("rms", "mean", "largest"))
    assert {n: float(v[0]) for n, v in entries.items()} == {
        "rms": pytest.approx((5.25 / 4) ** 0.5),
        "mean": pytest.approx(-0.125),
        "largest": 2.0,
    }
    assert all(value.dtype == jnp.float32 for value in entries.values())


def test_what_is_not_measured_is_marked():
    measured = summary.measure(jnp.ones((1, 2, 2)), ("largest",))
    assert list(measured) == ["largest"]
    largest, zeros = summary.complete(measured, ("largest", "zeros"), 1, jnp.float32)
    assert largest[0] == 1
    assert np.isnan(zeros[0])
    with jax.debug_nans(True):
        assert summary.unmeasured() == summary.LOWEST


def test_zeros_and_saturation_are_of_nonlinearities():
    assert summary.is_measured("zeros", SiteKind.NONLINEARITY)
    assert not summary.is_measured("saturated", SiteKind.MATMUL)
    assert summary.is_measured("rms", SiteKind.MATMUL)


@pytest.mark.parametrize("shape", [(7,), (300, 400), (2**24 + 2**20,)])
def test_a_fraction_is_exact_also_of_more_elements_than_float32_counts(shape):
    mask = np.random.default_rng(0).random(shape) < 0.9
    np.testing.assert_allclose(summary.fraction(jnp.asarray(mask)[None]), np.mean(mask), rtol=1e-7)
    assert float(summary.fraction(jnp.ones((1, *shape), bool))[0]) == 1


def test_dead_units_are_dead_for_the_whole_batch():
    x = np.ones((1, 5, 7, 4), np.float32)
    x[..., 1] = 0
    x[0, :4, :, 2] = 0
    assert float(summary.dead_units(jnp.asarray(x))[0]) == 0.25


def test_similarity_is_the_mean_cosine_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(6, 5)) + 0.5
    pairs = [
        x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    similarity = jax.jit(summary.similarity)
    pair = np.float32(np.stack([x, 1e-30 * x]))
    np.testing.assert_allclose(similarity(pair), np.mean(pairs), rtol=1e-5)
    assert float(similarity(np.ones((1, 4, 3), np.float32))[0]) == pytest.approx(1)
    assert np.isnan(similarity(np.ones((1, 1, 3), np.float32))[0])
    assert np.isnan(similarity(np.ones((1, 3), np.float32))[0])


def test_saturated_is_the_fraction_of_slopes_under_a_hundredth():
    x = jnp.linspace(-10, 10, 2001)[None]
    is_saturated = slopes.slope(jax.nn.sigmoid, x) < summary.SATURATED * 0.25
    entries = summarized(x, ("saturated",), is_saturated)
    # the slope of the sigmoid is 0.0025 at +-5.9864
    np.testing.assert_allclose(entries["saturated"], [np.mean(np.abs(x) > 5.9864)], rtol=1e-3)
