import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import summary

SIZES = [1e-34, 1e-30, 1e-5, 1.0, 1e15, 1e30, 8e37]


def test_of_complex_numbers_the_magnitudes_are_summarised():
    x = jnp.array([3 + 4j, 0, jnp.nan * 1j, -5])
    for one in (
        summary.forward(x[:2], ("mean", "rms", "largest", "zeros")),
        summary.backward(x[:2], ("rms", "largest", "zeros")),
    ):
        assert (one.largest, one.zeros) == (5, 0.5)
        np.testing.assert_allclose(one.rms, (25 / 2) ** 0.5, rtol=1e-6)
    assert summary.backward(x, ("non_finite",)).non_finite == 1


def signal(size, shape=(40, 8)):
    drawn = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(size * np.where(drawn < -1, 0, drawn), jnp.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_summaries_are_those_of_numpy_in_float64(size, transform):
    x = signal(size)
    wide = np.asarray(x, np.float64)
    found = transform(lambda x: summary.forward(x, summary.ForwardSummary._fields))(x)
    rms = np.sqrt(np.mean((wide / size) ** 2)) * size
    np.testing.assert_allclose(found.rms, rms, rtol=1e-5)
    np.testing.assert_allclose(found.mean, wide.mean(), rtol=1e-4)
    np.testing.assert_allclose(found.largest, np.abs(wide).max(), rtol=1e-6)
    np.testing.assert_allclose(found.zeros, np.mean(x == 0), rtol=1e-6)
    assert found.zeros > 0.1
    back = transform(lambda x: summary.backward(x, summary.ForwardSummary._fields))(x)
    np.testing.assert_allclose(back.rms, rms, rtol=1e-5)


def test_what_is_not_finite_is_counted_and_shows():
    x = jnp.array([1.0, jnp.inf, -jnp.inf, jnp.nan])
    found = summary.backward(x, summary.ForwardSummary._fields)
    assert float(found.non_finite) == 3
    assert not np.isfinite(found.rms)


def test_what_is_not_wanted_is_nan():
    found = summary.forward(jnp.ones((2, 2)), ("rms",))
    assert float(found.rms) == 1
    assert np.isnan([getattr(found, n) for n in summary.ForwardSummary._fields if n != "rms"]).all()


@pytest.mark.parametrize("shape", [(7,), (300, 400), (2**24 + 2**20,)])
def test_a_fraction_is_exact_also_of_more_elements_than_float32_counts(shape):
    mask = np.random.default_rng(0).random(shape) < 0.9
    np.testing.assert_allclose(summary.fraction(jnp.asarray(mask)), np.mean(mask), rtol=1e-7)
    assert float(summary.fraction(jnp.ones(shape, bool))) == 1


def test_dead_units_are_dead_for_the_whole_batch():
    x = np.ones((5, 7, 4), np.float32)
    x[..., 1] = 0
    x[:4, :, 2] = 0
    assert float(summary.dead_units(jnp.asarray(x))) == 0.25


def test_similarity_is_the_mean_cosine_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(6, 5)) + 0.5
    pairs = [
        x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    np.testing.assert_allclose(summary.similarity(jnp.float32(x)), np.mean(pairs), rtol=1e-5)
    np.testing.assert_allclose(
        summary.similarity(jnp.float32(1e-30 * x)), np.mean(pairs), rtol=1e-5
    )
    assert float(summary.similarity(jnp.ones((4, 3)))) == pytest.approx(1)
    assert np.isnan(summary.similarity(jnp.ones((1, 3))))


@pytest.mark.parametrize(
    ("function", "largest"),
    [
        (jax.nn.sigmoid, 0.25),
        (jnp.tanh, 1),
        (jax.nn.relu, 1),
        (lambda x: jnp.tanh(3 * x), 3),
        (jnp.exp, np.nan),
        (jnp.square, np.nan),
    ],
)
@pytest.mark.parametrize("shape", [(), (3, 2), (2000,)])
def test_the_largest_slope_of_a_function_is_found_where_it_has_one(function, largest, shape):
    found = summary.largest_slope(function, shape, jnp.float32)
    np.testing.assert_allclose(found, largest, rtol=1e-4)


def test_saturated_is_the_fraction_of_slopes_under_a_hundredth():
    x = jnp.linspace(-10, 10, 2001)
    slope = summary.slope(jax.nn.sigmoid, x)
    found = summary.forward(x, ("saturated",), slope, 0.25).saturated
    # the slope of the sigmoid is 0.0025 at +-5.9864
    np.testing.assert_allclose(found, np.mean(np.abs(x) > 5.9864), rtol=1e-3)


def test_under_vmap_one_tiny_signal_does_not_blur_the_others():
    x = np.stack([signal(size) for size in SIZES])
    x[2, 0, :3] = np.inf
    found = jax.jit(jax.vmap(lambda x: summary.backward(x, summary.ForwardSummary._fields)))(
        jnp.asarray(x)
    )
    alone = [summary.backward(jnp.asarray(one), summary.ForwardSummary._fields) for one in x]
    for name, together in found._asdict().items():
        np.testing.assert_allclose(together, [getattr(one, name) for one in alone], rtol=1e-6)
    assert found.non_finite.tolist() == [0, 0, 3, 0, 0, 0, 0]
