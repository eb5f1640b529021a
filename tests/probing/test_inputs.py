import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import inputs
from vanishing.probing.plan import make_plan

A, B, C = jax.random.normal(jax.random.key(0), (3, 4, 4))
X = jax.random.uniform(jax.random.key(1), (8, 4), minval=-1)
OFF = 100.0  # no input comes near it


def empty(loss, params, x=X):
    names = sorted(params)
    return [names[i] for i in inputs.empty(make_plan(loss, (params, x), {}))]


def without_gradient(loss, params, x=X):
    grads = jax.grad(loss)(params, x)
    return [name for name in sorted(params) if not grads[name].any()]


def cost(h):
    return jnp.mean((h - 1) ** 2)


def spline(p, x):
    """A basis of hats over -1 to 1, and a linear layer beside it."""
    centres = jnp.linspace(-1, 1, 5)[None, None]
    hats = jnp.maximum(1 - 2 * jnp.abs(x[..., None] - centres), 0)
    return cost(hats.reshape(len(x), -1) @ p["spline"] + x @ p["w"])


SPLINE = {"spline": jnp.ones((20, 4)), "w": A}


def test_a_basis_outside_of_its_range_is_found():
    far = X + OFF
    assert empty(spline, SPLINE, far) == without_gradient(spline, SPLINE, far) == ["spline"]
    assert empty(spline, SPLINE) == without_gradient(spline, SPLINE) == []


CHANNELS = ("NWC", "WIO", "NWC")


def convolved(p, x):
    signal = jax.nn.relu(x - OFF)[..., None]
    h = jax.lax.conv_general_dilated(signal, p["k"], (1,), "SAME", dimension_numbers=CHANNELS)
    return cost(h + x[..., None] * p["s"])


def behind_dead_units(p, x):
    return cost(jax.nn.relu(x @ p["a"] - OFF) @ p["b"] + x @ p["c"])


FOUND = {
    "a matrix": (lambda p, x: cost(jax.nn.relu(x - OFF) @ p["b"] + x @ p["c"]), ["b"]),
    "its transpose": (lambda p, x: cost(jax.nn.relu(x - OFF) @ p["b"].T + x @ p["c"]), ["b"]),
    "behind dead units": (behind_dead_units, ["b"]),
    "twice": (
        lambda p, x: cost(
            jax.nn.relu(x - OFF) @ p["b"] + jax.nn.relu(x - 2 * OFF) @ p["b"] + x @ p["c"]
        ),
        ["b"],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_parameter_that_only_meets_zeros_made_of_data_is_found(name):
    loss, expected = FOUND[name]
    params = {"a": A, "b": B, "c": C}
    assert empty(loss, params) == expected
    assert set(expected) <= set(without_gradient(loss, params))


def test_a_kernel_of_a_convolution_is_found():
    params = {"k": jnp.ones((3, 1, 2)), "s": jnp.ones((1, 1, 2))}
    assert empty(convolved, params) == without_gradient(convolved, params) == ["k"]


def test_a_row_of_factors_is_found():
    loss = lambda p, x: cost(jax.nn.relu(x - OFF) * p["b"] + x @ p["c"])  # noqa: E731
    params = {"b": jnp.ones((1, 4)), "c": C}
    assert empty(loss, params) == without_gradient(loss, params) == ["b"]


def recurrent(p, x):
    h = jnp.zeros((8, 4))
    return cost(jnp.tanh(x @ p["a"] + h @ p["b"]))


def given_state(p, x):
    return cost(jnp.tanh(X @ p["a"] + x @ p["b"]))


@pytest.mark.parametrize(
    ("loss", "x"), [(recurrent, X), (given_state, jnp.zeros((8, 4)))], ids=["made", "given"]
)
def test_a_first_state_of_zeros_is_none(loss, x):
    params = {"a": A, "b": B}
    assert without_gradient(loss, params, x) == ["b"]
    assert empty(loss, params, x) == []


def test_a_parameter_of_zeros_in_front_is_none():
    loss = lambda p, x: cost(x @ p["a"] @ p["b"] + x @ p["c"])  # noqa: E731
    params = {"a": jnp.zeros((4, 4)), "b": B, "c": C}
    assert without_gradient(loss, params) == ["b"]
    assert empty(loss, params) == []


ALSO_USED = {
    "another layer": lambda p, x: cost(jax.nn.relu(x - OFF) @ p["b"] + x @ p["b"] @ p["c"]),
    "a decay": lambda p, x: cost(jax.nn.relu(x - OFF) @ p["b"] + x @ p["c"]) + cost(p["b"]),
    "a sum": lambda p, x: cost(jax.nn.relu(x - OFF) @ p["b"] + x @ (p["b"] + p["c"])),
    "a loop": lambda p, x: cost(
        jax.lax.scan(
            lambda h, _: (jnp.tanh(h @ p["b"]), None), jax.nn.relu(x - OFF) @ p["b"] + x @ p["c"],
            length=2,
        )[0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALSO_USED)
def test_a_leaf_that_is_used_twice_is_found_only_where_it_meets_zeros_both_times(name):
    params = {"b": B, "c": C}
    assert without_gradient(ALSO_USED[name], params) == []
    assert empty(ALSO_USED[name], params) == []


def test_what_is_zero_for_some_examples_alone_is_none():
    loss = lambda p, x: cost(jax.nn.relu(x - 0.9) @ p["b"] + x @ p["c"])  # noqa: E731
    assert (X.max(0) > 0.9).any()
    assert empty(loss, {"b": B, "c": C}) == []
