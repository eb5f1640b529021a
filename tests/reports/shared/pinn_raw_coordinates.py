"""A physics-informed network of time in seconds, 0 to 1000, as it comes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "pierremtb/PINNs-TF2.0#1 (also vsitzmann/siren#19; Stack Overflow 52800582)",
    "symptom": "the loss stays where it was; the solution is flat",
    "truth": "coordinates up to 1000 drive the first tanh into saturation, so that neither u nor "
    "its derivatives feel the weights. At the first tanh. Fix: scale the coordinate to [-1, 1] "
    "inside the network.",
    "expect": r"saturated|vanishing|dead_gradient",
}


def _make(scale):
    model = eqx.nn.MLP(1, 1, 32, 3, jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    t = jnp.linspace(1.0, 1000.0, 64)

    def loss(params, t):
        net = eqx.combine(params, static)
        u = lambda t: net((t / 500.0 - 1 if scale else t)[None])[0]
        rate = jax.vmap(jax.grad(u))(t)
        decay = jax.vmap(u)(t) / 300.0 + rate
        return jnp.mean((300.0 * decay) ** 2) + (u(jnp.zeros(())) - 1.0) ** 2

    loss.__name__ = "scaled" if scale else "raw"
    return loss, params, (t,)


def make_loss():
    return _make(False)


def make_fixed():
    return _make(True)


def shows(value, grads, loss, params, args):
    sizes = [float(np.linalg.norm(l.weight)) for l in grads.layers]
    t = np.asarray(args[0]) if loss.__name__ == "raw" else np.asarray(args[0]) / 500 - 1
    h = np.tanh(t[:, None] * np.asarray(params.layers[0].weight)[:, 0])
    share = np.mean(1 - h**2 < 0.01)
    print(
        "      share of first tanh with slope < 1 %:", share, " weight gradients:", np.array(sizes)
    )
    return share > 0.5
