"""Layers from Flax modules against Flax's own computation."""

import functools
import zlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from flax import nnx

import vanishing
from tests.helpers import assert_refuses, unchecked
from vanishing import layers, losses, networks, optimizers, sweep, theory, train

FEATURES, CLASSES, BATCH = 6, 3, 8
TIGHT = {"rtol": 1e-5, "atol": 1e-7}  # float32, the same operations compiled differently


@pytest.fixture(autouse=True)
def _flax_broadcasts():
    with jax.numpy_rank_promotion("allow"):
        yield


class Linen(nn.Module):
    """A dense layer, batch normalisation, dropout and a read-out."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x)))
        return nn.Dense(CLASSES)(nn.Dropout(self.rate, deterministic=not train)(x))


class NNX(nnx.Module):
    """The same, and a list of layers."""

    def __init__(self, rate=0.5, *, rngs):
        self.layers = nnx.List([nnx.Linear(FEATURES, 16, rngs=rngs), nnx.Linear(16, 16, rngs=rngs)])
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.output = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return self.output(self.dropout(self.norm(x)))


MODULES = {"linen": Linen(), "nnx": NNX}
BOTH = pytest.mark.parametrize("kind", MODULES)


@functools.cache
def layer_of(kind):
    return networks.from_flax(MODULES[kind])


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (BATCH, FEATURES))


def named(key, name):
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def square(output):
    return jnp.mean(output**2)


def loss_of(layer, x, state, key):
    def loss(params):
        output, new_state = layer.apply(params, state, x, key, train=True)
        return square(output), (output, new_state)

    return loss


def value_and_grad(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_a_linen_module_computes_what_flax_computes(key, x):
    module, layer = MODULES["linen"], layer_of("linen")
    params, state = layer.init(key, x)
    variables = module.init(key, x, train=False)
    chex.assert_trees_all_equal({"params": params, **state}, variables)

    evaluation = layer.apply(params, state, x)
    np.testing.assert_array_equal(evaluation.output, module.apply(variables, x, train=False))
    chex.assert_trees_all_equal(evaluation.state, state)

    def flax_loss(params):
        output, updates = module.apply(
            {"params": params, **state},
            x,
            train=True,
            rngs={"dropout": named(key, "dropout")},
            mutable=["batch_stats"],
        )
        return square(output), (output, updates)

    actual = value_and_grad(loss_of(layer, x, state, key))(params)
    chex.assert_trees_all_close(actual, value_and_grad(flax_loss)(params), **TIGHT)


def test_an_nnx_model_computes_what_flax_computes(key, x):
    layer, model = layer_of("nnx"), NNX(0.5, rngs=nnx.Rngs(key))
    params, state = layer.init(key, x)
    chex.assert_trees_all_equal(params, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert jax.tree.map(jnp.shape, state) == {"norm": {"mean": (16,), "var": (16,)}}

    model.eval()
    np.testing.assert_array_equal(layer.apply(params, state, x).output, model(x))

    model.train()
    model.dropout.rngs.key.set_value(named(key, "dropout/rngs/key"))

    def flax_loss(model, x):
        output = model(x)
        return square(output), output

    gradient = nnx.jit(nnx.value_and_grad(flax_loss, has_aux=True))
    (value, output), grads = gradient(model, x)
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    expected = (value, (output, stats)), nnx.to_pure_dict(grads)
    actual = value_and_grad(loss_of(layer, x, state, key))(params)
    chex.assert_trees_all_close(actual, expected, **TIGHT)


@BOTH
def test_dropout_has_its_law_and_follows_the_key(kind, key):
    """Of an identity behind dropout: zeros with the rate's frequency, the rest scaled up."""

    class DroppedNNX(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.25, rngs=rngs)

        def __call__(self, x):
            return self.dropout(x)

    class DroppedLinen(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            return nn.Dropout(0.25)(x, deterministic=deterministic)

    layer = networks.from_flax({"linen": DroppedLinen(), "nnx": DroppedNNX}[kind])
    ones = jnp.ones((100, 100))
    params, state = layer.init(key, ones)
    first, again, third = (
        np.asarray(layer.apply(params, state, ones, jax.random.key(seed), train=True).output)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != third) == pytest.approx(2 * 0.25 * 0.75, abs=5 * (0.25 / 10_000) ** 0.5)
    assert set(np.unique(first)) == {0.0, np.float32(1 / 0.75)}
    kept_error = (0.25 * 0.75 / 10_000) ** 0.5
    assert np.mean(first == 0) == pytest.approx(0.25, abs=5 * kept_error)
    for key_of_evaluation in (None, key):
        output = layer.apply(params, state, ones, key_of_evaluation).output
        np.testing.assert_array_equal(output, ones)
    assert_refuses(
        lambda: layer.apply(params, state, ones, train=True), "draws random numbers", "give apply a"
    )


@pytest.mark.slow
@BOTH
def test_layers_run_under_the_transformations_of_jax(kind, x):
    layer = layer_of(kind)
    keys = jax.random.split(jax.random.key(3), 4)

    def steps(key):
        """Three steps of gradient descent, with the state in the carry."""
        variables = layer.init(key, x)

        def step(carry, key):
            params, state = carry

            def loss(params):
                output, new_state = layer.apply(params, state, x, key, train=True)
                return square(output), new_state

            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state), value

        return jax.lax.scan(step, tuple(variables), jax.random.split(key, 3))

    chex.clear_trace_counter()
    traced_once = jax.jit(jax.vmap(chex.assert_max_traces(steps, n=1)))
    together = traced_once(keys)
    chex.assert_trees_all_equal(together, traced_once(keys))
    chex.assert_tree_all_finite(together)
    alone = jax.jit(steps)(keys[2])
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[2], together), alone, **TIGHT)
    values = np.asarray(together[1])
    assert len(np.unique(values[:, 0])) == 4  # every key draws its own parameters


