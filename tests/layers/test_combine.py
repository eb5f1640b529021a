import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradient, assert_refuses, unchecked
from vanishing import initializers, layers
from vanishing.layers import Applied, Layer, Variables, dense, repeat, residual, serial


def block(width):
    return serial(
        dense=dense(width, *initializers.scaled(1.2, 0.3)), activation=layers.activation("tanh")
    )


def counter():
    """Adds its state, which counts calls, to the input."""

    def apply(params, state, x, key=None, train=False):
        return Applied(x + state["calls"], {"calls": state["calls"] + 1})

    return Layer(lambda key, x: Variables({}, {"calls": jnp.zeros(())}), apply)


def noise():
    """Adds noise from its key while training."""

    def apply(params, state, x, key=None, train=False):
        return Applied(x + jax.random.normal(key, x.shape) if train else x, state)

    return Layer(lambda key, x: Variables({}, {}), apply)


def unrolled(depth):
    return serial(*[block(4) for _ in range(depth)])


def test_repeat_equals_the_unrolled_network_and_its_gradients(x64, key):
    x = jax.random.normal(key, (3, 4))
    repetition = repeat(block(4), 6)
    params, state = repetition.init(key, x)

    def loss(net, state):
        return lambda params, x: jnp.sum(net.apply(params, state, x).output ** 2)

    value, (grads, grad_x) = jax.value_and_grad(loss(repetition, state), (0, 1))(params, x)
    flat_params = tuple(params[i] for i in range(6))
    flat_state = tuple({"dense": {}, "activation": {}} for _ in range(6))
    expected_value, (expected, expected_x) = jax.value_and_grad(
        loss(unrolled(6), flat_state), (0, 1)
    )(flat_params, x)
    chex.assert_trees_all_close((value, grad_x), (expected_value, expected_x), rtol=1e-12)
    for i in range(6):
        chex.assert_trees_all_close(grads[i], expected[i], rtol=1e-11)


@pytest.mark.slow
def test_gradients_of_a_composed_network_equal_finite_differences(x64, key):
    x = jax.random.normal(key, (2, 3))
    net = serial(first=block(3), hidden=repeat(residual(block(3)), 3), output=dense(2))
    params, state = net.init(key, x)

    def loss(params):
        return jnp.sum(net.apply(params, state, x).output ** 2)

    assert_gradient(loss, params, rtol=1e-5)


def test_every_repeated_block_has_parameters_of_its_own(key):
    params, _ = repeat(block(4), 3).init(key, jnp.ones((1, 4)))
    kernels = [np.asarray(params[i]["dense"]["kernel"]) for i in range(3)]
    assert not np.allclose(kernels[0], kernels[1])
    assert not np.allclose(kernels[1], kernels[2])


def test_the_program_does_not_grow_with_depth(key):
    def text(depth):
        net = repeat(block(4), depth)
        variables = jax.eval_shape(net.init, key, jnp.ones((1, 4)))
        gradient = jax.grad(lambda p, s, x: net.apply(p, s, x).output.sum())
        return jax.jit(gradient).lower(*variables, jnp.ones((1, 4))).as_text()

    assert len(text(10_000).splitlines()) == len(text(10).splitlines())


def test_state_is_threaded_through_all_combinators():
    net = serial(counter(), repeat(residual(counter()), 2), counter())
    params, state = net.init(jax.random.key(0), jnp.ones(()))
    outputs = []
    for _ in range(3):
        output, state = net.apply(params, state, jnp.ones(()))
        outputs.append(float(output))
    # call t: 1 + t, then twice h + (h + t), then + t
    assert outputs == [4 * (1 + t) + 3 * t + t for t in range(3)]
    assert [float(state[1][i]["calls"]) for i in range(2)] == [3, 3]


def test_keys_differ_between_layers_and_are_only_needed_in_training(key):
    net = serial(noise(), repeat(noise(), 4))
    params, state = net.init(key, jnp.zeros(1000))
    assert not net.apply(params, state, jnp.zeros(1000)).output.any()
    output = net.apply(params, state, jnp.zeros(1000), key, True).output
    # five independent unit normals have variance 5; var(z^2) = 2, so 5 standard errors are below
    assert abs(float(jnp.mean(output**2)) / 5 - 1) < 5 * (2 / 1000) ** 0.5
    second_output = net.apply(params, state, jnp.zeros(1000), key, True).output
    np.testing.assert_array_equal(output, second_output)


def test_names_become_keys_and_positions_become_tuples(key):
    params = serial(a=dense(2), b=dense(3)).init(key, jnp.ones((1, 4))).params
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {
        "a": (4, 2),
        "b": (2, 3),
    }
    assert isinstance(serial(dense(2), dense(3)).init(key, jnp.ones((1, 4))).params, tuple)


def test_named_layers_keep_their_order_after_a_trip_through_jit(key):
    net = serial(z=dense(2), a=dense(3))  # a tree of dicts comes back sorted by key
    params, state = jax.jit(net.init)(key, jnp.ones((1, 4)))
    assert net.apply(params, state, jnp.ones((1, 4))).output.shape == (1, 3)


