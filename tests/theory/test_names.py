import jax
import jax.numpy as jnp
import pytest

from tests.helpers import slow
from vanishing import layers, networks, predict
from vanishing.probing import probe

BLOCK = dict(a=layers.activation("relu"), d=layers.dense(8))
NETS = {
    "activation before and after a loop": layers.serial(
        first=layers.dense(8),
        act=layers.activation("tanh"),
        blocks=layers.repeat(layers.serial(d=layers.dense(8), n=layers.layer_norm()), 2),
        last=layers.activation("softplus"),
        head=layers.dense(3),
    ),
    "activation first": layers.serial(
        first=layers.dense(8),
        blocks=layers.repeat(layers.residual(layers.serial(**BLOCK)), 3),
        head=layers.dense(3),
    ),
    "a function of one's own": layers.serial(
        a=layers.dense(8), b=layers.activation(lambda h: jnp.tanh(2 * h)), c=layers.dense(3)
    ),
    "without names": layers.serial(
        layers.dense(8), layers.activation("sigmoid"), layers.dense(8), layers.activation("silu")
    ),
    "pre-activation": networks.residual_mlp(3, kind="pre_activation", blocks=2, width=8),
}


FEW = ["activation before and after a loop", "activation first"]


@pytest.mark.parametrize("net", [*FEW, *slow(*(name for name in NETS if name not in FEW))])
def test_predicted_rows_are_called_as_measured_ones(net, key):
    net, x = NETS[net], jax.random.normal(key, (4, 8))
    params, state = net.init(key, x)
    loss = lambda params, x: jnp.mean(net.apply(params, state, x).output ** 2)  # noqa: E731
    shapes = jax.eval_shape(probe(loss, summaries=("rms",)), params, x)
    assert predict(net, x).names == shapes.trace.names
