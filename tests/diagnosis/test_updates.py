import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vanishing.diagnosis import diagnose, remedies
from vanishing.diagnosis.updates import MOST_STAY, SMALL_START, UPDATE_RANGE
from vanishing.probing import probe

W = jax.random.normal(jax.random.key(0), (8, 8)) / 3
X = jax.random.normal(jax.random.key(1), (16, 8))
Y = jax.random.normal(jax.random.key(2), (16, 8))
PARAMS = {"a": W, "b": W.T, "c": W[::-1]}


def network(p, x):
    h = jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]
    return jnp.mean((h - Y.astype(h.dtype)) ** 2)


def narrow(dtype):
    return jax.tree.map(lambda value: value.astype(dtype), (PARAMS, X))


def found(optimizer, params=PARAMS, x=X, loss=network, **state):
    findings = diagnose(loss, optimizer=optimizer)(params, x, **state).findings
    return [f for f in findings if f.kind == "update_ratio" or f.cause == "rounding"]


def causes(*args, **kwargs):
    return [told.cause for told in found(*args, **kwargs)]


def updates_of(optimizer, params=PARAMS, x=X, state=None, loss=network):
    """The update by Optax alone, and the state after it."""
    state = optimizer.init(params) if state is None else state
    return optimizer.update(jax.grad(loss)(params, x), state, params)


def sizes(tree):
    return {name: float(jnp.linalg.norm(value)) for name, value in tree.items()}


WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
STILL_AT_FIRST = {
    "warm-up": optax.adam(WARM_UP),
    "warm-up behind a clip": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(WARM_UP)),
    "accumulated": optax.MultiSteps(optax.adam(1e-3), every_k_schedule=4),
}
STILL = {
    "a schedule of 0": optax.adam(optax.constant_schedule(0.0)),
    "a clip to 0": optax.chain(optax.clip_by_global_norm(0.0), optax.sgd(1e-2)),
    "everything frozen": optax.set_to_zero(),
}


@pytest.mark.parametrize("name", STILL_AT_FIRST)
def test_a_first_step_of_0_is_none(name):
    optimizer = STILL_AT_FIRST[name]
    updates, state = updates_of(optimizer)
    assert set(sizes(updates).values()) == {0.0}
    for _ in range(3):
        updates, state = updates_of(optimizer, state=state)
    assert min(sizes(updates).values()) > 0
    assert found(optimizer) == []


@pytest.mark.parametrize("name", STILL)
def test_an_optimiser_that_never_moves_anything_is_found(name):
    state = None
    for _ in range(3):
        updates, state = updates_of(STILL[name], state=state)
        assert set(sizes(updates).values()) == {0.0}
    (told,) = found(STILL[name])
    assert (told.cause, told.severity, told.where) == ("frozen", "high", "a, b, c")
    assert told.remedies == (remedies.STANDS_STILL,)
    assert told.says == "every update is exactly 0, though there are gradients"


def test_a_schedule_that_has_ended_is_found_by_its_state():
    optimizer = optax.sgd(optax.piecewise_constant_schedule(1e-2, {10: 0.0}))
    state = optimizer.init(PARAMS)
    assert found(optimizer, opt_state=state) == []
    for _ in range(11):
        _, state = updates_of(optimizer, state=state)
    assert set(sizes(updates_of(optimizer, state=state)[0]).values()) == {0.0}
    assert causes(optimizer, opt_state=state) == ["frozen"]


def test_one_frozen_parameter_is_none():
    frozen = optax.partition(
        {"moves": optax.sgd(1e-2), "stays": optax.set_to_zero()},
        {"a": "stays", "b": "moves", "c": "moves"},
    )
    assert found(frozen) == []


@pytest.mark.parametrize("optimizer", [optax.adam(1e-3), optax.sgd(1e-2), optax.adamw(1e-3)])
def test_usual_steps_are_none(optimizer):
    updates, _ = updates_of(optimizer)
    for name, size in sizes(updates).items():
        assert UPDATE_RANGE[0] < size / sizes(PARAMS)[name] < UPDATE_RANGE[1]
    assert found(optimizer) == []


def broken_state():
    optimizer = optax.sgd(1e-2, momentum=0.9)
    return optimizer, jax.tree.map(lambda value: value * jnp.nan, optimizer.init(PARAMS))


