import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.diagnosis import diagnose, remedies

WIDTH = 32
X = jax.random.normal(jax.random.key(0), (16, WIDTH))


class Normed(nn.Module):
    norm: nn.Module
    size: float = 1.0
    shift: float = 0.0

    @nn.compact
    def __call__(self, x):
        x = self.size * nn.Dense(WIDTH, name="first")(x) + self.shift
        return nn.Dense(4, name="last")(jnp.tanh(self.norm(x)))


def found(module):
    params = module.init(jax.random.key(1), X)
    loss = lambda p, x: jnp.mean(module.apply(p, x) ** 2)  # noqa: E731
    findings = {f.kind: f for f in diagnose(loss)(params, X).findings}
    _, kept = module.apply(params, X, capture_intermediates=True)
    (after,) = kept["intermediates"]["norm"]["__call__"]
    return findings, float(np.sqrt(np.mean(np.square(after))))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_signal_under_the_epsilon_is_not_normalised(norm):
    findings, size = found(Normed(norm(epsilon=1e-3), size=1e-4))
    assert findings["norm"].cause == "epsilon"
    assert findings["norm"].remedies == (remedies.EPSILON,)
    assert findings["norm"].evidence["rms"] == pytest.approx(size, rel=1e-4)
    assert "norm" not in found(Normed(norm()))[0]


def test_a_variance_that_is_rounding_beside_the_mean_is_found():
    findings, size = found(Normed(nn.LayerNorm(), size=0.1, shift=1000.0))
    assert size > 3
    assert (findings["norm"].cause, findings["norm"].remedies) == ("rounding", (remedies.TWO_PASS,))
    safe, size = found(Normed(nn.LayerNorm(use_fast_variance=False), size=0.1, shift=1000.0))
    assert size == pytest.approx(1, rel=0.1)
    assert "norm" not in safe


def test_a_gain_of_its_own_is_what_is_due():
    gain = nn.initializers.constant
    assert "norm" not in found(Normed(nn.LayerNorm(scale_init=gain(5.0))))[0]
    assert "norm" not in found(Normed(nn.LayerNorm(scale_init=gain(0.0))))[0]  # for one step


def test_a_norm_of_one_number_is_constant():
    def loss(params, x):
        h = (x @ params["a"])[..., None]
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return jnp.mean((h[..., 0] @ params["b"] + x @ params["c"]) ** 2)

    w = jax.random.normal(jax.random.key(2), (3, WIDTH, WIDTH))
    findings = diagnose(loss)(dict(zip("abc", w, strict=True)), X).findings
    assert "one_unit" in {f.cause for f in findings if f.kind == "norm"}


def test_a_gain_of_0_is_found_in_front_of_a_layer_and_not_in_front_of_a_sum():
    gain = jnp.zeros((1, WIDTH))
    weights = [jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / 6 for i in range(3)]

    def normed(x, gain):
        centred = x - x.mean(-1, keepdims=True)
        return gain * centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    def in_front_of_a_layer(params, x):
        a, b, c = params["kernels"]
        h = x @ a
        h = h + jnp.tanh(normed(h, params["gain"]) @ b)
        return jnp.mean((h @ c) ** 2)

    def in_front_of_a_sum(params, x):
        a, b, c = params["kernels"]
        h = x @ a
        h = h + normed(jnp.tanh(h @ b), params["gain"])
        return jnp.mean((h @ c) ** 2)

    params = {"kernels": weights, "gain": gain}
    (finding,) = diagnose(in_front_of_a_layer)(params, X).findings
    assert finding.kind == "norm"
    assert finding.remedies == (remedies.UNIT_GAIN,)
    assert not jax.grad(in_front_of_a_layer)(params, X)["kernels"][1].any()
    assert diagnose(in_front_of_a_sum)(params, X).findings == ()


def told_of(epsilon, size):
    """The finding of a signal of this size that goes through a normalisation of this epsilon."""
    weight = size * jax.random.normal(jax.random.key(2), (WIDTH, WIDTH)) / WIDTH**0.5

    def loss(weight, x):
        x = x @ weight
        return jnp.mean((x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon) - 1) ** 2)

    return next(f for f in diagnose(loss)(weight, X).findings if f.kind == "norm")


@pytest.mark.parametrize(
    ("epsilon", "whose"),
    [
        ("1e-3", "Keras"),
        ("1e-5", "Flax, Equinox, Haiku, PyTorch and JAX"),
        ("1e-6", "Flax and Keras"),
    ],
)
def test_a_default_epsilon_is_named_with_its_framework(epsilon, whose):
    told = told_of(float(epsilon), 0.1 * float(epsilon) ** 0.5)
    assert told.evidence["epsilon"] == pytest.approx(float(epsilon), rel=0.1)
    assert f"an epsilon of {epsilon}, the default of {whose}, leaves so" in told.says


def test_an_epsilon_that_is_no_default_is_nobody_s():
    told = told_of(1e-4, 1e-3)
    assert told.cause == "epsilon"
    assert "default" not in told.says
    assert "epsilon" not in told.evidence


def test_a_single_number_less_its_mean_that_is_squeezed_afterwards():
    def loss(p, x):
        h = x @ p["narrow"]
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return jnp.mean((h[:, 0] + p["shift"] - x[:, 0]) ** 2)

    params = {"narrow": jax.random.normal(jax.random.key(3), (WIDTH, 1)), "shift": jnp.zeros(1)}
    (told,) = diagnose(loss)(params, X).findings
    assert (told.kind, told.cause) == ("norm", "one_unit")
