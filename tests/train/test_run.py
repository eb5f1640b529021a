import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import assert_refuses
from tests.train.setting import CLASSES, EXAMPLES, examples, problem
from vanishing import initializers, layers, losses, networks, train

_OPTIONS = ("batch_size", "precision", "summaries", "keep_params")


def fit(records=4, record_every=5, rates=(0.05,), seeds=1, **more):
    options = {key: more.pop(key) for key in _OPTIONS if key in more}
    run = train.make_run(
        more.pop("problem", problem), **{"batch_size": 10, **options}, record_every=record_every
    )
    settings = {
        "learning_rate": jnp.repeat(jnp.asarray(rates), seeds),
        "seed": jnp.tile(jnp.arange(seeds), len(rates)),
    }
    return train.fit(run, settings, more.pop("data", examples()), records=records, **more)


@pytest.fixture(scope="module")
def plain():
    """The run of all defaults, which several tests compare with."""
    return fit()


def test_a_run_equals_a_plain_loop_with_optax(x64):
    """Against a loop that shares with the run only the initial weights and the data order."""
    data = examples(np.float64)
    history = fit(records=8, record_every=2, precision="float64", data=data)

    run = train.make_run(problem, batch_size=10, precision="float64")
    settings = {"learning_rate": 0.05}
    state = jax.jit(run.init)(jax.random.key(0), settings, data)
    network = problem(settings).network
    params, optimizer = state.params, optax.sgd(0.05, momentum=0.9)
    opt_state = optimizer.init(params)

    @jax.jit
    def order(epoch):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), epoch)
        return jax.random.permutation(key, EXAMPLES).reshape(5, 10)

    orders = itertools.chain.from_iterable(map(order, range(4)))

    def cross_entropy(params, x, y):
        logits = network.apply(params, state.layer_state, x).output
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    loss_and_grads = jax.jit(jax.value_and_grad(cross_entropy))
    update = jax.jit(optimizer.update)
    for step, batch in zip(range(17), orders, strict=False):
        x, y = data.x_train[batch], data.y_train[batch]
        loss, grads = loss_and_grads(params, x, y)
        if step % 2 == 0:
            i = step // 2
            assert history.step[0, i] == step
            np.testing.assert_allclose(history.loss[0, i], loss, rtol=1e-9)
            test_loss, _ = loss_and_grads(params, data.x_test, data.y_test)
            np.testing.assert_allclose(history.test_loss[0, i], test_loss, rtol=1e-9)
            kernel_norm = jnp.linalg.norm(grads["first"]["dense"]["kernel"])
            weight = history.trace.layout.param_names.index("first.dense.kernel")
            np.testing.assert_allclose(
                history.trace.params.gradient[0, i, weight], kernel_norm, rtol=1e-9
            )
        updates, opt_state = update(grads, opt_state)
        params = optax.apply_updates(params, updates)


def test_without_the_probe_the_run_is_the_same_and_parameters_can_be_kept(plain):
    bare = fit(summaries=None, keep_params=True)
    assert bare.trace is None
    assert plain.params is None
    np.testing.assert_array_equal(bare.loss, plain.loss)
    np.testing.assert_array_equal(bare.test_accuracy, plain.test_accuracy)
    squares = sum(np.sum(leaf.reshape(1, 5, -1) ** 2, -1) for leaf in jax.tree.leaves(bare.params))
    np.testing.assert_allclose(squares, np.sum(plain.trace.params.weight**2, -1), rtol=1e-5)
    dataset = train.to_dataset(bare)
    assert "layer" not in dataset.sizes
    np.testing.assert_array_equal(dataset.loss, bare.loss)
    sizes = fit(summaries="size").trace
    np.testing.assert_array_equal(sizes.backward.rms, plain.trace.backward.rms)
    assert np.isnan(sizes.forward.mean).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_bit_for_bit(plain):
    chex.assert_trees_all_equal(fit(), plain)


