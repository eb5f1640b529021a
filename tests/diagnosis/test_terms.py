import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import theory
from vanishing.diagnosis import diagnose

WIDTH, DEPTH = 64, 20
X = jax.random.normal(jax.random.key(1), (32, WIDTH))
KEYS = jax.random.split(jax.random.key(0), DEPTH)


def drawn(initializer, width=WIDTH):
    return [initializer(key, (width, width)) for key in KEYS]


def chain(weights, x, activation=jax.nn.relu):
    for w in weights:
        x = activation(x @ w)
    return jnp.mean(x**2)


def found(kind, loss, *args):
    return next((f for f in diagnose(loss)(*args).findings if f.kind == kind), None)


def test_the_default_of_equinox_is_named_where_tanh_loses_the_gradient():
    layers = [eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=key) for key in KEYS]

    def loss(layers, x):
        for layer in layers:
            x = jnp.tanh(jax.vmap(layer)(x))
        return 1e3 * jnp.mean(x**2)

    told = found("vanishing", loss, layers, X)
    assert told is not None
    assert "drawn at 0.58 / sqrt(fan_in), the default of Equinox and PyTorch" in told.says
    assert told.says.endswith("while tanh keeps its gradient at 1")
    sizes = [np.std(layer.weight) * WIDTH**0.5 for layer in layers]
    assert told.evidence["kernel_scale"] == pytest.approx(np.median(sizes), rel=0.01)
    (point,) = theory.critical("tanh")
    assert told.evidence["critical_scale"] == pytest.approx(point.sigma_w)
    assert "drawn like: nn.Linear of Equinox 0.13.8" in told.explain()


def test_the_default_of_flax_is_named_where_relu_loses_the_signal():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2 * DEPTH):
                x = jax.nn.relu(nn.Dense(WIDTH)(x))
            return x

    params = Net().init(KEYS[0], X)
    told = found("vanishing", lambda p, x: jnp.mean(Net().apply(p, x) ** 2), params, X)
    assert told is not None
    assert "drawn at 1 / sqrt(fan_in), the default of Flax, while relu keeps" in told.says
    assert told.evidence["critical_scale"] == pytest.approx(2**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("scale", "says"), [(0.3, "0.3 / sqrt(fan_in), while"), (2.0, "2 / sqrt(fan_in), while")]
)
def test_a_scale_of_one_s_own_has_no_owner(scale, says):
    normal = jax.nn.initializers.normal(scale / WIDTH**0.5)
    told = found("vanishing" if scale < 1 else "exploding", chain, drawn(normal), X)
    assert told is not None
    assert says in told.says
    assert "drawn_like" not in told.evidence


def test_an_initialiser_of_jax_is_named_where_no_layer_begins_so():
    linear = lambda weights, x: chain(weights, x, lambda x: x)  # noqa: E731
    told = found("exploding", linear, drawn(jax.nn.initializers.he_normal()), X)
    assert told is not None
    assert "1.4 / sqrt(fan_in), as by he_normal" in told.says
    assert told.says.endswith("while a layer without an activation keeps its gradient at 1")


def test_no_scale_is_named_where_theory_has_none_that_holds():
    small = drawn(jax.nn.initializers.normal(0.5 / WIDTH**0.5))
    told = found("vanishing", lambda w, x: chain(w, x, jax.nn.gelu), small, X)
    assert told is not None
    assert "critical_scale" not in told.evidence


def test_where_the_gradient_is_kept_nothing_is_said():
    he = drawn(jax.nn.initializers.he_normal(), 256)
    x = jax.random.normal(jax.random.key(1), (32, 256))
    assert diagnose(chain)(he, x).findings == ()


def test_the_slope_at_0_is_named_where_all_is_0():
    def loss(params, x):
        return jnp.mean((jax.nn.relu(jnp.tanh(x @ params[0]) @ params[1]) @ params[2] - 1) ** 2)

    w = drawn(jax.nn.initializers.lecun_normal())
    told = found("dead_gradient", loss, [w[0], jnp.zeros((WIDTH, WIDTH)), w[1]], X)
    assert told is not None
    assert told.evidence["slope_at_0"].startswith("0 of nn.relu(x)")
    assert jax.grad(jax.nn.relu)(0.0) == 0
    assert "0.5 of jnp.maximum(x, 0.0)" in told.explain()
    assert jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0) == 0.5


def test_the_forget_bias_of_each_framework_is_named_where_gates_lose_the_gradient():
    cell = nn.LSTMCell(8)
    xs = jax.random.normal(jax.random.key(2), (40, 4, 8))
    carry = cell.initialize_carry(KEYS[0], (4, 8))
    params = cell.init(KEYS[1], carry, xs[0])

    def loss(params, xs):
        last, _ = jax.lax.scan(lambda c, x: cell.apply(params, c, x), carry, xs)
        return jnp.mean(last[1] ** 2)

    told = found("vanishing", loss, params, xs)
    assert told is not None
    assert "0 in Flax, 1 in Haiku" in told.evidence["forget_bias_by_default"]
