"""Predictions against wide networks drawn at random, published slopes, and each other."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import assert_refuses, slow
from vanishing import comparison, initializers, layers, networks, probe, theory
from vanishing.meanfield import signal
from vanishing.meanfield.signals import Gain

WIDTH = 1024
LEAVES = {
    "tanh": lambda: (
        layers.dense(WIDTH, *initializers.scaled(1.4, 0.3)),
        layers.activation("tanh"),
    ),
    "relu": lambda: (
        layers.dense(WIDTH, *initializers.by_name("he_normal")),
        layers.activation("relu"),
    ),
    "norm": lambda: (layers.dense(WIDTH), layers.layer_norm(), layers.activation("gelu")),
    "selu": lambda: (
        layers.dense(WIDTH, *initializers.by_name("orthogonal")),
        layers.activation("selu"),
    ),
    "dropout": lambda: (layers.dense(WIDTH), layers.dropout(0.3)),
}
BLOCKS = st.lists(
    st.tuples(st.sampled_from(sorted(LEAVES)), st.sampled_from(["plain", "residual", "scaled"])),
    min_size=1,
    max_size=3,
)


def composed(blocks):
    wrap = {
        "plain": lambda layer: layer,
        "residual": layers.residual,
        "scaled": lambda layer: layers.residual(layer, shortcut_scale=0.6, branch_scale=0.8),
    }
    return layers.serial(*(wrap[kind](layers.serial(*LEAVES[leaf]())) for leaf, kind in blocks))


def measured(net, key, x):
    """Mean square, half mean-square difference; at the input log gain and gradient correlation.

    The loss asks the same of both inputs.
    """
    init_key, noise_key, cotangent_key = jax.random.split(key, 3)
    params, state = net.init(init_key, x)
    y, pullback = jax.vjp(lambda x: net.apply(params, state, x, noise_key, True).output, x)
    cotangent = jnp.broadcast_to(jax.random.normal(cotangent_key, y.shape[1:]), y.shape)
    (gradient,) = pullback(cotangent)
    gain = jnp.log(jnp.sum(gradient**2)) - jnp.log(jnp.sum(cotangent**2))
    angle = jnp.sum(gradient[0] * gradient[1]) / jnp.sum(gradient**2) * 2
    return jnp.stack([jnp.mean(y**2), jnp.mean((y[0] - y[1]) ** 2) / 2, gain, angle])


def averaged(net, key, x, networks=4):
    """The mean of `measured` over independent networks."""
    return np.mean([measured(net, k, x) for k in jax.random.split(key, networks)], axis=0)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True)
@given(BLOCKS, st.floats(0.2, 3.0), st.floats(-0.5, 0.9))
def test_random_compositions_are_predicted_as_wide_networks_measure(blocks, q, correlation):
    net = composed(blocks)
    key, x_key = jax.random.split(jax.random.key(0))
    u, w = jax.random.normal(x_key, (2, WIDTH))
    x = q**0.5 * jnp.stack([u, correlation * u + (1 - correlation**2) ** 0.5 * w])
    means = averaged(net, key, x)
    start = theory.prediction.input_signal(x)
    after = layers.propagate(net, start)
    spread = float(jnp.sqrt(after.gain.log_variance)) + 0.01
    np.testing.assert_allclose(means[0], after.q, rtol=0.08)
    np.testing.assert_allclose(means[1], after.difference, rtol=0.12)
    gradient = jnp.array([1.0, 1.0, 1.0, after.correlation])
    assert abs(means[2] - float(after.gain.log_of(gradient))) < 3 * spread
    assert means[3] == pytest.approx(float(after.gain.correlation_of(gradient)), abs=0.06)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True)
@given(BLOCKS, BLOCKS)
def test_a_chain_is_predicted_as_its_parts_one_after_the_other(first, second):
    a, b, start = composed(first), composed(second), signal(1.3, 0.2, shape=(WIDTH,))
    chain = layers.propagate(layers.serial(a, b), start)
    parts = layers.propagate(b, layers.propagate(a, start))
    for field in ("q", "difference", "mean"):
        np.testing.assert_allclose(getattr(chain, field), getattr(parts, field), rtol=1e-5)
    gradient = jnp.array([1.0, 0.3, 0.0, 0.0])
    np.testing.assert_allclose(
        chain.gain.log_of(gradient), parts.gain.log_of(gradient), rtol=1e-4, atol=1e-5
    )


def test_a_repeated_block_is_predicted_as_the_unrolled_one():
    def block():
        return layers.residual(
            layers.serial(
                layers.dense(8, *initializers.scaled(1.2, 0.1)),
                layers.batch_norm(),
                layers.activation("tanh"),
            )
        )

    x = jax.random.normal(jax.random.key(0), (16, 8))
    nets = layers.repeat(block(), 3), layers.serial(*(block() for _ in range(3)))
    repetition, flat = (
        jax.jit(lambda x, net=net: theory.predict(net, x, gradient_correlation=0.2))(x)
        for net in nets
    )
    fields = ("q", "mean", "correlation", "log_gain", "gradient_correlation", "log_variance")
    for field in fields:
        np.testing.assert_allclose(
            getattr(repetition, field), getattr(flat, field), rtol=1e-4, atol=1e-5, err_msg=field
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (networks.mlp(10, depth=3, width=16, norm=layers.batch_norm()), (25,)),
        (
            layers.serial(
                c1=layers.conv(4, (3, 3), strides=2),
                act=layers.activation("relu"),
                flat=layers.flatten(),
                out=layers.dense(2),
            ),
            (5, 5, 1),
        ),
        (
            layers.serial(
                h=layers.repeat(
                    layers.repeat(
                        layers.serial(
                            d=layers.dense(25), ln=layers.layer_norm(), a=layers.activation("gelu")
                        ),
                        2,
                    ),
                    3,
                )
            ),
            (25,),
        ),
    ],
    ids=["batch norm", "convolution", "nested"],
)
def test_rows_have_the_names_that_the_probe_gives_them(net, shape, key):
    x = jax.random.normal(key, (8, *shape))
    params, state = net.init(key, x)

    def loss(params):
        return jnp.mean(net.apply(params, state, x, None, True).output ** 2)

    assert theory.predict(net, x).names == probe(loss)(params).trace.names


@pytest.mark.slow
def test_a_gain_that_no_float_could_hold_stays_a_number():
    net = networks.mlp(10, depth=2_000, width=64, activation="sigmoid")
    prediction = jax.jit(lambda q: theory.predict(net, jax.ShapeDtypeStruct((2, 64), float), q=q))(
        1.0
    )
    assert prediction.log_gain[0] < -5_000  # float32 ends at e^-103
    chi = theory.chi(
        "sigmoid", q=theory.fixed_point("sigmoid", sigma_w=1.0, sigma_b=0.0), sigma_w=1.0
    )
    slope = (prediction.log_gain[2] - prediction.log_gain[-5]) / (len(prediction) - 7)
    # two rows a layer; Glorot's sigma_w is 1 at equal widths
    assert float(2 * slope) == pytest.approx(float(jnp.log(chi)), rel=1e-3)


@pytest.mark.parametrize(
    ("sigma_w", "wrap"),
    [
        (1.0, lambda block: block),
        (2.0, layers.residual),
        *slow((2.0, lambda block: block), (1.0, layers.residual)),
    ],
)
def test_a_signal_that_no_float_could_hold_spoils_nothing(sigma_w, wrap):
    """ReLU multiplies mean squares by sigma_w^2 / 2, a thousand times over."""
    weights = initializers.scaled(sigma_w)
    net = networks.mlp(64, depth=1000, width=64, weights=weights, wrap=wrap)
    prediction = theory.predict(net, jax.ShapeDtypeStruct((2, 64), jnp.float32))
    factor = sigma_w**2 / 2 + (wrap is layers.residual)
    gains = prediction.to_xarray().log_gain
    name = "hidden[{}]/add" if wrap is layers.residual else "hidden[{}].dense"
    first, last = (float(gains.sel(row=name.format(i))) for i in (0, 998))
    assert (first - last) / 998 == pytest.approx(np.log(factor), rel=1e-4)
    assert float(prediction.correlation[-2]) == pytest.approx(1, abs=1e-4)
    assert np.all(np.isfinite(prediction.correlation))


@pytest.mark.slow
def test_a_prediction_lives_inside_jit_vmap_and_grad():
    def slope(sigma_w):
        weights = initializers.scaled(sigma_w, 0.1)
        net = networks.mlp(10, depth=8, width=32, activation="tanh", weights=weights)
        return theory.predict(net, jax.ShapeDtypeStruct((4, 32), jnp.float32)).log_gain[0]

    sigmas = jnp.array([0.8, 1.5])
    together, gradients = jax.jit(jax.vmap(jax.value_and_grad(slope)))(sigmas)
    slope = jax.jit(slope)
    chex.assert_trees_all_close(together, jnp.stack([slope(s) for s in sigmas]), rtol=1e-5)
    step = 1e-2
    expected = (slope(1.5 + step) - slope(1.5 - step)) / (2 * step)
    assert float(gradients[1]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(("name", "factor"), [("glorot_normal", 0.5), *slow(("he_normal", 1.0))])
def test_xavier_halves_both_signals_of_relu_where_he_keeps_them(name, factor):
    """He et al. 2015, sec. 2.2: standard deviations shrink by sqrt(1/2) a layer, or not at all."""
    net = networks.mlp(
        64, depth=30, width=64, activation="relu", weights=initializers.by_name(name)
    )
    rows = theory.predict(net, jax.ShapeDtypeStruct((2, 64), jnp.float32)).to_xarray()
    dense = rows.sel(row=[row for row in rows.row.values if row.endswith("dense")])
    np.testing.assert_allclose(dense.q[1:].values / dense.q[:-1].values, factor, rtol=1e-5)
    back = np.exp(dense.log_gain.values)
    np.testing.assert_allclose(back[:-2] / back[1:-1], factor, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (jnp.bfloat16, False),
        (jnp.uint8, True),
        *slow(
            *((dtype, True) for dtype in (jnp.bfloat16, jnp.float32, jnp.float64)),
            *((dtype, False) for dtype in (jnp.float32, jnp.float64, jnp.uint8)),
        ),
    ],
)
def test_inputs_of_any_dtype_are_predicted(dtype, wide):
    with jax.enable_x64(wide):
        x = (np.arange(48).reshape(4, 12) * 5).astype(dtype)
        net = networks.mlp(3, depth=3, width=8, activation="tanh")
        prediction = theory.predict(net, x)
        mean_square = np.mean((np.arange(48) * 5.0) ** 2)
        assert prediction.log_gain.dtype == jnp.zeros(()).dtype
        kernel = 2 / (12 + 8) * 12  # Glorot's
        assert float(prediction.q[0]) == pytest.approx(kernel * mean_square, rel=0.01)


def test_delta_orthogonal_convolutions_are_predicted_as_dense_layers():
    """Xiao et al., ICML 2018: the same maps, for a circular image."""
    weights = initializers.by_name("delta_orthogonal", initializers.Scales(scale=1.05**0.5))
    conv = layers.conv(
        8, (3, 3), padding="CIRCULAR", kernel_init=weights.kernel_init, bias_init=weights.bias_init
    )
    dense = layers.dense(8, *initializers.by_name("orthogonal", initializers.Scales(1.05**0.5)))
    ends = [
        layers.propagate(layers.repeat(layers.serial(layer, layers.activation("tanh")), 10), start)
        for layer, start in ((conv, signal(0.3, shape=(6, 6, 8))), (dense, signal(0.3, shape=(8,))))
    ]
    for field in ("q", "difference", "mean"):
        np.testing.assert_allclose(getattr(ends[0], field), getattr(ends[1], field), rtol=1e-6)
    chex.assert_trees_all_close(Gain(*ends[0].gain), Gain(*ends[1].gain), rtol=1e-5)


@pytest.mark.slow
def test_circular_convolutions_are_predicted_as_they_measure(key):
    conv = layers.conv(96, (3, 3), padding="CIRCULAR", kernel_init=initializers.lecun_normal())
    net = layers.serial(
        into=conv, rest=layers.repeat(layers.serial(act=layers.activation("tanh"), conv=conv), 3)
    )
    x = jax.random.normal(key, (2, 8, 8, 3))
    means = averaged(net, key, x)
    after = layers.propagate(net, theory.prediction.input_signal(x))
    assert means[0] == pytest.approx(float(after.q), rel=0.05)
    assert means[1] == pytest.approx(float(after.difference), rel=0.08)
    gradient = jnp.array([1.0, 1.0, 1.0, after.correlation])
    assert means[2] == pytest.approx(float(after.gain.log_of(gradient)), abs=0.1)


@pytest.mark.slow
def test_the_spread_of_relu_is_hanins():
    """Hanin & Nica 2018: log |gradient|^2 has a variance of 5 / n a layer, of one input."""
    depth, width, seeds = 10, 50, 400
    block = layers.serial(
        layers.dense(width, *initializers.by_name("he_normal")), layers.activation("relu")
    )
    net = layers.repeat(block, depth)
    x = jax.random.normal(jax.random.key(1), (2, width))[:1]

    def log_norm(key):
        params, state = net.init(key, x)
        cotangent = jax.random.normal(jax.random.fold_in(key, 1), x.shape)
        _, pullback = jax.vjp(lambda x: net.apply(params, state, x).output, x)
        gain = jnp.sum(pullback(cotangent)[0] ** 2) / jnp.sum(cotangent**2)
        return jnp.log(gain)

    logs = jax.jit(jax.vmap(log_norm))(jax.random.split(jax.random.key(0), seeds))
    after = layers.propagate(net, signal(shape=(width,)))
    predicted = float(after.gain.log_variance)
    assert predicted == pytest.approx(5 * depth / width, rel=1e-5)
    # of a variance from 400 draws five standard errors are 35 %; the next order is depth / width
    assert float(jnp.var(logs)) == pytest.approx(predicted, rel=0.35)
    error = (predicted / seeds) ** 0.5
    assert abs(float(jnp.mean(logs)) + predicted / 2) < 5 * error + 0.1 * predicted


@pytest.mark.slow
def test_tanh_residuals_explode_like_the_root_of_depth():
    """Yang & Schoenholz 2017: log gain = A sqrt(depth), A = (4/3) sqrt(2 / pi) sigma_w."""
    with jax.enable_x64(True):
        block = layers.residual(
            layers.serial(dense=layers.dense(512), activation=layers.activation("tanh"))
        )
        start = signal(1.0, 0.0, shape=(512,))
        after = layers.propagate(layers.repeat(block, 4_000), start)
        sums = after.walk.rows[-1].gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0]))
        total = float(after.gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0])))
    depth = np.arange(200, 4_001)
    growth = total - np.asarray(sums)[199:]
    features = np.stack([depth**0.5, np.log(depth), np.ones_like(depth)], axis=1)
    (a, *_), *_ = np.linalg.lstsq(features, growth, rcond=None)
    assert a == pytest.approx(4 / 3 * (2 / np.pi) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            layers.serial(a=layers.activation("tanh"), d=layers.dense(3)),
            "a: the activation meets a signal that is not normal",
        ),
        (
            layers.residual(layers.serial(n=layers.layer_norm())),
            "a residual branch without weights of its own",
        ),
        (
            layers.serial(h=layers.repeat(layers.serial(bad=layers.stateless(jnp.sort)), 2)),
            "h[:].bad: no mean-field form",
        ),
        (
            layers.serial(d=layers.dense(3, jax.nn.initializers.constant(1.0))),
            "d: no mean square is known",
        ),
        (
            layers.serial(d=layers.dense(3), a=layers.activation("relu"), bn=layers.batch_norm()),
            "bn: batch_norm meets a signal that is not normal",
        ),
        (layers.repeat(layers.dense(2), 3), "repeat feeds a block's output to the next"),
    ],
    ids=["activation first", "bare residual", "unknown layer", "unknown weights", "norm", "width"],
)
def test_what_theory_cannot_follow_is_named(net, message):
    assert_refuses(lambda: theory.predict(net, jax.ShapeDtypeStruct((8, 3), jnp.float32)), message)


def test_a_batch_is_needed():
    assert_refuses(lambda: theory.predict(layers.dense(3), jnp.ones(3)), "x has shape (3,)")


def test_the_dataset_has_a_label_for_every_number(key):
    net = networks.mlp(10, depth=3, width=8)
    x = jax.random.normal(key, (16, 8))
    prediction = jax.jit(lambda x: theory.predict(net, x))(x)
    rows = prediction.to_xarray()
    assert rows.row.values.tolist() == list(prediction.names)
    np.testing.assert_allclose(rows["log_factor"].values[:-1], -np.diff(rows["log_gain"].values))
    # 10 units at the output share what 8 units of a hidden layer do
    last = rows["log_gain"].values[-2] - np.log(8 / 10)
    np.testing.assert_allclose(rows["log_backward"].values[-2], last, rtol=1e-5)
    many = jax.jit(jax.vmap(lambda q: theory.predict(net, x, q=q)))(jnp.ones(2))
    dataset = many.to_xarray()
    assert dataset["q"].dims == ("batch_0", "row")


def test_the_decorrelation_keeps_digits_that_the_correlation_has_lost():
    """1 - c falls as 9 pi^2 / (2 l^2) in a ReLU network (Hayou et al. 2019, proposition 2)."""
    depth = 10_000
    net = networks.mlp(1, depth=depth, width=8)
    prediction = theory.predict(net, jax.ShapeDtypeStruct((2, 8), jnp.float32))
    assert prediction.decorrelation.dtype == jnp.float32
    at = prediction.names.index(f"hidden[{depth - 2}].dense")
    constant = float(prediction.decorrelation[at]) * depth**2
    assert constant == pytest.approx(4.5 * np.pi**2, rel=0.01)
    np.testing.assert_array_equal(prediction.correlation, 1 - prediction.decorrelation)


def test_the_typical_network_is_the_median_that_stands_beside_the_root_mean_square(key):
    net = networks.mlp(16, depth=30, width=16)
    x = jax.random.normal(key, (1, 16))
    prediction = theory.predict(net, x)

    def drawn(key):
        trace = comparison.measure(net, net.init(key, x), x, jax.random.fold_in(key, 1))
        return trace.backward.rms[jnp.array([0, -1])]

    first, last = jax.jit(jax.vmap(drawn))(jax.random.split(key, 400)).T
    decades = np.median(np.log10(first / last))
    spread = np.std(np.log10(first / last))
    predicted = float(prediction.log_median[0]) / np.log(100)
    assert decades == pytest.approx(predicted, abs=float(5 * 1.25 * spread / 400**0.5))
    root = float(prediction.log_backward[0]) / np.log(100)
    assert decades < root - 0.5
    row = str(prediction).splitlines()[1].split()
    assert row[-2] == f"{predicted:.2f}"
