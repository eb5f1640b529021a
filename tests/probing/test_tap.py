import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import summary
from vanishing.probing.tap import SLOT_SIZE, watch

X = jnp.linspace(-2, 2, 10).reshape(2, 5)
NAMES = summary.ForwardSummary._fields


def test_the_value_and_its_gradient_are_untouched_and_the_slot_gets_the_summary():
    def loss(x, slot):
        return jnp.sum(jnp.sin(watch(NAMES)(x, slot)) ** 3)

    value, (gradient, out) = jax.value_and_grad(loss, (0, 1))(X, jnp.zeros(SLOT_SIZE))
    plain = lambda x: jnp.sum(jnp.sin(x) ** 3)  # noqa: E731
    np.testing.assert_array_equal(value, plain(X))
    np.testing.assert_array_equal(gradient, jax.grad(plain)(X))
    cotangent = np.asarray(jax.grad(plain)(X), np.float64)
    np.testing.assert_allclose(out[0], np.sqrt(np.mean(cotangent**2)), rtol=1e-6)
    np.testing.assert_allclose(out[1], np.abs(cotangent).max(), rtol=1e-6)


def test_two_taps_do_not_mix():
    def loss(slots):
        h = watch(("rms",))(X, slots[0])
        return jnp.sum(watch(("rms",))(3 * h, slots[1]))

    first, second = jax.grad(loss)(jnp.zeros((2, SLOT_SIZE)))
    np.testing.assert_allclose((first[0], second[0]), (3.0, 1.0), rtol=1e-6)


@pytest.mark.skipif(not hasattr(jax.custom_vjp, "defvjp_with_logs"), reason="from JAX 0.12 on")
@pytest.mark.parametrize(
    "around", [lambda f: f, jax.checkpoint, jax.jit], ids=("bare", "checkpoint", "jit")
)
def test_logs_of_the_backward_pass_say_the_same(around):
    """Newer JAX has a way of its own to let values out; the two are run against each other."""

    def logged(key):
        tap = jax.custom_vjp(lambda x: x)

        def back(_, cotangent):
            return (cotangent,), {key: jnp.stack(summary.backward(cotangent, NAMES))}

        tap.defvjp_with_logs(lambda x: (x, None), back)
        return lambda x, slot: tap(x)

    def network(tap_a, tap_b):
        def layer(h, slot):
            return around(lambda h, slot: jnp.tanh(tap_b(1.1 * h, slot)))(h, slot), None

        def run(x, slots):
            h, _ = jax.lax.scan(layer, tap_a(2 * x, slots["a"]), slots["b"])
            return jnp.sum(h**2)

        return run

    slots = {"a": jnp.zeros(SLOT_SIZE), "b": jnp.zeros((3, SLOT_SIZE))}
    value, back = jax.vjp(lambda x: network(logged("a"), logged("b"))(x, slots), X)
    (gradient,), logs = back.with_logs(jnp.ones_like(value))
    expected = jax.grad(network(watch(NAMES), watch(NAMES)), (0, 1))(X, slots)
    chex.assert_trees_all_close((gradient, logs), expected, rtol=1e-6)
