import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from vanishing.probing import twice
from vanishing.probing.plan import make_plan

W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (8, 4))
LABELS = jnp.arange(8) % 4
TARGETS = jnp.eye(4)[LABELS]
SOFTMAX, SIGMOID = jax.nn.softmax, jax.nn.sigmoid


def places_of(loss, params=W, x=X):
    found = twice.softmax_of_probabilities(make_plan(loss, (params, x), {}).program)
    return tuple(f"{each.op} at {each.at}" if each.at else each.op for each in found)


def line_of(function, after=0):
    first = inspect.unwrap(function).__code__.co_firstlineno
    return f"tests/probing/test_twice.py:{first + after}"


def own_softmax(x):
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


def shifted_softmax(x):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


LOSSES = {  # what takes logits
    "softmax_cross_entropy": lambda h: jnp.mean(optax.softmax_cross_entropy(h, TARGETS)),
    "with integer labels": lambda h: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(h, LABELS)
    ),
    "log_softmax": lambda h: -jnp.mean(jax.nn.log_softmax(h) * TARGETS),
    "logsumexp": lambda h: jnp.mean(jax.nn.logsumexp(h, -1) - jnp.sum(h * TARGETS, -1)),
    "softmax": lambda h: jnp.mean((SOFTMAX(h) - TARGETS) ** 2),
    "softmax by hand": lambda h: jnp.mean((shifted_softmax(h) - TARGETS) ** 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_softmax_before_what_takes_logits_is_named_with_its_line(name):
    loss = lambda w, x: LOSSES[name](SOFTMAX(x @ w))  # noqa: E731
    assert places_of(loss) == (f"softmax at {line_of(loss)}",)


@pytest.mark.parametrize("name", LOSSES)
def test_what_takes_logits_is_none_by_itself(name):
    assert places_of(lambda w, x: LOSSES[name](x @ w)) == ()
    assert places_of(lambda w, x: LOSSES[name](jax.nn.tanh(x @ w))) == ()


@pytest.mark.parametrize("softmax", [own_softmax, shifted_softmax])
def test_a_softmax_by_hand_is_one(softmax):
    np.testing.assert_allclose(softmax(X), SOFTMAX(X), rtol=1e-5)
    loss = lambda w, x: LOSSES["softmax_cross_entropy"](softmax(x @ w))  # noqa: E731
    assert places_of(loss) == (f"softmax at {line_of(softmax, 2)}",)


VIEWS = {
    "reshaped": lambda h: LOSSES["softmax"](h.reshape(2, 4, 4).reshape(8, 4)),
    "transposed": lambda h: jnp.mean(SOFTMAX(h.T, axis=0)[0]),
    "in another dtype": lambda h: LOSSES["softmax"](h.astype(jnp.bfloat16)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_softmax_is_followed_through_what_leaves_its_numbers_alone(name):
    loss = lambda w, x: VIEWS[name](SOFTMAX(x @ w))  # noqa: E731
    assert places_of(loss) == (f"softmax at {line_of(loss)}",)


def test_its_gradient_is_small_as_the_second_softmax_is_near_uniform():
    """What is wrong with it: logits between 0 and 1 are worth at most a factor of e."""
    sure = 20 * TARGETS
    once, again = SOFTMAX(sure), SOFTMAX(SOFTMAX(sure))
    assert float(jnp.max(once)) > 0.999
    np.testing.assert_allclose(float(jnp.max(again)), np.e / (np.e + 3), rtol=1e-4)


def test_a_sigmoid_before_a_softmax_is_one():
    loss = lambda w, x: LOSSES["softmax_cross_entropy"](SIGMOID(x @ w))  # noqa: E731
    assert places_of(loss) == (f"sigmoid at {line_of(loss)}",)


BINARY = lambda h: jnp.mean(optax.sigmoid_binary_cross_entropy(h, TARGETS))  # noqa: E731


def test_a_sigmoid_before_a_binary_cross_entropy_of_logits_is_one():
    loss = lambda w, x: BINARY(SIGMOID(x @ w))  # noqa: E731
    assert places_of(loss) == (f"sigmoid at {line_of(loss)}",)


def attends(head):
    def loss(w, x):
        return head(SOFTMAX(x @ w @ x.T) @ x)

    return loss


GATE = lambda h: SIGMOID(h) * jnp.tanh(h)  # noqa: E731
NONE = {
    "the logarithm of one": lambda w, x: -jnp.mean(jnp.log(SOFTMAX(x @ w)) * TARGETS),
    "an entropy": lambda w, x: -jnp.mean(SOFTMAX(x @ w) * jax.nn.log_softmax(x @ w)),
    "attention and a head": attends(lambda h: LOSSES["log_softmax"](h)),
    "attention and a softmax": attends(lambda h: LOSSES["softmax"](h)),
    "attention of attention": attends(lambda h: LOSSES["softmax"](SOFTMAX(h @ h.T) @ h)),
    "binary": lambda w, x: BINARY(x @ w),
    "a gate and a softmax": lambda w, x: LOSSES["softmax"](GATE(x @ w)),
    "experts": lambda w, x: LOSSES["softmax"](jnp.einsum("be,eo->bo", SOFTMAX(x @ w), W)),
    "log-probabilities": lambda w, x: LOSSES["softmax"](jax.nn.log_softmax(x @ w)),
    "two softmaxes beside one another": lambda w, x: jnp.mean(SOFTMAX(x @ w) * SOFTMAX(x @ w.T)),
    "steps of a loop": lambda w, x: jnp.mean(
        jax.lax.scan(lambda h, _: (SOFTMAX(h @ w) @ w, None), x, length=2)[0]
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_what_looks_like_it_is_none(name):
    assert places_of(NONE[name]) == ()


def test_the_mean_of_an_exponential_of_a_sigmoid_is_none():
    assert places_of(lambda w, x: jnp.mean(jnp.exp(SIGMOID(x @ w)))) == ()


def test_it_is_found_in_a_loop_and_in_a_checkpoint():
    step = lambda h, w: (SOFTMAX(SOFTMAX(h @ w)), None)  # noqa: E731
    in_loop = lambda w, x: jnp.mean(jax.lax.scan(step, x, w[None])[0] ** 2)  # noqa: E731
    inside = lambda w, x: jnp.mean(jax.checkpoint(step)(x, w)[0] ** 2)  # noqa: E731
    assert places_of(in_loop) == places_of(inside) == (f"softmax at {line_of(step)}",)


def test_it_is_found_in_a_module_of_linen():
    class Classifier(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.softmax(linen.softmax(linen.Dense(4)(x)))

    model = Classifier()
    params = model.init(jax.random.key(0), X)
    loss = lambda params, x: jnp.mean(model.apply(params, x) ** 2)  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        assert places_of(loss, params) == (f"softmax at {line_of(Classifier.__call__, 2)}",)


def test_it_is_found_in_a_module_of_nnx():
    class Classifier(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return nnx.softmax(self.layer(x))

    loss = lambda model, x: LOSSES["log_softmax"](model(x))  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        places = places_of(loss, Classifier())
    assert places == (f"softmax at {line_of(Classifier.__call__, 1)}",)


def test_the_line_of_the_second_softmax_is_known_too():
    def loss(w, x):
        p = SOFTMAX(x @ w)
        return jnp.mean(optax.softmax_cross_entropy(p, TARGETS))

    (found,) = twice.softmax_of_probabilities(make_plan(loss, (W, X), {}).program)
    assert (found.at, found.again_at) == (line_of(loss, 1), line_of(loss, 2))
