import itertools

import jax.numpy as jnp
import pytest

from vanishing import backprop

WIDTHS = (64, 128, 256, 32)


def passes(dtype=jnp.float32):
    """The forward pass alone, both passes, and arguments for them."""
    names = ["relu", "relu", "identity"]
    params = [
        {"kernel": jnp.ones((i, o), dtype), "bias": jnp.ones(o, dtype)}
        for i, o in itertools.pairwise(WIDTHS)
    ]

    def forward(params, x):
        return backprop.forward(params, x, names).activations[-1]

    def forward_and_backward(params, x):
        passed = backprop.forward(params, x, names)
        error = jnp.ones_like(passed.activations[-1])
        result = backprop.backward(params, passed, error, names)
        return passed.activations[-1], result.params

    return forward, forward_and_backward, params, jnp.ones((128, 64), dtype)


def test_counted_operations_are_those_of_the_compiled_passes():
    forward, forward_and_backward, params, x = passes()
    xla_forward = backprop.xla_work(forward, params, x)
    xla_backward = backprop.xla_work(forward_and_backward, params, x) - xla_forward
    work = backprop.forward_work(128, WIDTHS), backprop.backward_work(128, WIDTHS)
    # matrix products are 99 % of it
    assert work[0].flops == pytest.approx(xla_forward.flops, rel=0.02)
    assert work[1].flops == pytest.approx(xla_backward.flops, rel=0.02)
    # XLA keeps some of what is counted in registers
    assert 0.5 < xla_forward.bytes / work[0].bytes <= 1.05
    assert 0.5 < xla_backward.bytes / work[1].bytes <= 1.05


def test_a_product_is_counted_as_it_is_defined():
    batch, fan_in, fan_out = 7, 5, 3
    product = backprop.xla_work(
        lambda a, w: a @ w, jnp.ones((batch, fan_in)), jnp.ones((fan_in, fan_out))
    )
    assert product.flops == 2 * batch * fan_in * fan_out
    assert product.bytes == 4 * (batch * fan_in + fan_in * fan_out + batch * fan_out)
    work = backprop.forward_work(batch, (fan_in, fan_out))
    assert work.flops == product.flops + 2 * batch * fan_out
    assert backprop.forward_work(batch, (fan_in, fan_out), 8).bytes == 2 * work.bytes


def test_deep_networks_go_back_in_twice_the_work():
    widths = (256,) * 100
    ratio = backprop.backward_work(1024, widths).flops / backprop.forward_work(1024, widths).flops
    assert ratio == pytest.approx(2.0, abs=0.02)