@BOTH
def test_rows_bear_the_names_of_flax(kind, key, x):
    layer = layer_of(kind)
    params, state = layer.init(key, x)
    probed = vanishing.probe(loss_of(layer, x, state, key), has_aux=True)(params)
    expected = {
        "linen": ["Dense_0.kernel", "BatchNorm_0.scale", "Dense_1.bias"],
        "nnx": ["layers[0].kernel", "layers[1].bias", "norm.scale", "output.kernel"],
    }[kind]
    assert set(expected) <= set(probed.trace.layout.param_names)
    rows = {"linen": ["Dense_0", "Dense_1"], "nnx": ["layers[0]", "layers[1]", "output"]}[kind]
    assert set(rows) <= set(probed.trace.names)


def problem_of(kind):
    def problem(settings):
        return train.Problem(
            network=layer_of(kind),
            loss=losses.softmax_cross_entropy,
            optimizer=optimizers.by_name("sgd", settings["learning_rate"]),
        )

    return problem


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=80)
    x = (np.eye(CLASSES, FEATURES)[y] * 2 + rng.normal(size=(80, FEATURES))).astype(np.float32)
    return train.Data(*map(jnp.asarray, (x[:40], y[:40], x[40:], y[40:])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_sweeps_over_seeds_train_it_and_the_diagnosis_reads_it(kind, data, tmp_path):
    run = train.make_run(problem_of(kind), batch_size=BATCH, record_every=2)
    task = train.task(run, records=3, chunks=2)
    grid = sweep.Grid(numeric={"learning_rate": (0.05, 0.5), "seed": range(2)})
    traces = []

    def label(history):
        traces.append(history.trace)
        return xr.Dataset({"loss": (("point", "record"), history.loss)})

    def halved(chunks, label):
        for chunk in chunks:
            if chunk == 1:
                raise KeyboardInterrupt
            yield chunk

    options = {"shared": data, "store": sweep.Folder(tmp_path), "checkpoint_every": 0.0}
    cell = sweep.Cell(task, label)
    if kind == "nnx":  # whose lists are dicts with integers as keys in the checkpoint
        with pytest.raises(KeyboardInterrupt):
            sweep.run(grid, lambda: cell, progress=halved, **options)
    dataset = sweep.run(grid, lambda: cell, **options)
    assert np.isfinite(dataset.loss).all()
    assert len(np.unique(dataset.loss[..., 0])) == 2  # seeds, each with parameters of its own
    diagnosis = vanishing.diagnose(jax.tree.map(lambda leaf: leaf[0], traces[0]))
    assert isinstance(diagnosis, vanishing.Diagnosis)


def test_training_equals_a_plain_loop_of_flax_and_optax(data):
    """The Linen module, whose batch statistics and dropout keys `fit` must carry."""
    run = train.make_run(problem_of("linen"), batch_size=BATCH)
    settings = {"learning_rate": 0.1}
    history = train.fit(
        run, {"learning_rate": jnp.array([0.1]), "seed": jnp.array([0])}, data, records=4
    )
    state = jax.jit(run.init)(jax.random.key(0), settings, data)
    module, optimizer = MODULES["linen"], optax.sgd(0.1)
    params, stats, opt_state = state.params, state.layer_state, optimizer.init(state.params)

    @jax.jit
    def step(params, stats, opt_state, batch, number):
        x, y = data.x_train[batch], data.y_train[batch]
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), number)

        def loss(params):
            logits, updates = module.apply(
                {"params": params, **stats},
                x,
                train=True,
                rngs={"dropout": named(key, "dropout")},
                mutable=["batch_stats"],
            )
            rows = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(rows), updates

        (value, stats_after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state_after = optimizer.update(grads, opt_state)
        return value, optax.apply_updates(params, updates), stats_after, opt_state_after

    for number, batch in enumerate(run.batches(state, data, 5)[:, 0]):
        value, params, stats, opt_state = step(params, stats, opt_state, batch, number)
        np.testing.assert_allclose(history.loss[0, number], value, rtol=1e-4)


def test_theory_refuses_it_unless_a_mean_field_form_is_given():
    x = jax.ShapeDtypeStruct((BATCH, FEATURES), jnp.float32)
    assert_refuses(lambda: theory.predict(layer_of("nnx"), x), "no mean-field form")
    dense = layers.dense(16)
    layer = networks.from_flax(nn.Dense(16), propagate=dense.propagate)
    expected = theory.predict(dense, x)
    np.testing.assert_array_equal(theory.predict(layer, x).q, expected.q)


def test_modes_reach_the_module_under_the_names_that_it_takes(key, x):
    class Moded(nn.Module):
        @nn.compact
        def __call__(self, x, training, *, deterministic, is_training=None):
            return x + (10 * training + 100 * deterministic + 1000 * is_training)

    layer = networks.from_flax(Moded())
    assert layer.apply({}, {}, jnp.zeros(()), key).output == 100
    assert layer.apply({}, {}, jnp.zeros(()), key, train=True).output == 1010

    class Other(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, scale, *, rngs):
            return self.dropout(scale * x, rngs=rngs)

    layer = networks.from_flax(Other, call_arguments=lambda train: {"scale": 3.0 if train else 2.0})
    params, state = layer.init(key, x)
    np.testing.assert_array_equal(layer.apply(params, state, x).output, 2 * x)
    output = layer.apply(params, state, x, key, train=True).output
    assert {0.0, 6.0} == set(np.unique(np.round(output / x, 4)))
    assert_refuses(lambda: layer.apply(params, state, x, train=True), "Other draws random numbers")


def test_every_stream_has_random_numbers_of_its_own(key):
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            streams = [self.make_rng(name) for name in ("dropout", "noise", "unnamed")]
            return jnp.stack([jax.random.normal(stream) for stream in streams]) + x

    layer = networks.from_flax(Noisy(), rngs=("dropout", "noise"))
    output = layer.apply({}, {}, jnp.zeros(()), key).output
    assert len(set(output.tolist())) == 3
    assert_refuses(lambda: layer.apply({}, {}, jnp.zeros(())), "Noisy draws random numbers")


def test_boxed_parameters_and_sown_values_are_no_state(key, x):
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            x = nn.Dense(4, kernel_init=init)(x)
            self.sow("intermediates", "hidden", x)
            self.sow("losses", "penalty", jnp.sum(x))
            return x

    layer = networks.from_flax(Sowing(), not_state=("intermediates", "losses"))
    params, state = layer.init(key, x)
    assert jax.tree.map(jnp.shape, params) == {"Dense_0": {"kernel": (FEATURES, 4), "bias": (4,)}}
    assert state == layer.apply(params, state, x, train=True).state == {}

    layer = networks.from_flax(Sowing())
    params, state = layer.init(key, x)
    assert_refuses(
        lambda: layer.apply(params, state, x, train=True),
        "changed the structure of its state in losses",
        "not_state",
    )


def test_state_keeps_its_dtype(x64, key):
    """Flax's own batch statistics take the wider dtype of a wider input."""
    x = jax.random.normal(key, (BATCH, FEATURES))
    assert x.dtype == jnp.float64
    layer = layer_of("linen")
    params, state = jax.jit(layer.init)(key, x)
    after = jax.jit(lambda *args: layer.apply(*args, train=True).state)(params, state, x, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_a_list_of_a_sequential_and_a_recurrent_model_run(key):
    """NNX's RNN draws a key for a carry that it does not use, and scans."""

    class Recurrent(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(nnx.GRUCell(FEATURES, 5, rngs=rngs), rngs=rngs)
            self.output = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.relu)

        def __call__(self, x):
            return self.output(self.rnn(x)[:, -1])

    x = jax.random.normal(key, (2, 7, FEATURES))
    layer = networks.from_flax(Recurrent)
    params, state = layer.init(key, x)
    expected = Recurrent(nnx.Rngs(key))(x)
    for options in ((None, False), (key, True)):
        output = jax.jit(layer.apply, static_argnums=4)(params, state, x, *options).output
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-7)
    assert "layers[0].kernel" not in params  # nested dicts, by attribute
    assert params["output"]["layers"][0]["kernel"].shape == (5, 4)


def linear(rngs):
    return nnx.Linear(FEATURES, 3, rngs=rngs)


def two_arguments(rngs, width):
    return nnx.Linear(FEATURES, width, rngs=rngs)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return x * mask


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x, x


@pytest.mark.parametrize(
    ("module", "fragments"),
    [
        (3, ["module is 3", "must be a Linen module, or a function of rngs"]),
        (Linen, ["the class Linen", "Linen(...)"]),
        (linear(nnx.Rngs(0)), ["Linear, whose parameters are drawn", "lambda rngs: Linear(..."]),
        (lambda rngs: 3, ["returns 3", "must return an NNX model"]),
        (lambda: linear(nnx.Rngs(0)), ["not a function of rngs", "lambda rngs: Model("]),
        (two_arguments, ["two_arguments(rngs, width)", "width"]),
        (Masked(), ["Masked.__call__(self, x, mask)", "'mask'", "call_arguments=lambda train"]),
    ],
    ids=["number", "class", "model", "no-model", "no-rngs", "two", "arguments"],
)
def test_what_is_no_module_of_one_array_is_refused_in_one_line(module, fragments):
    assert_refuses(lambda: unchecked(networks.from_flax)(module), *fragments)


def test_an_output_of_several_arrays_is_refused(x):
    assert_refuses(lambda: networks.from_flax(Pair()).apply({}, {}, x), "Pair returns a tuple")
