"""An LSTM with ReLU in place of tanh, over 500 steps of unscaled features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "keras-team/keras#2194, AlexanderVNikitin/tsgm#59 (also keras#13221)",
    "symptom": "loss nan from the first epoch, or sudden jumps to huge values",
    "truth": "with ReLU the cell's output has no bound and feeds back through the recurrent "
    "kernel: state and gradient grow from step to step and overflow. In the recurrent cell. Fix: "
    "tanh, the default.",
    "expect": r"exploding|non_finite|forward_drift",
}


class Tagger(nn.Module):
    activation: object

    @nn.compact
    def __call__(self, x):
        cell = nn.OptimizedLSTMCell(128, activation_fn=self.activation)
        return nn.Dense(3)(nn.RNN(cell)(x)[:, -1])


def _make(activation):
    model = Tagger(activation)
    x = 8.0 * jax.random.normal(jax.random.key(1), (8, 500, 12))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    return loss, params, (x, jnp.arange(8) % 3)


def make_loss():
    return _make(nn.relu)


def make_fixed():
    return _make(nn.tanh)


def shows(value, grads):
    total = np.sqrt(
        sum(np.sum(np.square(np.asarray(g, np.float64))) for g in jax.tree.leaves(grads))
    )
    print("      loss", value, "gradient norm", total)
    return not np.isfinite(value) or not np.isfinite(total) or total > 1e4
