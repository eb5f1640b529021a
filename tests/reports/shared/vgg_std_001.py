"""A plain deep CNN with every kernel drawn from N(0, 0.01)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "kuangliu/pytorch-cifar#28, NVIDIA/DIGITS#535 (VGG16 without batch norm)",
    "symptom": "accuracy stays at chance, the loss at log(classes)",
    "truth": "a standard deviation of 0.01 is far under sqrt(2 / fan_in): signal and gradient "
    "shrink at every convolution. Everywhere, from the first convolution on. Fix: He "
    "initialisation (or batch norm).",
    "expect": r"vanishing|forward_drift",
}


class Vgg(nn.Module):
    draw: object

    @nn.compact
    def __call__(self, x):
        for width, count in ((16, 2), (32, 2), (32, 3), (32, 3)):
            for _ in range(count):
                x = nn.relu(nn.Conv(width, (3, 3), kernel_init=self.draw)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(64, kernel_init=self.draw)(x))
        return nn.Dense(10, kernel_init=self.draw)(x)


def _make(init):
    model = Vgg(init)
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    return loss, params, (x, jnp.arange(8) % 10)


def make_loss():
    return _make(nn.initializers.normal(0.01))


def make_fixed():
    return _make(nn.initializers.he_normal())


def shows(value, grads):
    first = np.linalg.norm(grads["Conv_0"]["kernel"])
    print(
        "      first kernel's gradient:",
        first,
        " last bias's:",
        np.linalg.norm(grads["Dense_1"]["bias"]),
    )
    return first < 1e-8