@pytest.mark.slow
def test_cutting_a_run_into_chunks_changes_nothing():
    unbroken = fit(records=6, record_every=7, chunks=1)
    for chunks in (2, 20):
        chex.assert_trees_all_equal(fit(records=6, record_every=7, chunks=chunks), unbroken)


@pytest.mark.slow
def test_recording_less_often_does_not_change_the_training(plain):
    often = fit(records=20, record_every=1)
    assert plain.step[0].tolist() == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(plain.loss, often.loss[:, ::5], rtol=1e-4)


@pytest.mark.slow
def test_runs_side_by_side_equal_runs_alone():
    together = fit(rates=(0.01, 0.1), seeds=2)
    for i, rate, seed in ((0, 0.01, 0), (3, 0.1, 1)):
        run = train.make_run(problem, batch_size=10, record_every=5)
        settings = {"learning_rate": jnp.array([rate]), "seed": jnp.array([seed])}
        alone = train.fit(run, settings, examples(), records=4)
        np.testing.assert_allclose(together.loss[i], alone.loss[0], rtol=1e-4)


@pytest.mark.slow
def test_the_scale_of_the_weights_can_be_a_grid_too():
    run = train.make_run(problem, batch_size=10, record_every=5)
    settings = {
        "learning_rate": jnp.full(3, 0.05),
        "sigma_w": jnp.array([0.1, 1.0, 3.0]),
        "seed": jnp.zeros(3, int),
    }
    trace = train.fit(run, settings, examples(), records=2).trace
    rms = trace.backward.rms[:, 0]
    ratio = rms[:, 0] / rms[:, -2]
    assert ratio[0] < 0.1 < ratio[1], "a tenth of the scale loses a tenth a layer"


@pytest.mark.slow
def test_it_learns():
    history = fit(records=20, record_every=10, rates=(0.05,))
    assert history.test_accuracy[0, 0] < 0.7 < 0.9 < history.test_accuracy[0, -1]
    assert history.loss[0, -1] < 0.2 * history.loss[0, 0]


