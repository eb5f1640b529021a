import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import assert_refuses
from tests.train.setting import EXAMPLES, examples, problem
from vanishing.train import steps

SETTINGS = {"learning_rate": 0.1}


@functools.cache
def start(**options):
    recipe = steps.Recipe(problem, **{"batch_size": 10, **options})
    return recipe, steps.init(recipe, jax.random.key(3), SETTINGS, examples())


def batches(batch_size, records, record_every):
    recipe, state = start(batch_size=batch_size, record_every=record_every)
    numbers = np.asarray(steps.batches(recipe, state, examples(), records))
    return numbers.reshape(records * record_every, -1)


@jax.jit
def cross_entropy(params, state, x, y):
    logits = problem(SETTINGS).network.apply(params, state.layer_state, x).output
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


def test_an_epoch_sees_every_example_once_in_an_order_of_its_own():
    numbers = batches(10, 2, 5)
    first, second = numbers[:5].ravel(), numbers[5:].ravel()
    assert sorted(first) == sorted(second) == list(range(EXAMPLES))
    assert first.tolist() != second.tolist()


def test_a_batch_that_would_be_short_is_left_out():
    numbers = batches(20, 1, 2)
    assert numbers.shape == (2, 20)
    assert len(set(numbers.ravel())) == 40


def test_batch_size_0_takes_all_examples():
    assert sorted(batches(0, 1, 1)[0]) == list(range(EXAMPLES))


def test_the_loss_is_that_of_the_outputs_and_the_penalty():
    recipe, state = start()
    data = examples()
    x, y = data.x_train[:7], data.y_train[:7]
    task = problem(SETTINGS)._replace(penalty=lambda params: jnp.float32(0.25))
    loss_of_params = jax.jit(steps.loss_of(recipe, task, state, x, y, train=True))
    loss, (score, layer_state) = loss_of_params(state.params)
    np.testing.assert_allclose(loss, cross_entropy(state.params, state, x, y) + 0.25, rtol=1e-6)
    logits = task.network.apply(state.params, state.layer_state, x).output
    np.testing.assert_allclose(score, np.mean(np.argmax(logits, -1) == y), rtol=1e-6)
    assert jax.tree.structure(layer_state) == jax.tree.structure(state.layer_state)


def test_the_score_of_outputs_with_a_nan_is_nan():
    recipe, state = start()
    x, y = examples().x_train[:7].at[2, 0].set(jnp.nan), examples().y_train[:7]
    loss_of_params = jax.jit(steps.loss_of(recipe, problem(SETTINGS), state, x, y, train=False))
    _, (score, _) = loss_of_params(state.params)
    assert np.isnan(score)


@pytest.fixture(scope="module")
def after_a_step():
    recipe, state = start()
    batch = jnp.arange(10, 20)
    step = jax.jit(functools.partial(steps.step, recipe))
    return state, batch, step(state, SETTINGS, examples(), batch)


def test_a_step_is_that_of_the_optimizer(after_a_step):
    state, batch, after = after_a_step
    data, optimizer = examples(), optax.sgd(0.1, momentum=0.9)
    grads = jax.grad(cross_entropy)(state.params, state, data.x_train[batch], data.y_train[batch])
    updates, _ = optimizer.update(grads, optimizer.init(state.params))
    chex.assert_trees_all_close(after.params, optax.apply_updates(state.params, updates), rtol=1e-5)
    assert int(after.step) == int(state.step) + 1


def test_a_recorded_step_is_the_same_step_and_records_what_was_before_it(after_a_step):
    state, batch, after = after_a_step
    data = examples()
    recorded_step = jax.jit(functools.partial(steps.recorded_step, start()[0]))
    next_state, record = recorded_step(state, SETTINGS, data, batch)
    chex.assert_trees_all_close(
        next_state._replace(key=jax.random.key_data(next_state.key)),
        after._replace(key=jax.random.key_data(after.key)),
        rtol=1e-5,
    )
    assert int(record.step) == 0
    x, y = data.x_train[batch], data.y_train[batch]
    np.testing.assert_allclose(record.loss, cross_entropy(state.params, state, x, y), rtol=1e-6)
    np.testing.assert_allclose(
        record.test_loss, cross_entropy(state.params, state, data.x_test, data.y_test), rtol=1e-6
    )
    assert record.trace.forward.rms.ndim == 1


@pytest.mark.slow
def test_advancing_takes_its_batches_in_order_and_records_the_first_of_every_few():
    recipe, state = start(record_every=2)
    data = examples()
    final_state, history = steps.advance(recipe, state, SETTINGS, data, 2)
    assert history.step.tolist() == [0, 2]
    one_by_one = state
    for batch in steps.batches(recipe, state, data, 2).reshape(4, -1):
        one_by_one = steps.step(recipe, one_by_one, SETTINGS, data, batch)
    chex.assert_trees_all_close(final_state.params, one_by_one.params, rtol=1e-4)
    chex.assert_trees_all_equal(final_state.step, one_by_one.step)


def test_a_recipe_tells_the_dtypes_of_its_precision():
    recipe = steps.Recipe(problem, batch_size=10, precision="bfloat16")
    assert (recipe.dtype, recipe.param_dtype) == (jnp.bfloat16, jnp.float32)
    assert start(precision="bfloat16")[1].params["output"]["dense"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "batch_size is -1; it must be at least 0 (0: all examples)."),
        ({"record_every": 0}, "record_every is 0; it must be at least 1."),
        ({"precision": "half"}, "precision is 'half'; it must be one of float32, float64, bf"),
        ({"precision": "float64"}, "jax_enable_x64 is off; turn it on first"),
        ({"batch_size": 51}, "batch_size is 51, but there are 50 examples to train."),
    ],
)
def test_a_recipe_refuses(options, message):
    assert_refuses(lambda: start(**options), message)
