import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import assert_refuses, real_data, slow, unchecked
from tests.zoo import ZOO
from vanishing import data, initializers, layers, losses, networks
from vanishing.probing import SUMMARIES, probe

X = np.random.default_rng(0).normal(size=(5, 6))
LABELS = np.array([0, 1, 2, 0, 1])


def loss_of(net, state, x=X, labels=LABELS):
    def loss(params):
        outputs = net.apply(params, state, jnp.asarray(x)).output
        return losses.softmax_cross_entropy(outputs, jnp.asarray(labels)), outputs

    return loss


def products(trace):
    return [row for row, site in enumerate(trace.sites) if site.kind == "matmul"]


# Against backpropagation by hand, and against published numbers.


def backpropagation(params, depth):
    """RMS of dL/dh of every layer of a dense sigmoid network, by the four equations in NumPy."""
    chain = [params["first"], *(params["hidden"][i] for i in range(depth - 1)), params["output"]]
    kernels = [np.asarray(layer["dense"]["kernel"]) for layer in chain]
    biases = [np.asarray(layer["dense"]["bias"]) for layer in chain]
    activation, pre_activations = X, []
    for kernel, bias in zip(kernels, biases, strict=True):
        pre_activations.append(activation @ kernel + bias)
        activation = 1 / (1 + np.exp(-pre_activations[-1]))
    logits = pre_activations[-1]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (softmax - np.eye(3)[LABELS]) / len(X)
    deltas = [delta]
    for kernel, h in zip(kernels[:0:-1], pre_activations[-2::-1], strict=True):
        delta = (delta @ kernel.T) * np.exp(-h) / (1 + np.exp(-h)) ** 2
        deltas.append(delta)
    return [np.sqrt(np.mean(delta**2)) for delta in deltas[::-1]], pre_activations


def sigmoid_net(depth):
    weights = initializers.scaled(1.0, 1.0)
    return networks.mlp(3, depth=depth, width=6, activation="sigmoid", weights=weights)


@pytest.mark.parametrize("depth", [*slow(1, 2), 5])
def test_rows_are_those_of_backpropagation_by_hand_in_forward_order(x64, key, depth):
    net = sigmoid_net(depth)
    params, state = net.init(key, jnp.asarray(X))
    trace = probe(loss_of(net, state), has_aux=True)(params).trace
    backward, forward = backpropagation(params, depth)
    rows = products(trace)
    np.testing.assert_allclose(trace.backward.rms[jnp.array(rows)], backward, rtol=1e-10)
    rms = [np.sqrt(np.mean(h**2)) for h in forward]
    np.testing.assert_allclose(trace.forward.rms[jnp.array(rows)], rms, rtol=1e-10)
    hidden = [f"hidden[{i}].dense" for i in range(depth - 1)]
    assert [trace.names[row] for row in rows] == ["first.dense", *hidden, "output.dense"]
    saturated = [np.mean(np.exp(-h) / (1 + np.exp(-h)) ** 2 < 0.0025) for h in forward[:-1]]
    measured = trace.forward.saturated[jnp.array(rows[:-1]) + 1]
    np.testing.assert_allclose(measured, saturated, rtol=1e-6)


def test_parameter_norms_are_those_of_the_weights_and_gradients(x64, key):
    net = sigmoid_net(3)
    params, state = net.init(key, jnp.asarray(X))
    probed = probe(loss_of(net, state), has_aux=True)(params)
    grads = jax.jit(jax.grad(loss_of(net, state), has_aux=True))(params)[0]
    norms = jax.tree.map(np.asarray, probed.trace.params)

    def pick(tree, name):
        block, leaf = name.split(".dense.")
        layer = tree[block] if "[" not in block else tree["hidden"][int(block[7:-1])]
        return np.linalg.norm(layer["dense"][leaf])

    for i, name in enumerate(probed.trace.layout.param_names):
        np.testing.assert_allclose(norms.weight[i], pick(params, name), rtol=1e-10)
        np.testing.assert_allclose(norms.gradient[i], pick(grads, name), rtol=1e-10)
    assert np.isnan(norms.update).all()
    trace_of_step = probed.trace.with_updates(jax.tree.map(lambda leaf: 0.5 * leaf, params))
    np.testing.assert_allclose(trace_of_step.params.update, 0.5 * norms.weight, rtol=1e-10)


