"""A critic with a gradient penalty; between real and fake it is flat in places."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "keras-team/keras-io#910 (also pytorch/pytorch#2534, tdeboissiere/DeepLearningImplementations#68)",
    "symptom": "after some steps the critic's loss and weights are nan",
    "truth": "where every ReLU of the critic is off its input gradient is exactly 0; the norm of it "
    "is sqrt(0), whose slope is inf: nan in second-order gradients. At the norm line of the "
    "penalty. Fix: sqrt(sum + 1e-12).",
    "expect": r"non_finite",
}


def _make(epsilon):
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "w0": 0.5 * jax.random.normal(keys[0], (6, 16)),
        "b0": jnp.full(16, -2.5),
        "w1": 0.4 * jax.random.normal(keys[1], (16, 1)),
    }
    real = jax.random.normal(keys[2], (32, 6))
    fake = 0.1 * jax.random.normal(keys[3], (32, 6))
    mix = jax.random.uniform(keys[4], (32, 1))

    def critic(params, x):
        return (jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"])[..., 0]

    def loss(params, real, fake, mix):
        between = mix * real + (1 - mix) * fake
        slope = jax.vmap(jax.grad(critic, 1), (None, 0))(params, between)
        norm = jnp.sqrt(jnp.sum(slope**2, axis=-1) + epsilon)  # fault
        wasserstein = critic(params, fake).mean() - critic(params, real).mean()
        return wasserstein + 10 * jnp.mean((norm - 1) ** 2)

    return loss, params, (real, fake, mix)


def make_loss():
    return _make(0.0)


def make_fixed():
    return _make(1e-12)


def shows(value, grads):
    return np.isfinite(value) and np.isnan(grads["w0"]).any()