def test_the_epsilon_of_adam_is_0_in_float16():
    params, x = narrow(jnp.float16)
    x = x.at[:, 0].set(0)  # one row of a has no gradient: 0 / 0
    updates, _ = updates_of(optax.adam(1e-3), params, x)
    assert np.float16(1e-8) == 0
    assert not jnp.isfinite(updates["a"]).all()
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(jax.grad(network)(params, x)))
    (told,) = found(optax.adam(1e-3), params, x)
    assert (told.cause, told.severity, told.remedies) == (
        "epsilon",
        "high",
        (remedies.OPTIMIZER,),
    )
    assert "1e-8, Adam's epsilon, is 0 in float16" in told.says
    assert causes(optax.adam(1e-3, eps=1e-4), params, x) == []


@pytest.mark.parametrize("name", ["state", "clip"])
def test_a_nan_that_the_optimiser_makes_is_its_own(name):
    optimizer, state = broken_state()
    if name == "clip":  # of a norm that is 0 / 0
        optimizer, state = optax.scale(jnp.float32(0) / jnp.float32(0)), None
    assert not any(
        jnp.isfinite(u).any() for u in jax.tree.leaves(updates_of(optimizer, state=state)[0])
    )
    (told,) = found(optimizer, opt_state=state)
    assert (told.cause, told.where) == ("optimizer", "a, b, c")
    assert told.says.startswith("the update of 3 of 3 parameters is inf or nan")


def test_an_update_is_said_to_be_broken_only_where_it_is():
    optimizer = optax.partition(
        {"nan": optax.scale(jnp.nan), "sgd": optax.sgd(1e-2)}, {"a": "nan", "b": "sgd", "c": "sgd"}
    )
    (told,) = found(optimizer)
    assert told.where == "a"
    assert told.says.startswith("the update of 1 of 3 parameters is inf or nan")


def test_a_broken_gradient_is_not_the_optimisers():
    loss = lambda p, x: network(p, x) + jnp.sum(jnp.sqrt(p["a"] * 0))  # noqa: E731
    assert not jnp.isfinite(jax.grad(loss)(PARAMS, X)["a"]).all()
    assert causes(optax.sgd(1e-2), loss=loss) == []


def test_steps_that_are_too_large_for_all_are_the_learning_rate_s():
    optimizer = optax.sgd(300.0)
    expected = {n: s / sizes(PARAMS)[n] for n, s in sizes(updates_of(optimizer)[0]).items()}
    assert min(expected.values()) > 1
    (told,) = found(optimizer)
    assert (told.cause, told.severity) == ("learning_rate", "high")
    assert told.remedies == (remedies.RATE_OF_UPDATES,)
    assert {told.where, *told.also} == set(PARAMS)
    np.testing.assert_allclose(told.evidence["update_over_weight"], expected[told.where], rtol=1e-5)


def test_of_a_step_over_a_tenth_the_severity_is_medium():
    optimizer = optax.adam(0.1)
    ratios = [size / sizes(PARAMS)[n] for n, size in sizes(updates_of(optimizer)[0]).items()]
    assert UPDATE_RANGE[1] < min(ratios) <= max(ratios) < 1
    assert [told.severity for told in found(optimizer)] == ["medium"]


def one(rate, name="a"):
    """An optimiser with a rate of its own for one parameter."""
    labels = {key: "one" if key == name else "others" for key in PARAMS}
    return optax.partition({"one": optax.sgd(rate), "others": optax.sgd(1e-2)}, labels)


def test_one_parameter_off_is_told_from_all():
    updates, _ = updates_of(one(1e3))
    assert sizes(updates)["a"] > sizes(PARAMS)["a"]
    (told,) = found(one(1e3))
    assert (told.cause, told.where, told.also) == ("one_parameter", "a", ())
    assert told.remedies == (remedies.ONE_RATE,)


def test_a_last_layer_that_is_drawn_small_is_none():
    params = PARAMS | {"c": 1e-4 * W}
    assert float(jnp.sqrt(jnp.mean(params["c"] ** 2) * 8)) < SMALL_START
    updates, _ = updates_of(optax.adam(1e-3), params)
    assert sizes(updates)["c"] > sizes(params)["c"]
    assert found(optax.adam(1e-3), params) == []