@pytest.mark.slow
def test_an_orthogonal_linear_network_keeps_the_cotangent(x64, key):
    weights = initializers.by_name("orthogonal")
    net = networks.mlp(6, depth=40, width=6, activation="identity", weights=weights)
    params, state = net.init(key, jnp.asarray(X))
    trace = probe(loss_of(net, state), has_aux=True)(params).trace
    rms = trace.backward.rms[jnp.array(products(trace))]
    np.testing.assert_allclose(rms, rms[-1], rtol=1e-10)


def test_float32_shows_a_signal_whose_square_underflows(key):
    net = networks.mlp(3, depth=40, width=6, activation="sigmoid")
    params, state = net.init(key, jnp.asarray(X, jnp.float32))
    loss = loss_of(net, state, np.float32(X))
    narrow = np.asarray(probe(loss, has_aux=True)(params).trace.backward.rms)
    with jax.enable_x64(True):
        wide_params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        trace = probe(loss_of(net, state), has_aux=True)(wide_params).trace
        wide = np.asarray(trace.backward.rms)
    assert 0 < wide[0] < 1e-24
    np.testing.assert_allclose(narrow, wide, rtol=1e-3)


PUBLISHED = {  # Nielsen 2015, ch. 5, fig/initial_gradient.json and norms_during_training_*.json
    2: [0.06574134326503182, 0.3092184942703712],
    3: [0.011838212272121293, 0.05996519457449515, 0.28314239285488185],
    4: [0.0029752663545292526, 0.017076665445425132, 0.06953924167660484, 0.28513893545173896],
}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_textbooks_learning_speeds_lie_among_ours(depth):
    """784-30-...-10 sigmoid networks on the first 1,000 MNIST images, before training."""
    folder = real_data("mnist")
    x = data.read_idx(folder / "train-images-idx3-ubyte.gz", 3)[:1000].astype(np.float32) / 256
    labels = data.read_idx(folder / "train-labels-idx1-ubyte.gz", 1)[:1000].astype(np.int32)
    weights = initializers.scaled(1.0, 1.0)
    net = networks.mlp(10, depth=depth, width=30, activation="sigmoid", weights=weights)

    def bias_norms(key):
        params, state = net.init(key, jnp.asarray(x))

        def loss(params):
            outputs = net.apply(params, state, jnp.asarray(x)).output
            return losses.LOSSES["binary_cross_entropy"](outputs, jnp.asarray(labels))

        trace = probe(loss, summaries=("rms",))(params).trace
        chain = ["first", *(f"hidden[{i}]" for i in range(depth - 1))]
        rows = [trace.layout.param_names.index(f"{name}.dense.bias") for name in chain]
        return trace.params.gradient[jnp.array(rows)]

    norms = jax.lax.map(jax.jit(bias_norms), jax.random.split(jax.random.key(1), 200))
    low, high = np.quantile(norms, [0.025, 0.975], axis=0)
    assert (low < PUBLISHED[depth]).all(), (low, PUBLISHED[depth])
    assert (PUBLISHED[depth] < high).all(), (high, PUBLISHED[depth])
    assert (np.diff(norms, axis=1) > 0).all(), "in every seed the later layer learns faster"
    ratio = np.exp(np.mean(np.diff(np.log(norms), axis=1)))
    assert ratio == pytest.approx(4.9, rel=0.1)  # mean-field: 1 / sqrt(chi_1) = 4.88
    assert layers.ACTIVATIONS["sigmoid"].largest_slope == 0.25


