"""Half precision, clips and reductions: the loss's last lines and the optimiser's first."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.reports.report import Report


def _broken(tree):
    return any(not np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


# ----------------------------------------------------------------------- Adam on float16 parameters


def _adam():
    return optax.adam(1e-3)  # fault: adam_in_half


def _regress(dtype):
    keys = jax.random.split(jax.random.key(0), 5)
    sizes = [(13, 64), (64, 64), (64, 1)]
    params = [
        {
            "w": (jax.random.normal(key, size) * np.sqrt(2 / size[0])).astype(dtype),
            "b": jnp.zeros(size[1], dtype),
        }
        for key, size in zip(keys, sizes, strict=False)
    ]
    x = jax.random.normal(keys[3], (64, 13)).astype(jnp.float16)
    y = 0.5 * jax.random.normal(keys[4], (64,))

    def loss(params, x, y):
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"].astype(x.dtype) + layer["b"].astype(x.dtype))
        last = params[-1]
        out = (x @ last["w"].astype(x.dtype) + last["b"].astype(x.dtype))[:, 0]
        return jnp.square(out.astype(jnp.float32) - y).mean()

    return loss, params, (x, y)


def make_adam_in_half():
    """Make a network with float16 parameters, on which Adam's epsilon of 1e-8 is 0."""
    return _regress(jnp.float16)


def fixed_adam_in_half():
    """Make the same network with float32 parameters, computed in float16."""
    return _regress(jnp.float32)


def _adam_breaks(value, grads):
    optimizer = _adam()
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    return not _broken(grads) and _broken(updates)


# ---------------------------------------------------------- a mean over more than float16 can count