def with_layer_scale(p, x):
    h = x @ p["a"]
    for scale, w in zip(p["scales"], (p["b"], p["c"]), strict=True):
        h = h + scale[None] * jnp.tanh(h @ w)
    return jnp.mean((h - Y) ** 2)


def test_a_layer_scale_of_almost_0_is_none():
    """Of vectors the first steps are large beside them; only kernels are asked."""
    params = PARAMS | {"scales": [jnp.full(8, 1e-5)] * 2}
    updates, _ = updates_of(optax.adam(1e-3), params, loss=with_layer_scale)
    assert float(jnp.linalg.norm(updates["scales"][0])) > 0.1 * 1e-5 * np.sqrt(8)
    assert found(optax.adam(1e-3), params, loss=with_layer_scale) == []


def test_one_parameter_that_moves_too_little_is_its_own_affair():
    rate = 1e-5
    updates, _ = updates_of(one(rate))
    assert sizes(updates)["a"] / sizes(PARAMS)["a"] > UPDATE_RANGE[0]
    assert found(one(rate)) == []


@pytest.mark.parametrize(
    ("dtype", "optimizer"),
    [
        (jnp.bfloat16, optax.sgd(1e-4)),
        (jnp.bfloat16, optax.adam(1e-4)),
        (jnp.bfloat16, optax.adam(3e-2)),
        (jnp.float32, optax.sgd(1e-9)),
        (jnp.float32, optax.adam(1e-4)),
    ],
    ids=["small", "adam", "adam, large", "float32, tiny", "float32"],
)
def test_an_update_that_rounding_swallows_is_measured_by_adding_it(dtype, optimizer):
    params, x = narrow(dtype)
    updates, _ = updates_of(optimizer, params, x)
    share = {}
    for name, w in params.items():
        w, u = np.asarray(w), np.asarray(updates[name].astype(dtype))
        share[name] = np.mean((w + u == w)[(u != 0) & (w != 0)])
    swallowed = {name for name, part in share.items() if part > MOST_STAY}
    rounding = [told for told in found(optimizer, params, x) if told.cause == "rounding"]
    assert {name for told in rounding for name in (told.where, *told.also)} == swallowed
    for told in rounding:
        assert (told.kind, told.severity) == ("precision", "high")
        assert f"{100 * share[told.where]:.0f}% of the weights stay what they are" in told.says
        assert told.evidence["spacing"] == float(jnp.finfo(dtype).eps)


def test_a_step_that_float32_swallows_is_not_told_to_use_float32():
    told = found(optax.sgd(1e-9))
    assert len(told) == 1
    assert all("in float32" not in remedy.action for remedy in told[0].remedies)


def test_of_a_trace_alone_the_ratio_to_the_spacing_is_looked_at():
    params, x = narrow(jnp.bfloat16)
    trace = probe(network)(params, x).trace

    def told(rate):
        updates = jax.tree.map(lambda w: rate * w, params)
        return [f.cause for f in diagnose(trace.with_updates(updates)).findings]

    assert told(1e-4) == ["rounding"]
    assert told(1e-2) == []
    assert "most of the weights stay" in str(
        diagnose(trace.with_updates(jax.tree.map(lambda w: 1e-4 * w, params)))
    )


def test_without_an_optimiser_there_is_no_update_to_judge():
    assert diagnose(network)(PARAMS, X).findings == ()


def test_a_nan_that_accumulated_gradients_keep_is_named():
    def state_after(optimizer):
        state = optimizer.init(PARAMS)
        broken = jax.tree.map(lambda value: jnp.nan * value, PARAMS)
        return optimizer.update(broken, state, PARAMS)[1]

    plain = optax.MultiSteps(optax.sgd(1e-2), every_k_schedule=4)
    (told,) = found(plain, opt_state=state_after(plain))
    assert told.cause == "optimizer"
    assert "optax.MultiSteps keeps one of a step before" in told.says
    assert told.remedies == (remedies.SKIP,)
    skips = optax.MultiSteps(
        optax.sgd(1e-2), every_k_schedule=4, should_skip_update_fn=optax.skip_not_finite
    )
    assert found(skips, opt_state=state_after(skips)) == []
    momentum = optax.sgd(1e-2, momentum=0.9)
    (told,) = found(momentum, opt_state=state_after(momentum))
    assert "the optimiser's state holds one of a step before" in told.says