# On models that are not ours to shape.


FEW = (
    "linen cnn with batch norm",
    "tied and unused",
    "branching",
    "nested scans",
)


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
@pytest.mark.parametrize("name", [*FEW, *slow(*(name for name in ZOO if name not in FEW))])
def test_every_row_of_the_zoo_equals_the_gradient_of_a_perturbation(x64, name):
    with jax.numpy_rank_promotion("allow"):  # Flax and Equinox broadcast as they like
        model = ZOO[name]()
        probed = probe(model.loss, has_aux=model.has_aux)
        check = probed.check(model.params, *model.args, rows=0)
    assert check.worst < model.rtol, check
    assert len(check.numbers) > 20


@pytest.mark.parametrize(
    "name", ["tied and unused", "branching", *slow("equinox lstm", "nested scans")]
)
def test_every_operation_is_exact_too(x64, name):
    with jax.numpy_rank_promotion("allow"):
        model = ZOO[name]()
        probed = probe(model.loss, has_aux=model.has_aux, level="op")
        check = probed.check(model.params, *model.args, rows=0)
    assert check.worst < 1e-9, check


def test_a_perturbation_by_hand_says_the_same(x64):
    """`check` shares the replay with the probe; this shares nothing."""
    model = ZOO["bare rnn with aux"]()
    (xs,) = model.args
    trace = probe(model.loss, has_aux=True)(model.params, xs).trace

    def perturbed(shift):
        def step(h, x_and_shift):
            x, shift = x_and_shift
            h = x @ model.params["wx"] + h @ model.params["wh"] + model.params["b"] + shift
            return jnp.tanh(h), None

        h, _ = jax.lax.scan(step, jnp.zeros((4, 5)), (xs, shift))
        return jnp.mean(h**2)

    cotangents = jax.grad(perturbed)(jnp.zeros((7, 4, 5)))
    rows = [row for row, site in enumerate(trace.sites) if site.op == "dot_general+add"]
    assert [trace.names[row] for row in rows] == [f"wx[t={t}]" for t in range(7)]
    rms = np.sqrt(np.mean(np.square(cotangents), axis=(1, 2)))
    np.testing.assert_allclose(trace.backward.rms[jnp.array(rows)], rms, rtol=1e-12)


@pytest.mark.slow
def test_names_are_those_a_person_would_use(x64):
    def names(model):
        return jax.eval_shape(probe(model.loss, has_aux=model.has_aux), model.params, *model.args)

    with jax.numpy_rank_promotion("allow"):
        mlp = names(ZOO["linen mlp"]()).trace
        resnet = names(ZOO["linen scanned resnet"]()).trace
        rnn = names(ZOO["bare rnn with aux"]()).trace
        nnx = names(ZOO["nnx mlp"]()).trace
    hidden = ["Dense_0", "Dense_0/tanh", "Dense_1", "Dense_1/tanh"]
    assert [n for n in mlp.names if n.startswith("Dense")] == [*hidden, "Dense_2"]
    dense = [n for n in resnet.names if "Dense_0" in n and "/" not in n]
    assert dense == [f"blocks.Dense_0[{i}]" for i in range(5)]
    assert len([n for n in rnn.names if n.endswith("[t=6]")]) == 2
    layers = ("layers[0]", "layers[1]", "layers[2]")
    assert nnx.names == tuple(n for layer in layers for n in (layer, f"{layer}/sigmoid"))[:-1]
    assert all(site.source.startswith("tests/zoo.py:") for site in nnx.sites)
    assert [site.op for site in nnx.sites[1::2]] == ["sigmoid", "sigmoid"]


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 5),
    activation=st.sampled_from(sorted(layers.ACTIVATIONS)),
    residual=st.booleans(),
    batch=st.integers(1, 3),
)
def test_any_network_of_the_algebra_is_measured_right(depth, width, activation, residual, batch):
    with jax.enable_x64(True):
        wrap = layers.residual if residual else lambda block: block
        net = networks.mlp(2, depth=depth, width=width, activation=activation, wrap=wrap)
        x = jax.random.normal(jax.random.key(1), (batch, 3))
        params, state = net.init(jax.random.key(0), x)
        probed = probe(lambda p: jnp.mean(jnp.square(net.apply(p, state, x).output - 1)))
        assert probed.check(params, rows=0).worst < 1e-9
        assert len(products(jax.eval_shape(probed, params).trace)) == depth + 1


