import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.diagnosis import diagnose
from vanishing.diagnosis.known import SMALL, Step, known_of
from vanishing.probing import SUMMARIES, probe

W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (8, 4))
Y = jax.random.normal(jax.random.key(2), (8, 4))
PARAMS = {"a": W, "b": W.T}


def known(loss, *args, updates=None, moves_later=False, argnums=0, has_aux=False, **kwargs):
    probing = probe(loss, argnums, has_aux, summaries=SUMMARIES)
    probed = probing(*args, **kwargs)
    return known_of(probing, probed, args, kwargs, Step(updates, moves_later))


def network(p, x):
    return jnp.mean((jnp.tanh(x @ p["a"]) @ p["b"] - Y) ** 2)


def test_a_healthy_network_shows_nothing_but_its_arguments_and_leaves():
    seen = known(network, PARAMS, X)
    assert (seen.births, seen.softmax_twice, seen.no_input, seen.cancelled) == ((), (), (), ())
    assert not seen.step.moves_later
    assert [argument.name for argument in seen.arguments] == ["x"]
    assert [leaf.twins for leaf in seen.leaves] == [0, 0]


def test_arguments_have_their_names_and_sizes():
    def loss(p, batch, weight, *, scale):
        return network(p, batch["images"][0] * scale) * weight

    batch = {"images": [30 * X], "labels": jnp.arange(8), "none": np.zeros((0, 3))}
    weight, scale = np.float32([2, 4]).mean(), np.full((1, 4), -0.5, np.float32)
    found = {a.name: a for a in known(loss, PARAMS, batch, weight, scale=scale).arguments}
    assert set(found) == {"batch['images'][0]", "scale"}
    images = np.asarray(30 * X, np.float64)
    np.testing.assert_allclose(found["batch['images'][0]"].rms, np.sqrt(np.mean(images**2)))
    np.testing.assert_allclose(found["batch['images'][0]"].largest, np.abs(images).max())
    assert found["scale"][1:] == (0.5, 0.5)


def test_the_size_of_a_half_precision_argument_does_not_overflow():
    (argument,) = known(network, PARAMS, jnp.full((8, 4), 6e4, jnp.float16)).arguments
    np.testing.assert_allclose(argument[1:], 6e4, rtol=1e-3)


def test_the_leaves_of_several_parameters_are_all_there():
    loss = lambda x, w, v: (jnp.mean((jnp.tanh(x @ w) @ v - Y) ** 2), x)  # noqa: E731
    seen = known(loss, X, W, jnp.ones((4, 4)), argnums=(1, 2), has_aux=True)
    assert [argument.name for argument in seen.arguments] == ["x"]
    assert [leaf.twins for leaf in seen.leaves] == [0, 0]


def trained(loss, params, steps=5):
    step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p, X)))
    for _ in range(steps):
        params = step(params)
    return params


def twins_of(w):
    """The share of units with an equal one, along the axis that has more of them."""

    def along(units):
        distance = np.abs(units[:, None] - units[None]).max(-1) + np.eye(len(units))
        return np.mean(distance.min(1) <= 1e-5 * np.abs(units).max())

    return max(along(np.asarray(w)), along(np.asarray(w).T))


