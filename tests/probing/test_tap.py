import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import summary
from vanishing.probing.tap import let_out, watch

X = jnp.linspace(-2, 2, 10).reshape(2, 5)
NAMES = ("largest", "counted", "zeros")


def test_the_value_and_its_gradient_are_untouched_and_the_slot_gets_the_summary():
    def loss(x, slot):
        return jnp.sum(jnp.sin(watch(NAMES, NAMES)(x, slot)) ** 3)

    value, (gradient, out) = jax.value_and_grad(loss, (0, 1))(X, jnp.zeros(len(NAMES)))
    plain = lambda x: jnp.sum(jnp.sin(x) ** 3)  # noqa: E731
    np.testing.assert_array_equal(value, plain(X))
    np.testing.assert_array_equal(gradient, jax.grad(plain)(X))
    cotangent = np.asarray(jax.grad(plain)(X), np.float64)
    largest = np.abs(cotangent).max()
    np.testing.assert_allclose(out, [largest, np.sum(cotangent**2) / largest**2, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_a_cotangent_is_let_out_whole(dtype):
    x = (X + (1j * X[::-1] if dtype == jnp.complex64 else 0)).astype(dtype)

    def loss(x, slot):
        return jnp.sum(jnp.abs(let_out(x.dtype)(x, slot)).astype(jnp.float32) ** 3)

    gradient, cotangent = jax.grad(loss, (0, 1))(x, jnp.zeros_like(x))
    plain = jax.grad(lambda x: jnp.sum(jnp.abs(x).astype(jnp.float32) ** 3))(x)
    np.testing.assert_array_equal(gradient, plain)
    np.testing.assert_array_equal(cotangent, plain)


def test_a_rule_that_returns_a_number_is_let_out_as_an_array():
    @jax.custom_vjp
    def f(x):
        return 3 * x

    f.defvjp(lambda x: (3 * x, None), lambda _, cotangent: (2.0,))
    for tap, slot in (
        (let_out(np.dtype("float32")), 0.0),
        (watch(NAMES, NAMES), jnp.zeros(len(NAMES))),
    ):
        gradient, out = jax.grad(lambda x, s, tap=tap: f(tap(x, s)), (0, 1))(1.0, slot)
        assert gradient == 2
        assert jnp.ravel(out)[0] == 2


def test_two_taps_do_not_mix():
    def loss(slots):
        h = watch(("largest",), ("largest",))(X, slots[0])
        return jnp.sum(watch(("largest", "zeros"), ("largest",))(3 * h, slots[1]))

    first, second = jax.grad(loss)((jnp.zeros(1), jnp.zeros(2)))
    assert first.tolist() == [3]
    assert second[0] == 1
    assert np.isnan(second[1]), "not measured"


@pytest.mark.skipif(not hasattr(jax.custom_vjp, "defvjp_with_logs"), reason="from JAX 0.12 on")
@pytest.mark.parametrize(
    "around", [lambda f: f, jax.checkpoint, jax.jit], ids=("bare", "checkpoint", "jit")
)
def test_logs_of_the_backward_pass_say_the_same(around):
    """Newer JAX has a way of its own to let values out; the two are run against each other."""

    def logged(key):
        tap = jax.custom_vjp(lambda x: x)

        def back(_, cotangent):
            measured = summary.measure(cotangent[None], NAMES)
            return (cotangent,), {key: jnp.concatenate([measured[name] for name in NAMES])}

        tap.defvjp_with_logs(lambda x: (x, None), back)
        return lambda x, slot: tap(x)

    def network(tap_a, tap_b):
        def layer(h, slot):
            return around(lambda h, slot: jnp.tanh(tap_b(1.1 * h, slot)))(h, slot), None

        def run(x, slots):
            h, _ = jax.lax.scan(layer, tap_a(2 * x, slots["a"]), slots["b"])
            return jnp.sum(h**2)

        return run

    slots = {"a": jnp.zeros(len(NAMES)), "b": jnp.zeros((3, len(NAMES)))}
    value, back = jax.vjp(lambda x: network(logged("a"), logged("b"))(x, slots), X)
    (gradient,), logs = back.with_logs(jnp.ones_like(value))
    expected = jax.grad(network(watch(NAMES, NAMES), watch(NAMES, NAMES)), (0, 1))(X, slots)
    chex.assert_trees_all_close((gradient, logs), expected, rtol=1e-6)
