"""What a nonlinearity is called, and where none is seen."""

import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import activations
from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(4, 6)
W = jnp.linspace(-1, 1, 36).reshape(6, 6)
PARAMS = {"w": W, "v": W + 1, "slope": jnp.full((1, 6), 0.1)}


def sites(network):
    """The sites that a network in front of a mean gets; nothing is run."""
    return make_plan(lambda p, x: jnp.mean(network(p, x)), (PARAMS, X), {}).layout.sites


def ops(network):
    return [site.op for site in sites(network)]


def between(function):
    """The op of a function between two layers, which is the only row there."""
    first, activation, last = sites(lambda p, x: function(x @ p["w"]) @ p["v"])
    assert (first.op, activation.kind, last.op) == ("dot_general", "nonlinearity", "dot_general")
    return activation.op


@pytest.mark.parametrize("primitive", activations.SIGNATURES)
def test_an_activation_is_known_by_a_primitive_and_named_by_it(primitive):
    function = activations.SIGNATURES[primitive]
    assert between(function) == activations.WORDS.get(primitive, primitive)
    assert len(sites(lambda p, x: function(x @ p["w"]))) == 2, "also at the end"


@pytest.mark.parametrize("form", activations.FORMS, ids=lambda form: form.word)
def test_a_form_that_is_written_out_is_recognised(form):
    for function in form.examples:
        assert between(function) == form.word


JITTED = (
    "celu, elu, gelu, hard_sigmoid, hard_swish, hard_tanh, leaky_relu, log_sigmoid, mish, relu, "
    "relu6, selu, sigmoid, silu, soft_sign, softplus, sparse_plus, squareplus, tanh"
)


@pytest.mark.parametrize("name", JITTED.split(", "))
def test_a_function_of_jax_is_called_as_jax_calls_it(name):
    assert between(getattr(jax.nn, name)) == name


def test_the_outermost_jitted_function_that_is_all_activation_names_it():
    inner = jax.jit(lambda h: h * jnp.tanh(h))

    @jax.jit
    def bend(h):
        return 2 * inner(h)

    @jax.jit
    def network(p, x):
        for name in ("w", "v", "w"):
            x = jax.nn.relu(jnp.tanh(x @ p[name]) @ p[name])
        return x

    assert between(bend) == "bend"
    assert between(inner) == "tanh", "a lambda has no name"
    assert ops(network) == ["dot_general", "tanh", "dot_general", "relu"] * 3


def test_a_function_around_a_loop_names_nothing_in_it():
    @jax.jit
    def step(h):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h), None), h, length=2)[0]

    assert ops(lambda p, x: step(x @ p["w"]))[1] == "tanh"


@pytest.mark.parametrize(
    "function",
    [
        lambda h, slope: jnp.where(h > 0, h, slope * h),
        lambda h, slope: jnp.maximum(h, 0) + slope * jnp.minimum(h, 0),
    ],
    ids=["where", "maximum"],
)
def test_a_slope_to_learn_makes_a_prelu(function):
    assert ops(lambda p, x: function(x @ p["w"], p["slope"])) == ["dot_general", "prelu"]


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda h: h * jnp.exp(-h * h), "exp"),
        (lambda h: h + jnp.sin(h) ** 2, "sin"),
        (lambda h: h / jnp.sqrt(1 + h**2), "sqrt"),
        (lambda h: jax.nn.relu(h) ** 2, "relu"),
        (lambda h: jnp.clip(h, -1, 1), "clip"),
    ],
    ids=["a bump", "snake", "a root", "a squared relu", "clip"],
)
def test_an_activation_of_several_operations_is_one_row(function, op):
    assert between(function) == op


@pytest.mark.parametrize("name", activations.LOSS_FUNCTIONS)
def test_a_function_of_losses_is_an_activation_only_before_a_layer(name):
    function = activations.LOSS_FUNCTIONS[name]
    assert ops(lambda p, x: function(x @ p["w"])) == ["dot_general"]
    assert between(function) in activations.LOSS_FUNCTIONS


@pytest.mark.parametrize("name", activations.LOSS_PRIMITIVES)
def test_what_begins_a_loss_after_an_activation_adds_no_row(name):
    function = {"integer_pow": lambda h: h**3}.get(name) or getattr(jnp, name)
    assert ops(lambda p, x: function(jax.nn.sigmoid(x @ p["w"]))) == ["dot_general", "sigmoid"]


def test_a_squared_sine_at_the_end_is_no_residual_sum():
    assert ops(lambda p, x: (lambda h: h + jnp.sin(h) ** 2)(x @ p["w"])) == ["dot_general", "sin"]
