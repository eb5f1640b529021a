"""What users often get wrong in the arguments of public functions is refused in one clear line."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vanishing
from tests.helpers import assert_refuses
from vanishing import comparison, initializers, layers, losses, networks, theory, train
from vanishing.layers import through_time

pytestmark = pytest.mark.usefixtures("as_users_call_it")

X = jnp.ones((2, 4))
NET = layers.dense(3)


def loss(params):
    return jnp.sum(jnp.tanh(params))


@pytest.fixture(scope="module")
def probed():
    return vanishing.probe(loss)(jnp.ones(3))


@pytest.fixture(scope="module")
def prediction():
    return vanishing.predict(NET, X)


def test_what_holds_a_trace_is_no_trace_and_the_message_says_where_it_is(probed, prediction):
    expected = ("trace is a value of type Probed", "must be a Trace", ": pass probed.trace.")
    assert_refuses(lambda: vanishing.diagnose(probed), *expected)
    assert_refuses(lambda: train.trunk(probed), *expected)
    assert_refuses(lambda: train.profiles(probed), *expected)
    assert_refuses(lambda: vanishing.compare(prediction, probed), *expected)
    budget = probed.trace.budget()
    assert_refuses(lambda: vanishing.diagnose(budget), "of type Budget; it must be a T")
    for function in (train.outcome, train.to_dataset):
        assert_refuses(lambda f=function: f(probed), "it must be a History of `train.fit`.")


def test_prediction_and_trace_in_the_other_order_are_refused_with_the_order(probed, prediction):
    assert_refuses(
        lambda: vanishing.compare(probed.trace, prediction),
        "prediction is Trace(loss ",
        "a Prediction, the first of compare(prediction, trace).",
    )


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        (lambda: vanishing.predict(NET, (32, 64)), ["x is (32, 64); it must be an arr"]),
        (lambda: vanishing.predict(NET, [[1.0, 2.0]]), ["x is [[1.0, 2.0]]; it must"]),
        (
            lambda: vanishing.predict(loss, X),
            ["network is the function loss; it must be a layer, as `networks.mlp(...)` is one."],
        ),
        (
            lambda: vanishing.predict(networks.from_flax(nn.Dense(3)), X),
            ["no mean-field form", "`vanishing.layers`", "not modules of Flax or Equinox"],
        ),
        (
            lambda: comparison.measure(nn.Dense(3), ({}, {}), X, jax.random.key(0)),
            ["network is a value of type Dense", "`networks.from_flax(module)`"],
        ),
        (lambda: layers.serial(act="relu"), ["layer act is 'relu'; it must be a layer"]),
        (lambda: layers.repeat(layers.dense, 3), ["repeat has block the function dense"]),
        (lambda: layers.checkpoint("dense"), ["checkpoint has layer 'dense'"]),
        (lambda: layers.residual(None), ["residual has branch None"]),
        (lambda: layers.residual(NET, shortcut=1), ["residual has shortcut 1"]),
        (lambda: layers.highway(NET, "sigmoid"), ["highway has gate 'sigmoid'"]),
        (lambda: layers.weight_standardized("dense"), ["weight_standardized has layer 'dense'"]),
        (
            lambda: through_time.state_cotangents(loss, {}, X, jnp.sum),
            ["layer is the function loss"],
        ),
        (
            lambda: train.make_run(NET, batch_size=2),
            ["problem is Layer(dense); it must be a train.Problem, or a function"],
        ),
        (lambda: train.fit(NET, {}, None, records=1), ["run is Layer(dense)"]),
        (
            lambda: theory.tailor("tanh", NET, X),
            ["network is Layer(dense); it must be a function of an activation"],
        ),
    ],
)
def test_what_is_not_of_the_type_is_named_with_what_is(call, fragments):
    assert_refuses(call, *fragments)


def test_a_problem_of_a_flax_module_is_refused_with_the_conversion():
    problem = train.Problem(nn.Dense(3), losses.softmax_cross_entropy, optax.sgd(0.1))
    run = train.make_run(problem, batch_size=2)
    data = train.Data(X, jnp.zeros(2, int), X, jnp.zeros(2, int))
    fragments = ("problem.network is a value of type Dense", "`networks.from_flax(module)` is one")
    assert_refuses(lambda: run.init(jax.random.key(0), {}, data), *fragments)


@pytest.mark.parametrize("loss", [{"w": 1.0}, np.ones(3), None], ids=["tree", "array", "nothing"])
def test_a_probe_of_what_is_no_function_is_refused_at_once(loss):
    assert_refuses(
        lambda: vanishing.probe(loss), "loss is", "it must be a function", "probe(loss)(params)"
    )


def weights_of(network, **options):
    return lambda: network(10, weights="he_normal", **options)


@pytest.mark.parametrize(
    "make",
    [
        weights_of(networks.mlp, depth=2, width=4),
        weights_of(networks.residual_mlp, kind="plain", blocks=2, width=4),
        weights_of(networks.cnn),
        weights_of(networks.resnet, depth=8),
        weights_of(networks.vanilla_cnn, depth=2),
    ],
    ids=["mlp", "residual_mlp", "cnn", "resnet", "vanilla_cnn"],
)
def test_weights_by_name_are_refused_with_the_function_that_knows_names(make):
    assert_refuses(make, "weights 'he_normal'", "`initializers.by_name('he_normal')`")


def test_an_initializer_by_name_is_refused_by_the_layer():
    for layer in (layers.dense, layers.rnn, layers.lstm, layers.gru):
        make = lambda layer=layer: layer(3, kernel_init="he_normal")  # noqa: E731
        assert_refuses(make, f"{layer.__name__} has kernel_init 'he_normal'; it must be an init")
    assert_refuses(lambda: layers.conv(3, (2, 2), bias_init=0.0), "conv has bias_init 0.0")
    assert layers.dense(3, kernel_init=initializers.he_normal())


@pytest.mark.parametrize(
    ("make", "subject"),
    [
        (lambda: networks.mlp(10, depth=2, width=3.5), "mlp has width 3.5"),
        (lambda: networks.mlp(10, depth=2.0, width=3), "mlp has depth 2.0"),
        (
            lambda: networks.residual_mlp(1, kind="plain", blocks=2, width="4"),
            "residual_mlp has width '4'",
        ),
        (lambda: networks.resnet(10, depth=20.0), "resnet has depth 20.0"),
        (lambda: networks.resnet(10, width=1.5), "resnet has width 1.5"),
        (lambda: networks.vanilla_cnn(10, depth=2.5), "vanilla_cnn has depth 2.5"),
        (lambda: layers.dense(3.0), "dense has features 3.0"),
        (lambda: layers.dense(None), "dense has features None"),
        (lambda: layers.conv(3.5, (2, 2)), "conv has features 3.5"),
        (lambda: layers.conv(3, 2), "conv has kernel_size 2"),
        (lambda: layers.conv(3, (2, 2), strides=1.5), "conv has strides 1.5"),
        (lambda: layers.max_pool(2), "max_pool has window 2"),
        (lambda: layers.avg_pool((2.5, 2)), "avg_pool has window (2.5, 2)"),
        (lambda: layers.group_norm(2.0), "group_norm has groups 2.0"),
        (lambda: layers.repeat(NET, 2.5), "repeat has depth 2.5"),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused_at_once(make, subject):
    assert_refuses(make, f"{subject}; it must be a", "whole number")


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert networks.mlp(np.int64(10), depth=np.int32(2), width=np.int64(4))
    assert layers.max_pool(np.array([2, 2]))