@pytest.mark.slow
def test_batch_size_0_is_gradient_descent_on_all_examples():
    run = train.make_run(problem, batch_size=0)
    data = examples()
    state = run.init(jax.random.key(0), {"learning_rate": 0.1}, data)
    assert sorted(run.batches(state, data, 1)[0, 0].tolist()) == list(range(EXAMPLES))
    record = run.advance(state, {"learning_rate": 0.1}, data, 1)[1]
    outputs = problem({"learning_rate": 0.1}).network.apply(
        state.params, state.layer_state, data.x_train
    )
    expected = losses.softmax_cross_entropy(outputs.output, data.y_train)
    np.testing.assert_allclose(record.loss[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_diverged_run_is_a_result_and_leaves_the_others_alone():
    def linear(settings):  # nothing bounds its activations
        net = networks.mlp(CLASSES, depth=3, width=8, activation="identity")
        return problem(settings)._replace(network=net)

    history = fit(records=6, record_every=5, rates=(0.05, 1e15), problem=linear)
    assert train.outcome(history).tolist() == [train.Outcome.FINITE, train.Outcome.DIVERGED]
    assert np.isfinite(history.loss[0]).all()
    alone = fit(records=6, record_every=5, problem=linear)
    np.testing.assert_allclose(history.loss[0], alone.loss[0], rtol=1e-4)


@pytest.mark.slow
def test_the_penalty_is_added_to_the_loss_and_shrinks_the_weights(plain):
    def problem_with_penalty(settings):
        return problem(settings)._replace(penalty=lambda params: 0.5 * losses.l2(params))

    history = fit(problem=problem_with_penalty)
    run = train.make_run(problem, batch_size=10)
    params = run.init(jax.random.key(0), {"learning_rate": 0.05}, examples()).params
    difference = history.loss[0, 0] - plain.loss[0, 0]
    np.testing.assert_allclose(difference, 0.5 * losses.l2(params), rtol=1e-4)


@pytest.mark.slow
def test_precisions_agree_and_keep_wide_parameters():
    def kernel_init(key, shape, dtype, out_sharding=None):  # the same numbers in every dtype
        kernel = np.random.default_rng(shape[0]).normal(size=shape) / shape[0] ** 0.5
        return jnp.asarray(kernel, dtype)

    def fixed(settings):
        net = networks.mlp(
            CLASSES, depth=3, width=8, activation="tanh", weights=initializers.Weights(kernel_init)
        )
        return problem(settings)._replace(network=net)

    with jax.enable_x64(True):
        wide = fit(precision="float64", problem=fixed)
        assert wide.loss.dtype == np.float64
    single, half = fit(problem=fixed), fit(precision="bfloat16", problem=fixed)
    assert single.loss.dtype == half.loss.dtype == half.trace.backward.rms.dtype == np.float32
    np.testing.assert_allclose(single.loss, wide.loss, rtol=1e-3)
    # bfloat16 keeps 8 bits: 0.4 % a rounding, over five layers and twenty steps
    np.testing.assert_allclose(half.loss, wide.loss, rtol=0.2)
    assert not np.allclose(half.loss, wide.loss, rtol=1e-4)


def test_layer_state_and_randomness_reach_the_network():
    """A layer that counts the training batches, and one that adds noise while training."""

    def count(params, state, x, key=None, train=False):
        return layers.Applied(x, {"batches": state["batches"] + train})

    def noise(params, state, x, key=None, train=False):
        return layers.Applied(x + jax.random.normal(key, x.shape) if train else x, state)

    counter = layers.Layer(
        lambda key, x: layers.Variables({}, {"batches": jnp.zeros((), jnp.int32)}), count
    )
    noisy = layers.Layer(lambda key, x: layers.Variables({}, {}), noise)

    def stateful(settings):
        net = layers.serial(counter, noisy, layers.dense(CLASSES))
        return problem(settings)._replace(network=net)

    run = train.make_run(stateful, batch_size=10, record_every=3)
    settings, data = {"learning_rate": 0.0}, examples()
    state = run.init(jax.random.key(0), settings, data)
    state, record = run.advance(state, settings, data, 2)
    assert int(state.layer_state[0]["batches"]) == 6
    assert record.test_loss[0] == record.test_loss[1], "the same weights, and no noise in testing"
    assert record.loss[0] != record.loss[1]


@pytest.mark.slow
def test_a_step_keeps_its_carry_and_is_traced_once():
    run = train.make_run(problem, batch_size=10, record_every=2)
    data, settings = examples(), {"learning_rate": 0.1}
    state = run.init(jax.random.key(0), settings, data)
    after = jax.eval_shape(lambda s: run.advance(s, settings, data, 2)[0], state)
    assert jax.eval_shape(lambda s: s, state) == after
    traced_once = jax.jit(chex.assert_max_traces(lambda s: run.advance(s, settings, data, 2)[0], 1))
    traced_once(traced_once(state))


def test_nothing_crosses_to_the_host_inside_a_chunk():
    run = train.make_run(problem, batch_size=10, record_every=2)
    data, settings = examples(), {"learning_rate": jnp.float32(0.1)}
    state = run.init(jax.random.key(0), settings, data)
    advance = jax.jit(run.advance, static_argnums=3)
    advance(state, settings, data, 2)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(advance(state, settings, data, 2))


@pytest.mark.slow
def test_a_run_without_test_examples_has_no_test_results(plain):
    data = examples()
    history = fit(data=data._replace(x_test=data.x_test[:0], y_test=data.y_test[:0]))
    assert np.isnan(history.test_loss).all()
    np.testing.assert_allclose(history.loss, plain.loss, rtol=1e-5)


@pytest.mark.slow
def test_progress_sees_every_chunk():
    numbers = []

    def progress(chunks):
        for chunk in chunks:
            numbers.append(chunk)
            yield chunk

    history = fit(records=12, record_every=1, chunks=5, progress=progress)
    assert numbers == [0, 1, 2, 3, 4]  # of three records each: twelve, one more, and two cut off
    assert history.step.tolist()[0] == list(range(13))


def test_x64_is_needed_for_float64():
    with pytest.raises(ValueError, match="jax_enable_x64 is off; turn it on first"):
        train.make_run(problem, batch_size=10, precision="float64")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(batch_size=-1), "batch_size is -1"),
        (lambda: fit(batch_size=51), "batch_size is 51, but there are 50 examples to train"),
        (lambda: fit(record_every=0), "record_every is 0"),
        (lambda: fit(precision="float16"), "precision is 'float16'"),
        (lambda: fit(records=0), "records is 0"),
    ],
)
def test_training_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tree_helper_notices_a_difference():
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close({"a": jnp.array([1e-9])}, {"a": jnp.array([2e-9])}, rtol=1e-3)