ONES = jnp.ones((4, 4)) / 4
PAIR = {"a": W.at[:, 1].set(W[:, 3]), "b": W.T.at[1].set(W.T[3])}
CASES = {  # params, and the share of twins in each
    "all units": ({"a": ONES, "b": ONES}, [1, 1]),
    "a pair": (PAIR, [0.5, 0.5]),
    "a pair before different weights": (PAIR | {"b": W.T}, [0, 0]),
    "a first layer of equal units": ({"a": ONES, "b": W}, [0, 0]),
    "a last layer of zeros": ({"a": W, "b": 0 * W}, [0, 0]),
    "a network of zeros": ({"a": 0 * W, "b": 0 * W}, [0, 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_units_that_are_called_twins_stay_equal_and_no_others_do(name):
    params, expected = CASES[name]
    assert [leaf.twins for leaf in known(network, params, X).leaves] == expected
    after = trained(network, params)
    moved = [bool(np.any(after[key] != params[key])) for key in "ab"]
    assert [twins_of(after[key]) * moved[i] for i, key in enumerate("ab")] == expected


def test_vectors_and_single_units_have_no_twins():
    loss = lambda p, x: jnp.mean((x @ p["w"] + p["b"][None]) ** 2)  # noqa: E731
    seen = known(loss, {"b": jnp.ones(4), "w": jnp.ones((4, 1))}, X)
    assert [leaf.twins for leaf in seen.leaves] == [0, 0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("rate", [1e-9, 3e-4, 3e-3, 1e-1])
def test_the_share_that_rounding_swallows_is_counted_element_by_element(dtype, rate):
    params = jax.tree.map(lambda w: w.astype(dtype), PARAMS)
    updates = jax.tree.map(lambda w: (rate * w[::-1]).astype(dtype), params)
    leaves = known(network, params, X.astype(dtype), updates=updates).leaves
    for leaf, (w, u) in zip(leaves, [(params[k], updates[k]) for k in "ab"], strict=True):
        w, u = np.asarray(w), np.asarray(u)
        moves = u != 0
        np.testing.assert_allclose(
            leaf.swallowed, np.sum(moves & (w + u == w)) / max(1, np.sum(moves)), rtol=1e-6
        )
        assert not leaf.broken


def test_without_an_optimiser_nothing_is_known_of_its_step():
    assert all(np.isnan(leaf.swallowed) for leaf in known(network, PARAMS, X).leaves)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_update_that_is_not_finite_is_seen_at_its_leaf(bad):
    seen = known(network, PARAMS, X, updates={"a": 1e-3 * W, "b": W.at[1, 2].set(bad)})
    assert [leaf.broken for leaf in seen.leaves] == [False, True]


def test_what_the_caller_knows_of_later_steps_is_kept():
    assert known(network, PARAMS, X, moves_later=True).step.moves_later


def test_births_are_looked_for_where_the_loss_or_a_gradient_is_broken():
    log = lambda p, x: jnp.mean(jnp.log(x @ p["a"]))  # noqa: E731
    root = lambda p, x: jnp.mean(jnp.sqrt(jnp.abs(p["a"] * 0)))  # noqa: E731
    assert [birth.ops for birth in known(log, PARAMS, X).births] == [("log",)]
    assert [birth.ops for birth in known(root, PARAMS, X).births] == [("sqrt",)]


def test_parameters_that_are_broken_already_have_no_births():
    assert known(network, PARAMS | {"a": W.at[0, 0].set(jnp.nan)}, X).births == ()


def test_what_only_meets_zeros_is_known_where_a_gradient_is_0():
    loss = lambda p, x: jnp.mean((jax.nn.relu(x - 99) @ p["a"] + x @ p["b"]) ** 2)  # noqa: E731
    assert not jax.grad(loss)(PARAMS, X)["a"].any()
    assert known(loss, PARAMS, X).no_input == (0,)


def test_gradients_that_cancel_are_known_where_one_is_small():
    def loss(p, x):
        h = x @ p["a"]
        return jnp.mean((jnp.tanh(h) - jnp.tanh(x @ p["a"]) + x @ p["b"]) ** 2)

    sizes = {name: float(jnp.linalg.norm(g)) for name, g in jax.grad(loss)(PARAMS, X).items()}
    assert sizes["a"] < SMALL * sizes["b"]
    assert [each.leaves for each in known(loss, PARAMS, X).cancelled] == [(0,)]


def test_a_double_softmax_is_known_whatever_the_numbers_are():
    loss = lambda p, x: -jnp.mean(jax.nn.log_softmax(jax.nn.softmax(x @ p["a"])))  # noqa: E731
    (found,) = known(loss, PARAMS, X).softmax_twice
    assert found.op == "softmax"
    assert found.at.startswith("tests/diagnosis/test_known.py:")


def test_a_program_that_cannot_be_run_again_is_still_diagnosed(monkeypatch):
    def fails(*args):
        raise NotImplementedError

    loss = lambda w: jnp.mean(jnp.log(w))  # noqa: E731
    named = diagnose(loss)(-jnp.ones(4)).findings
    monkeypatch.setattr("vanishing.probing.births.reaching", fails)
    (finding,) = diagnose(loss)(-jnp.ones(4)).findings
    assert finding.kind == named[0].kind == "non_finite"
    assert "log" in finding.says


def test_where_a_nan_is_made_is_found_while_jax_looks_for_nan_too():
    loss = lambda w: jnp.mean(jnp.log(w))  # noqa: E731
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        diagnose(loss)(-jnp.ones(4))  # as the loss itself does


def test_the_peak_of_a_leaf_is_its_largest_number_over_its_size():
    weight = np.asarray(W, np.float64)
    expected = np.abs(weight).max() / np.sqrt(np.mean(weight**2))
    assert known(network, PARAMS, X).leaves[0].peak == pytest.approx(expected, rel=1e-6)
    zeros = known(network, {"a": W, "b": jnp.zeros((4, 4))}, X)
    assert np.isnan(zeros.leaves[1].peak)
