"""A VAE whose Bernoulli likelihood is written with probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "hwalsuklee/tensorflow-mnist-VAE#4 (also keras-team/keras#377, mkocabas/focal-loss-keras#17)",
    "symptom": "the loss is finite for some epochs and then nan",
    "truth": "a logit over about 17 makes sigmoid exactly 1 in float32, and log(1 - 1) is -inf "
    "(times 0 it is nan). At the line of the likelihood, op log. Fix: the cross entropy from "
    "logits.",
    "expect": r"non_finite",
}


def _make(likelihood):
    keys = jax.random.split(jax.random.key(0), 6)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {
        "encoder": {
            "hidden": n(keys[0], 64, 32),
            "mean": n(keys[1], 32, 4),
            "logvar": 0.1 * n(keys[2], 32, 4),
        },
        "decoder": {"hidden": n(keys[3], 4, 32), "out": 12.0 * n(keys[4], 32, 64)},
    }
    x = (jax.random.uniform(keys[5], (16, 64)) > 0.5).astype(jnp.float32)

    def loss(params, x, noise):
        h = jax.nn.relu(x @ params["encoder"]["hidden"])
        mean, logvar = h @ params["encoder"]["mean"], h @ params["encoder"]["logvar"]
        z = mean + jnp.exp(0.5 * logvar) * noise
        h = jax.nn.relu(z @ params["decoder"]["hidden"])
        logits = h @ params["decoder"]["out"]
        kl = 0.5 * jnp.sum(jnp.exp(logvar) + mean**2 - 1 - logvar, -1)
        return jnp.mean(likelihood(x, logits) + kl)

    return loss, params, (x, jax.random.normal(jax.random.key(9), (16, 4)))


def make_loss():
    def likelihood(x, logits):
        y = jax.nn.sigmoid(logits)
        return -jnp.sum(x * jnp.log(y) + (1 - x) * jnp.log(1 - y), -1)  # fault

    return _make(likelihood)


def make_fixed():
    return _make(lambda x, t: jnp.sum(jax.nn.softplus(t) - x * t, -1))


def shows(value, grads):
    return not np.isfinite(value)
