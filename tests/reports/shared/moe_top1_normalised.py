"""A mixture of experts whose routing weights are normalised over the one expert chosen (Linen)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "jingyaogong/minimind#858 and #859 (also databricks/megablocks#87)",
    "symptom": "the experts do not specialise, the balancing loss sits at its minimum",
    "truth": "with one expert a token the weight divided by its own sum is 1: the router has no "
    "gradient from the task (rounding leaves some 1e-10 of the experts'), only from the "
    "balancing loss. At the normalisation (line 30). Fix: do not normalise for k = 1.",
    "expect": r"dead_gradient|vanishing",
}


class Experts(nn.Module):
    normalise: bool
    width: int = 16
    count: int = 4

    @nn.compact
    def __call__(self, x):
        scores = nn.softmax(nn.Dense(self.count, use_bias=False, name="router")(x))
        best, which = jax.lax.top_k(scores, 1)
        chosen = jax.nn.one_hot(which, self.count)
        balance = self.count * jnp.sum(chosen.mean((0, 1)) * scores.mean(0))
        if self.normalise:
            best = best / (jnp.sum(best, -1, keepdims=True) + 1e-20)  # fault
        init = nn.initializers.lecun_normal(batch_axis=(0,))
        up = self.param("up", init, (self.count, self.width, 2 * self.width))
        down = self.param("down", init, (self.count, 2 * self.width, self.width))
        h = nn.silu(jnp.einsum("bd,edf->ebf", x, up))
        h = jnp.einsum("ebf,efd->ebd", h, down)
        return x + jnp.einsum("bke,bk,ebd->bd", chosen, best, h), balance


def _make(normalise):
    model = Experts(normalise)
    x, y = jax.random.normal(jax.random.key(1), (2, 64, 16))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y, share):
        out, balance = model.apply({"params": params}, x)
        return jnp.mean((out - y) ** 2) + share * balance

    return loss, params, (x, y, 5e-4)


def make_loss():
    return _make(True)


def make_fixed():
    return _make(False)


def shows(value, grads, loss, params, args):
    alone = jax.grad(loss)(params, *args[:2], 0.0)
    size = {name: np.linalg.norm(jax.tree.leaves(g)[0]) for name, g in alone.items()}
    print("      gradients of the task alone:", size)
    return size["router"] < 1e-6 * size["down"]
