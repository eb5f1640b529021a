"""A deep encoder that normalises after each residual sum, drawn by xavier_uniform."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "pytorch/pytorch#55270 (also LiyuanLucasLiu/Transformer-Clinic#16)",
    "symptom": "does not train with more than 12 layers and no warm-up, its loss stays on a plateau",
    "truth": "measured here with plain jax.grad: the values, the feed-forward layers and the "
    "stream keep their gradient, but attention averages the tokens until they are one (mean cosine "
    "in a sequence 0.10, 0.97, 0.9997, 1.0000 at layers 0, 4, 12, 20), and the gradients of q and k "
    "fall from 0.27 in layer 0 to 4e-6 in layer 23. Fix: LayerNorm inside the branch (pre-LN: "
    "0.82, and 0.22).",
    "expect": r"rank_collapse|vanishing",
}

LAYERS, WIDTH, HEADS, LENGTH = 24, 32, 4, 12


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attention(x, p):
    split = lambda t: t.reshape(*t.shape[:2], HEADS, -1).swapaxes(1, 2)
    q, k, v = (split(x @ p[name]) for name in ("q", "k", "v"))
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / (WIDTH / HEADS) ** 0.5, -1)
    return (weights @ v).swapaxes(1, 2).reshape(x.shape) @ p["o"]


def feed_forward(x, p):
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def _make(pre):
    def xavier(key, *shape):
        bound = (6 / sum(shape)) ** 0.5
        return jax.random.uniform(key, (LAYERS, *shape), minval=-bound, maxval=bound)

    keys = jax.random.split(jax.random.key(0), 8)
    ln = lambda: {"scale": jnp.ones((LAYERS, WIDTH)), "bias": jnp.zeros((LAYERS, WIDTH))}
    params = {
        "layers": {
            "attention": {n: xavier(k, WIDTH, WIDTH) for n, k in zip("qkvo", keys[:4])},
            "ffn": {
                "up": xavier(keys[4], WIDTH, 4 * WIDTH),
                "down": xavier(keys[5], 4 * WIDTH, WIDTH),
            },
            "norm1": ln(),
            "norm2": ln(),
        },
        "head": jax.random.normal(keys[6], (WIDTH, 10)) / WIDTH**0.5,
    }
    x = jax.random.normal(keys[7], (4, LENGTH, WIDTH))

    def loss(params, x, y):
        def layer(x, p):
            if pre:
                x = x + attention(norm(x, p["norm1"]), p["attention"])
                x = x + feed_forward(norm(x, p["norm2"]), p["ffn"])
            else:
                x = norm(x + attention(x, p["attention"]), p["norm1"])
                x = norm(x + feed_forward(x, p["ffn"]), p["norm2"])
            return x, None

        x, _ = jax.lax.scan(layer, x, params["layers"])
        logits = x @ params["head"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1))

    y = jax.random.randint(jax.random.key(9), (4, LENGTH), 0, 10)
    return loss, params, (x, y)


def make_loss():
    return _make(False)


def make_fixed():
    return _make(True)


def shows(value, grads):
    size = np.linalg.norm(np.asarray(grads["layers"]["attention"]["q"]), axis=(1, 2))
    print("      gradient of q, last / first layer:", size[-1] / size[0])
    return size[-1] < 1e-3 * size[0]