class Autoencoder(nn.Module):
    """Strided convolutions down and up again."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(8, (5, 5), strides=4)(x))
        x = nn.gelu(nn.Conv(16, (3, 3))(x))
        x = nn.gelu(nn.ConvTranspose(8, (5, 5), strides=(4, 4))(x))
        return nn.Conv(1, (3, 3))(x)


def _reconstruct(loss_dtype):
    model = Autoencoder()
    x = jax.random.uniform(jax.random.key(1), (32, 48, 48, 1))
    params = model.init(jax.random.key(0), x)["params"]

    valid = jnp.ones(x.shape, bool).at[3, 20:24, 20:24].set(False)

    def loss(params, x, valid):
        error = (model.apply({"params": params}, x) - x).astype(loss_dtype)
        weight = valid.astype(loss_dtype)
        return jnp.sum(jnp.square(error) * weight) / jnp.sum(weight)  # fault: count_in_half

    return loss, params, (x, valid)


def make_count_in_half():
    """Make a mean squared error in float16 over 73712 pixels, a count that is inf there."""
    return _reconstruct(jnp.float16)


def fixed_count_in_half():
    """Make the same error in float32."""
    return _reconstruct(jnp.float32)


# ------------------------------------------------------------- a clip that float32 cannot represent


class Copier(nnx.Module):
    """Two leaky layers from a sequence with its raw length to the bits to write."""

    def __init__(self, rngs):
        """Draw the weights."""
        he = nnx.initializers.he_normal()
        self.first = nnx.Linear(17, 64, kernel_init=he, rngs=rngs)
        self.second = nnx.Linear(64, 64, kernel_init=he, rngs=rngs)
        self.out = nnx.Linear(64, 8, rngs=rngs)

    def __call__(self, x):
        h = nnx.leaky_relu(self.second(nnx.leaky_relu(self.first(x))))
        return nnx.sigmoid(self.out(h))


def _copy(edge):
    graph, params = nnx.split(Copier(nnx.Rngs(0)), nnx.Param)
    bits = jax.random.bernoulli(jax.random.key(1), 0.5, (32, 16)).astype(jnp.float32)
    length = jnp.where(jnp.arange(32) == 7, 120.0, 1 + jnp.arange(32) % 4)
    x = jnp.concatenate([bits, length[:, None]], 1)

    def loss(params, x, y):
        p = nnx.merge(graph, params)(x)
        p = jnp.clip(p, edge, 1 - edge)  # fault: clip_below_precision
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    return loss, params, (x, bits[:, :8])


def make_clip_below_precision():
    """Make a cross-entropy of probabilities clipped to 1 - 1e-10, which is 1 in float32."""
    return _copy(1e-10)


def fixed_clip_below_precision():
    """Make the same cross-entropy, clipped to 1 - 1e-6."""
    return _copy(1e-6)


# --------------------------------------------------------------------- a sum where a mean was meant


def _classifier_params():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "hidden": {"w": jax.random.normal(keys[0], (64, 128)) / 8, "b": jnp.zeros(128)},
        "out": {"w": jax.random.normal(keys[1], (128, 10)) / jnp.sqrt(128), "b": jnp.zeros(10)},
    }


def _classify(reduce):
    x = jax.random.normal(jax.random.key(1), (64, 64))
    y = jax.random.randint(jax.random.key(2), (64,), 0, 10)

    def loss(params, x, y):
        h = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
        logits = h @ params["out"]["w"] + params["out"]["b"]
        return reduce(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return loss, _classifier_params(), (x, y)


def make_summed_loss():
    """Make a loss summed over the batch, for SGD with the rate of a mean."""
    return _classify(lambda nll: nll.sum())  # fault: summed_loss


def fixed_summed_loss():
    """Make the same loss as a mean."""
    return _classify(lambda nll: nll.mean())


def _steps(updates):
    params = _classifier_params()
    return {
        name: float(jnp.linalg.norm(updates[name]["w"]) / jnp.linalg.norm(params[name]["w"]))
        for name in params
    }


def _sgd():
    return optax.sgd(0.1)


def _sgd_overshoots(value, grads):
    optimizer = _sgd()
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    return max(_steps(updates).values()) > 0.1


# ---------------------------------------------------------- gradients clipped while they are scaled


SCALE = 2.0**16


def _clipped_then_unscaled(params, grads):
    scaled = jax.tree.map(lambda g: SCALE * g, grads)  # as backward of the scaled loss gives them
    clip = optax.clip_by_global_norm(1.0)
    scaled, _ = clip.update(scaled, clip.init(params))  # fault: clipped_before_unscaling
    return jax.tree.map(lambda g: -0.1 * g / SCALE, scaled)


def make_clipped_before_unscaling():
    """Make a healthy loss whose scaled gradients are clipped to norm 1 and unscaled afterwards."""
    return _classify(lambda nll: nll.mean())


REPORTS = {
    "adam_in_half": Report(
        source="keras-team/keras#11860 (also chelsea0x3b/dfdx#748, pytorch/pytorch#8860)",
        symptom="with float16 the loss is nan after one step of Adam; SGD works",
        truth="in float16 the squares of small gradients underflow to 0 and so does epsilon 1e-8: "
        "Adam divides by 0. In the optimiser's step. Fix: float32 parameters (and state) computed "
        "in float16, or eps=1e-4.",
        kinds=("non_finite", "precision", "update_ratio"),
        make=make_adam_in_half,
        fixed=fixed_adam_in_half,
        shows=_adam_breaks,
        remedy=r"eps|float32|master|precision|bfloat16",
        optimizer=_adam,
    ),
    "count_in_half": Report(
        source="chelsea0x3b/dfdx#748",
        symptom="the loss is always 0 in float16",
        truth="a mean over 73712 pixels divides by their number, which exceeds float16's 65504 "
        "and is inf: the loss and every gradient are 0. At the division. Fix: the loss in float32.",
        kinds=("precision", "dead_gradient", "non_finite", "vanishing"),
        make=make_count_in_half,
        fixed=fixed_count_in_half,
        shows=lambda value, grads: float(value) == 0 and _largest(grads) == 0,
        remedy=r"float32|overflow|precision|mean|half|float16|inf|cast",
    ),
    "clip_below_precision": Report(
        source="snipsco/ntm-lasagne#20 (also keras-team/keras#377)",
        symptom="now and then the loss is nan in spite of the clip",
        truth="1 - 1e-10 is 1 in float32: a probability of 1 passes the clip, and log(1 - p) is "
        "-inf. At the clip and the logarithm after it. Fix: clip at 1e-6 (or a cross-entropy of "
        "logits).",
        kinds=("non_finite", "precision", "saturated"),
        make=make_clip_below_precision,
        fixed=fixed_clip_below_precision,
        shows=lambda value, grads: not np.isfinite(value) or _broken(grads),
        remedy=r"logit|clip|eps|log|sigmoid|1e-|precision",
    ),
    "summed_loss": Report(
        source="ShusenTang/Dive-into-DL-PyTorch#75",
        symptom="without a division by the batch size the training blows up",
        truth="the loss is a sum over the batch: the gradient is 64 times the mean's, and SGD at "
        "0.1 moves the weights by a large part of their own size. At the reduction (or the rate). "
        "Fix: the mean.",
        kinds=("update_ratio", "exploding"),
        make=make_summed_loss,
        fixed=fixed_summed_loss,
        shows=_sgd_overshoots,
        remedy=r"learning.?rate|rate|step|mean|sum|clip|smaller|divide",
        optimizer=_sgd,
    ),
    "clipped_before_unscaling": Report(
        source="milesial/Pytorch-UNet#468 (its effect: victorchall/EveryDream2trainer#175)",
        symptom="with mixed precision and clipping the training stands still",
        truth="the norm of 1 is applied to gradients scaled by 65536: after unscaling at most "
        "1 / 65536 is left of them. In the step, at the clip. Fix: unscale first. (The loss is "
        "healthy, so that there is no mended loss to show.)",
        kinds=("update_ratio",),
        make=make_clipped_before_unscaling,
        fixed=None,
        shows=lambda value, grads: (
            max(_steps(_clipped_then_unscaled(_classifier_params(), grads)).values()) < 1e-5
        ),
        remedy=r"rate|step|larger|clip|scale|update",
        updates=_clipped_then_unscaled,
    ),
}
