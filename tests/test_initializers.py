import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import initializers
from vanishing.initializers import INITIALIZERS, Scales, by_name, scaled

FAN_IN, FAN_OUT = 600, 400
SHAPE = (FAN_IN, FAN_OUT)


def draw(name, key, shape=SHAPE, **scales):
    weights = by_name(name, Scales(**scales))
    return (
        np.asarray(weights.kernel_init(key, shape, jnp.float32), np.float64),
        np.asarray(weights.bias_init(key, (10_000,), jnp.float32), np.float64),
    )


STD = {  # from the papers' formulas
    "normal": 0.3,
    "lecun_normal": (1 / FAN_IN) ** 0.5,
    "lecun_uniform": (1 / FAN_IN) ** 0.5,
    "glorot_normal": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "glorot_uniform": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "xavier_normal": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "xavier_uniform": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "he_normal": (2 / FAN_IN) ** 0.5,
    "he_uniform": (2 / FAN_IN) ** 0.5,
    "kaiming_normal": (2 / FAN_IN) ** 0.5,
    "kaiming_uniform": (2 / FAN_IN) ** 0.5,
    "uniform": 0.3 / 3**0.5,
    "textbook": 1.0,
    "scaled": 1.7 / FAN_IN**0.5,
}


@pytest.mark.parametrize("name", STD)
def test_kernel_has_mean_0_and_the_papers_variance(name, key):
    kernel, _ = draw(name, key, scale=0.3, sigma_w=1.7, sigma_b=0.4)
    n = kernel.size
    # five standard errors; var(w^2) is at most 2 std^4, that of a Gaussian
    assert abs(kernel.mean()) < 5 * STD[name] / n**0.5
    assert abs(np.mean(kernel**2) / STD[name] ** 2 - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("uniform", 0.3),
        ("lecun_uniform", (3 / FAN_IN) ** 0.5),
        ("he_uniform", (6 / FAN_IN) ** 0.5),
        ("glorot_uniform", (6 / (FAN_IN + FAN_OUT)) ** 0.5),
    ],
)
def test_uniform_kernels_fill_their_interval(name, bound, key):
    kernel, _ = draw(name, key, scale=0.3)
    # of 240,000 draws the outermost miss the ends by about bound / 120,000
    assert kernel.min() == pytest.approx(-bound, rel=1e-3)
    assert kernel.max() == pytest.approx(bound, rel=1e-3)
    assert kernel.max() <= bound * (1 + 1e-6)


def test_constant_kernels(key):
    assert (draw("zeros", key)[0] == 0).all()
    assert (draw("constant", key, scale=0.25)[0] == 0.25).all()
    np.testing.assert_array_equal(draw("identity", key, scale=0.25)[0], 0.25 * np.eye(*SHAPE))
    with pytest.raises(ValueError, match=r"not an array of shape \(3, 4, 5\)"):
        draw("identity", key, (3, 4, 5))


def test_orthogonal_kernels_have_equal_singular_values(key):
    kernel, _ = draw("orthogonal", key, scale=1.5)
    np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), 1.5, rtol=1e-5)


def test_delta_orthogonal_is_an_isometry_in_the_middle_of_the_window(key):
    kernel, _ = draw("delta_orthogonal", key, shape=(3, 3, 16, 32))
    centre = kernel[1, 1].copy()
    np.testing.assert_allclose(centre @ centre.T, np.eye(16), atol=1e-5)
    kernel[1, 1] = 0
    assert (kernel == 0).all()


def test_biases_start_at_zero_except_where_the_name_says_otherwise(key):
    for name in INITIALIZERS:
        shape = (3, 3, 4, 4) if name == "delta_orthogonal" else SHAPE
        _, bias = draw(name, key, shape, sigma_b=0.4)
        expected = {"textbook": 1.0, "scaled": 0.4}.get(name, 0.0)
        # five standard errors of the mean square of 10,000 Gaussians
        assert np.mean(bias**2) == pytest.approx(expected**2, rel=5 * (2 / 10_000) ** 0.5)


def test_scaled_runs_over_a_grid_of_scales_at_once(key):
    def q(sigma_w, sigma_b):
        kernel_init, bias_init = scaled(sigma_w, sigma_b)
        kernel_key, bias_key = jax.random.split(key)
        bias = bias_init(bias_key, (4000,), jnp.float32)
        return jnp.mean((jnp.ones(400) @ kernel_init(kernel_key, (400, 4000)) + bias) ** 2)

    sigma_w, sigma_b = jnp.array([0.5, 1.0, 2.0]), jnp.array([0.0, 1.0, 0.5])
    # sigma_w^2 q + sigma_b^2 with q = 1, within five standard errors of 4,000 Gaussians
    np.testing.assert_allclose(
        jax.vmap(q)(sigma_w, sigma_b), sigma_w**2 + sigma_b**2, rtol=5 * (2 / 4000) ** 0.5
    )


def test_dtype_is_kept(key):
    for name in set(INITIALIZERS) - {"orthogonal", "delta_orthogonal"}:  # LAPACK has no bfloat16 QR
        shape = (4, 4)
        weights = by_name(name)
        assert weights.kernel_init(key, shape, jnp.bfloat16).dtype == jnp.bfloat16
        assert weights.bias_init(key, (4,), jnp.bfloat16).dtype == jnp.bfloat16


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="initializer is 'he'; it must be one of zeros, constant"):
        by_name("he")


@pytest.mark.parametrize("name", [*STD, "orthogonal", "delta_orthogonal", "zeros"])
def test_the_mean_square_that_theory_is_told_is_the_drawn_one(name, key):
    shape = (3, 3, 40, 60) if name == "delta_orthogonal" else SHAPE
    weights = by_name(name, Scales(scale=0.3, sigma_w=1.7, sigma_b=0.4))
    kernel = np.asarray(weights.kernel_init(key, shape, jnp.float32), np.float64)
    # five standard errors; var(w^2) is at most 2 std^4, that of a Gaussian
    rtol = 5 * (2 / kernel.size) ** 0.5
    mean_square = float(weights.kernel_init.mean_square(shape))
    assert np.mean(kernel**2) == pytest.approx(mean_square, rel=rtol)
    biases = np.asarray(weights.bias_init(key, (100_000,), jnp.float32), np.float64)
    mean_square = float(weights.bias_init.mean_square((100_000,)))
    assert np.mean(biases**2) == pytest.approx(mean_square, rel=5 * (2 / 100_000) ** 0.5)


def test_constructors_draw_what_their_names_do(key):
    constructors = {
        "normal": initializers.normal(0.3),
        "constant": initializers.constant(0.3),
        "delta_orthogonal": initializers.delta_orthogonal(0.3),
        "xavier_uniform": initializers.glorot_uniform(),
        "kaiming_normal": initializers.he_normal(),
        "lecun_uniform": initializers.lecun_uniform(),
    }
    for name, initializer in constructors.items():
        expected = by_name(name, Scales(scale=0.3)).kernel_init(key, (3, 3, 4, 5), jnp.float32)
        np.testing.assert_array_equal(initializer(key, (3, 3, 4, 5), jnp.float32), expected)