def test_targets_may_be_numbers_with_a_score_of_their_own():
    """Least squares on one batch of everything: the loss falls as the closed form says."""
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)
    data = train.Data(*map(jnp.asarray, (x, y, x[:10], y[:10])))

    def regression(settings):
        return train.Problem(
            network=layers.dense(1, initializers.zeros),
            loss=lambda outputs, targets: losses.mean_squared_error(outputs[..., 0], targets),
            optimizer=optax.sgd(settings["learning_rate"]),
            score=lambda outputs, targets: jnp.mean(jnp.abs(outputs[..., 0] - targets) < 1.0),
        )

    run = train.make_run(regression, batch_size=0)
    settings = {"learning_rate": jnp.array([0.1]), "seed": jnp.array([0])}
    history = train.fit(run, settings, data, records=2)
    design = np.hstack([x, np.ones((50, 1))]).astype(np.float64)
    weights = np.zeros(4)
    for i in range(3):
        error = design @ weights - y
        np.testing.assert_allclose(history.loss[0, i], np.mean(error**2), rtol=1e-5)
        np.testing.assert_allclose(history.accuracy[0, i], np.mean(np.abs(error) < 1.0))
        weights = weights - 0.1 * 2 / 50 * design.T @ error


@pytest.mark.slow
def test_settings_may_be_numbers_for_all_runs_and_a_problem_without_any(plain):
    run = train.make_run(problem, batch_size=10, record_every=5)
    settings = {"learning_rate": 0.05, "seed": range(2)}
    history = train.fit(run, settings, examples(), records=4)
    np.testing.assert_allclose(history.loss[0], plain.loss[0], rtol=1e-4)
    assert history.loss[0, 0] != history.loss[1, 0]
    run_without_settings = train.make_run(
        problem({"learning_rate": 0.05}), batch_size=10, record_every=5
    )
    np.testing.assert_allclose(
        train.fit(run_without_settings, {}, examples(), records=4).loss, plain.loss, rtol=1e-4
    )


def test_settings_for_different_numbers_of_runs_are_refused():
    run = train.make_run(problem, batch_size=10)
    settings = {"learning_rate": [0.1, 0.2, 0.3], "seed": [0, 1]}
    message = "settings has 2 of seed, 3 of learning_rate; give a value for each run, or one num"
    assert_refuses(lambda: train.fit(run, settings, examples(), records=1), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": [5, 2**32 + 5]}, "settings.seed has 4294967301, which JAX holds as 5; integers"),
        ({"learning_rate": 1e-50}, "settings.learning_rate has 1e-50, which JAX holds as 0.0"),
        (
            {"learning_rate": [0.1, 1e40]},
            "settings.learning_rate has 1e+40, which JAX holds as inf",
        ),
    ],
)
def test_settings_that_float32_makes_others_of_are_refused(settings, message):
    run = train.make_run(problem, batch_size=10)
    settings = {"learning_rate": 0.1, **settings}
    assert_refuses(lambda: train.fit(run, settings, examples(), records=2), message)
