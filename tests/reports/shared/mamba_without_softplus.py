"""A selective state-space layer whose step size is not made positive (Linen, scan over time)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "alxndrTL/mamba.py#53 (also state-spaces/mamba#72)",
    "symptom": "exp(delta * A) is very large, the loss becomes nan",
    "truth": "softplus was forgotten: where delta is under 0, exp(delta * A) is over 1 and the state "
    "grows at every step, out of float32 within 40. At the exp (line 30). Fix: softplus.",
    "expect": r"exploding|non_finite|forward_drift",
}


class Selective(nn.Module):
    positive: object
    states: int = 8

    @nn.compact
    def __call__(self, x):
        time, batch, width = x.shape
        log_a = self.param(
            "log_a", lambda key: jnp.log(jnp.tile(jnp.arange(1.0, self.states + 1), (width, 1)))
        )
        delta = self.positive(nn.Dense(width, name="delta")(x))
        into, out = jnp.split(nn.Dense(2 * self.states, name="b_and_c")(x), 2, -1)

        def step(h, t):
            x, delta, into, out = t
            keep = jnp.exp(-delta[..., None] * jnp.exp(log_a))  # fault
            h = keep * h + (delta * x)[..., None] * into[:, None]
            return h, jnp.sum(h * out[:, None], -1)

        return jax.lax.scan(step, jnp.zeros((batch, width, self.states)), (x, delta, into, out))[1]


class Net(nn.Module):
    positive: object

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16, name="embed")(x)
        x = x + Selective(self.positive, name="ssm")(x)
        return nn.Dense(4, name="head")(x)


def _make(positive, time=40):
    model = Net(positive)
    x = jax.random.normal(jax.random.key(1), (time, 8, 6))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)[-1]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), y])

    return loss, params, (x, jnp.arange(8) % 4)


def make_loss():
    return _make(lambda d: d)


def make_fixed():
    return _make(lambda d: jax.nn.softplus(d - 3))


def shows(value, grads):
    size = {name: np.linalg.norm(jax.tree.leaves(g)[-1]) for name, g in grads.items()}
    print("      gradients:", size)
    return not (np.isfinite(value) and value < 1e3)
