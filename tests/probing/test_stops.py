import inspect

import jax
import jax.numpy as jnp

from vanishing.probing.plan import make_plan

STOP = jax.lax.stop_gradient
W = [jnp.eye(4)] * 4
X = jnp.ones((2, 4))


def stops_of(loss):
    return make_plan(loss, (W, X), {}).layout.stops


def line_of(loss, after):
    """ "file:line" of a loss's line so many lines after its first."""
    first = inspect.unwrap(loss).__code__.co_firstlineno
    return f"tests/probing/test_stops.py:{first + after}"


def test_a_stop_that_a_softmax_has_inside_is_not_named():
    def loss(w, x):
        h = STOP(jax.nn.softmax(x @ w[0]) @ w[1])
        h = jax.nn.softmax(h @ w[2])
        return -jnp.mean(jax.nn.log_softmax(h @ w[3]) + jax.nn.logsumexp(h, 1, keepdims=True))

    assert stops_of(loss) == (line_of(loss, 1),)


def test_stops_behind_one_another_are_named_from_the_loss_back():
    def loss(w, x):
        h = STOP(jax.nn.softmax(x @ w[0]))
        h = STOP(jax.nn.softmax(h @ w[1]))
        return jnp.mean(jax.nn.log_softmax(h @ w[2]))

    assert stops_of(loss) == (line_of(loss, 2), line_of(loss, 1))


def test_a_stop_beside_a_way_that_goes_on_is_not_named():
    def loss(w, x):
        h = x @ w[0]
        return jnp.mean((h - STOP(h)) ** 2 + (h @ STOP(w[1])))

    assert stops_of(loss) == (line_of(loss, 2),)  # it cuts w[1] off
    assert stops_of(lambda w, x: jnp.mean((x @ w[0] - STOP(x @ w[0])) ** 2)) == ()


def test_a_stop_inside_of_a_loop_is_found():
    def loss(w, x):
        def step(h, _):
            h = STOP(jnp.tanh(h @ w[0]))
            return jnp.tanh(h @ w[1]), None

        return jnp.mean(jax.lax.scan(step, x, length=3)[0] @ w[2])

    assert stops_of(loss) == (line_of(loss, 2),)