def test_serial_of_nothing_is_the_identity(key):
    net = serial()
    assert net.apply(*net.init(key, jnp.ones(3)), jnp.ones(3)).output.tolist() == [1, 1, 1]


def test_a_network_lives_inside_jit_vmap_grad_and_scan(key):
    net = serial(hidden=repeat(block(4), 3), output=dense(1))
    x = jnp.ones((2, 4))

    def loss(params, state, x):
        return net.apply(params, state, x).output.sum()

    def descend(key):
        params, state = net.init(key, x)

        def step(params, _):
            value, grads = jax.value_and_grad(loss)(params, state, x)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value

        return jax.lax.scan(step, params, length=5)[1]

    one = jax.jit(descend)
    together = jax.jit(jax.vmap(descend))(jax.random.split(key, 3))
    alone = jnp.stack([one(k) for k in jax.random.split(key, 3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert (together[:, -1] < together[:, 0]).all()


def test_stacked_indexes_like_a_list_of_layers(key):
    params, _ = repeat(dense(4), 3).init(key, jnp.ones((1, 4)))
    assert len(params) == 3
    assert len(list(params)) == 3
    np.testing.assert_array_equal(params[-1]["kernel"], params.layers["kernel"][2])
    with pytest.raises(IndexError, match="index 3 is not among 3 stacked layers"):
        params[3]
    _, no_state = repeat(dense(4), 3).init(key, jnp.ones((1, 4)))
    assert no_state[2] == {}


def test_depth_axes_counts_the_repeats_above_a_leaf(key):
    net = serial(once=dense(4), twice=repeat(repeat(dense(4), 2), 3))
    params, _ = net.init(key, jnp.ones((1, 4)))
    depth = {
        jax.tree_util.keystr(path, simple=True, separator=" "): layers.depth_axes(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    assert depth == {
        "once bias": 0,
        "once kernel": 0,
        "twice [:] [:] bias": 2,
        "twice [:] [:] kernel": 2,
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: serial(dense(2), last=dense(3)), "name all of them, or none"),
        (
            lambda: unchecked(serial)(norm=layers.batch_norm),
            "layer norm is the function batch_norm",
        ),
        (lambda: unchecked(serial)(dense(2), "relu"), "layer 1 is 'relu'; it must be a layer"),
        (lambda: repeat(dense(2), 0), "depth 0; it must be at least 1"),
        (
            lambda: repeat(dense(2), 3).init(jax.random.key(0), jnp.ones((5, 4))),
            "maps float32[5, 4] to float32[5, 2]; end it with a layer of width 4",
        ),
    ],
    ids=["half named", "not called", "a name", "no depth", "repeat changes width"],
)
def test_combinators_refuse(make, message):
    assert_refuses(make, message)


def test_laid_out_or_looped_a_repeat_is_the_same_function(x64, key):
    block = layers.serial(dense=layers.dense(4), activation=layers.activation("tanh"))
    loop, laid_out = (layers.repeat(block, 5, unroll=unroll) for unroll in (False, True))
    x = jax.random.normal(key, (3, 4))
    params, state = loop.init(key, x)

    def loss(net):
        return jax.value_and_grad(lambda p: jnp.sum(net.apply(p, state, x).output ** 2))(params)

    chex.assert_trees_all_close(loss(laid_out), loss(loop), rtol=1e-12)
    assert "while" in jax.jit(loop.apply).lower(params, state, x).as_text()
    assert "while" not in jax.jit(laid_out.apply).lower(params, state, x).as_text()


def test_checkpointed_blocks_take_less_memory_for_the_same_gradient(key):
    block = layers.serial(dense=layers.dense(32), activation=layers.activation("tanh"))
    plain = layers.repeat(layers.repeat(block, 20), 20)
    checkpoint = layers.repeat(layers.checkpoint(layers.repeat(block, 20)), 20)
    x = jax.random.normal(key, (64, 32))
    params, state = plain.init(key, x)
    programs = [
        jax.jit(jax.grad(lambda p, net=net: jnp.sum(net.apply(p, state, x).output ** 2)))
        .lower(params)
        .compile()
        for net in (plain, checkpoint)
    ]
    chex.assert_trees_all_close(programs[0](params), programs[1](params), rtol=1e-4)
    memory = [program.memory_analysis().temp_size_in_bytes for program in programs]
    # 400 activations of 8 KB, once or more, against those of 20 blocks and of the one at work
    assert memory[0] > 400 * x.nbytes
    assert memory[1] < 0.5 * memory[0]


def test_a_checkpointed_layer_keeps_its_state_and_its_randomness(key):
    net = layers.serial(layers.dropout(0.5), layers.batch_norm())
    x = jax.random.normal(key, (8, 3))
    params, state = net.init(key, x)
    for train in (True, False):
        plain = net.apply(params, state, x, key, train)
        anew = layers.checkpoint(net).apply(params, state, x, key, train)
        chex.assert_trees_all_close(anew, plain, rtol=1e-6)