# Transformations around the probe.


def mlp_loss(activation="tanh", dtype=jnp.float32):
    net = networks.mlp(3, depth=4, width=6, activation=activation)
    x = jnp.asarray(X, dtype)
    params, state = net.init(jax.random.key(0), x)

    def loss(params, x):
        outputs = net.apply(params, state, x).output
        return losses.softmax_cross_entropy(outputs, jnp.asarray(LABELS))

    return loss, params, x


@pytest.mark.slow
def test_inside_jit_it_says_the_same(x64):
    loss, params, x = mlp_loss(dtype=jnp.float64)
    probed = probe(loss, summaries=SUMMARIES)
    chex.assert_trees_all_close(jax.jit(probed)(params, x), probed(params, x), rtol=1e-9)


def test_under_vmap_every_seed_gets_its_own_trace(x64):
    loss, params, x = mlp_loss(dtype=jnp.float64)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 1e-9 * leaf]), params)
    together = jax.jit(jax.vmap(probe(loss), in_axes=(0, None)))(stack, x)
    for i in range(3):
        alone = probe(loss)(jax.tree.map(lambda leaf, i=i: leaf[i], stack), x)
        member = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_close(member.trace, alone.trace, rtol=1e-9)
    assert "median of 3" in str(together.trace)


def test_a_scanned_training_loop_stacks_traces(x64):
    loss, params, x = mlp_loss(dtype=jnp.float64)

    def step(params, _):
        probed = probe(loss)(params, x)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, probed.grads)), probed

    last, history = jax.lax.scan(lambda p, i: tuple(step(p, i)), params, jnp.arange(4))
    assert history.trace.backward.rms.shape == (4, len(history.trace))
    expected = params
    for _ in range(4):
        grads = jax.grad(loss)(expected, x)
        expected = optax.apply_updates(expected, jax.tree.map(lambda g: -0.1 * g, grads))
    chex.assert_trees_all_close(last, expected, rtol=1e-9)


@pytest.mark.slow
def test_bfloat16_gets_float32_summaries():
    loss, params, x = mlp_loss()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    probed = probe(loss)(half, x.astype(jnp.bfloat16))
    assert probed.grads["first"]["dense"]["kernel"].dtype == jnp.bfloat16
    assert probed.trace.forward.rms.dtype == jnp.float32
    full = probe(loss)(params, x)
    np.testing.assert_allclose(probed.trace.backward.rms, full.trace.backward.rms, rtol=0.1)


def test_compiling_does_not_grow_with_depth():
    def lines(depth):
        net = networks.mlp(3, depth=depth, width=4)
        x = np.ones((2, 4), np.float32)
        params, state = jax.eval_shape(net.init, jax.random.key(0), x)
        probed = probe(lambda p: jnp.mean(net.apply(p, state, x).output))
        return len(jax.jit(probed).lower(params).as_text().splitlines())

    assert lines(1000) < 1.1 * lines(10) + 30


