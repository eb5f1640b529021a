"""A diffusion model (v-prediction) weighted by min-SNR, whose last step has no signal at all."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "kohya-ss/sd-scripts#934 (and #673), TiankaiHang/Min-SNR-Diffusion-Training#4, "
    "huggingface/diffusers#5096",
    "symptom": "the loss goes to nan as soon as the last time step is drawn",
    "truth": "with a schedule rescaled to zero terminal SNR the weight min(snr, 5) / snr is 0 / 0 "
    "there. It is made of the data alone; the network's output is finite. At the weight (line 20). "
    "Fix: min(snr, 5) / (snr + 1) in one step.",
    "expect": r"non_finite",
}
KEEP = jnp.linspace(0.999, 0.0, 20) ** 2  # of the signal's variance, by time step


def two_steps(snr):
    weight = jnp.minimum(snr, 5.0) / snr  # fault
    return weight * snr / (snr + 1)


def one_step(snr):
    return jnp.minimum(snr, 5.0) / (snr + 1)


def _make(weight_of):
    keys = jax.random.split(jax.random.key(0), 6)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {"in": n(keys[0], 9, 64), "mid": n(keys[1], 64, 64), "out": n(keys[2], 64, 8)}
    image, noise = jax.random.normal(keys[3], (2, 32, 8))
    time = jax.random.randint(keys[4], (32,), 0, 20).at[5].set(19)

    def loss(params, image, noise, time):
        keep = KEEP[time][:, None]
        noisy = keep**0.5 * image + (1 - keep) ** 0.5 * noise
        target = keep**0.5 * noise - (1 - keep) ** 0.5 * image
        h = jnp.concatenate([noisy, time[:, None] / 20], -1)
        h = jax.nn.silu(h @ params["in"])
        h = jax.nn.silu(h @ params["mid"])
        error = jnp.mean((h @ params["out"] - target) ** 2, -1)
        return jnp.mean(weight_of(keep[:, 0] / (1 - keep[:, 0])) * error)

    return loss, params, (image, noise, time)


def make_loss():
    return _make(two_steps)


def make_fixed():
    return _make(one_step)


def shows(value, grads):
    return np.isnan(value) and all(np.isnan(g).any() for g in jax.tree.leaves(grads))