def test_checkpointed_layers_are_still_not_stored():
    """Memory that jax.checkpoint saves stays saved: the summaries add next to nothing."""

    def stored(checkpoint, probed):
        def layer(x, w):
            for _ in range(4):
                x = jnp.tanh(x @ w)
            return x, None

        body = jax.checkpoint(layer) if checkpoint else layer

        def loss(w):
            return jnp.mean(jax.lax.scan(body, jnp.ones((256, 64)), w)[0] ** 2)

        function = probe(loss) if probed else jax.value_and_grad(loss)
        compiled = jax.jit(function).lower(jnp.zeros((64, 64, 64))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain, with_probe, all_kept = stored(True, False), stored(True, True), stored(False, False)
    assert plain < 0.5 * all_kept
    assert with_probe < 1.1 * plain, (with_probe, plain)


@pytest.mark.slow
def test_the_same_arguments_give_the_same_trace():
    loss, params, x = mlp_loss()
    chex.assert_trees_all_equal(probe(loss)(params, x), probe(loss)(params, x))


@pytest.mark.slow
def test_where_keeps_only_some_rows():
    loss, params, x = mlp_loss()
    trace = probe(loss, where=lambda site: site.kind == "nonlinearity")(params, x).trace
    assert {site.op for site in trace.sites} == {"tanh"}
    assert len(trace) == 4


@pytest.mark.slow
def test_several_arguments_can_be_differentiated():
    def loss(a, x, b):
        return jnp.mean(jnp.tanh(x @ a["w"]) @ b)

    args = ({"w": jnp.ones((3, 4))}, jnp.ones((2, 3)), jnp.ones((4, 1)))
    probed = probe(loss, argnums=(0, 2))(*args)
    chex.assert_trees_all_close(probed.grads, jax.grad(loss, argnums=(0, 2))(*args), rtol=1e-6)
    assert probed.trace.names[0] == "a"
    assert probed.trace.names[-1] == "b"
    assert probe(loss, argnums=-1)(*args).trace.names == ("b",)


# Errors.


def test_what_cannot_be_probed_is_refused_with_a_reason():
    x = jnp.ones((2, 3))
    params = {"w": jnp.ones((3, 1)), "step": jnp.zeros((), jnp.int32)}
    loss = lambda p, x: jnp.mean(x @ p["w"])  # noqa: E731
    with pytest.raises(TypeError, match=r"parameter step is of dtype int32; .*partition"):
        probe(loss)(params, x)
    with pytest.raises(TypeError, match="parameter name is a str"):
        probe(loss)({"w": x.T, "name": "net"}, x)
    params = {"w": jnp.ones((3, 1))}
    for wrong, reason in (
        (lambda p, x: x @ p["w"], r"float32\[2, 1\]; take a mean"),
        (lambda p, x: (jnp.sum(p["w"]), x), "pass has_aux=True"),
        (lambda p, x: jnp.sum(p["w"]).astype(int), "of dtype int32"),
    ):
        with pytest.raises(TypeError, match=reason):
            probe(wrong)(params, x)
    with pytest.raises(TypeError, match="must return a pair"):
        probe(loss, has_aux=True)(params, x)
    with pytest.raises(TypeError, match="argnums has 2, but the loss got 2 positional"):
        probe(loss, argnums=2)(params, x)
    assert_refuses(lambda: probe(loss, level="net"), "'net'", "layer, op")
    wrong = unchecked(probe)
    assert_refuses(lambda: wrong(loss, where=None), "where is None", "a function of a site")
    assert_refuses(lambda: wrong(loss, where=["a"]), "where is ['a']", "pattern")
    assert_refuses(lambda: probe(loss, summaries=("rsm",)), "'rsm'", "rms")
    assert_refuses(lambda: probe(loss, summaries="rms"), "a single name", "('rms',)")
    assert_refuses(lambda: probe(loss, summaries="every"), "'every'", "usual, all, size, finite")


def test_python_on_traced_values_is_explained():
    def loss(p, x):
        return jnp.sum(p) if p.sum() > 0 else jnp.mean(p)

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        probe(loss)(jnp.ones(3), jnp.ones(3))
    assert any("jax.lax.cond" in note for note in caught.value.__notes__)
