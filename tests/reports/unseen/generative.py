"""Reinforcement learning and generative models: clips, densities, deviations and codebooks."""

import equinox as eqx
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


# --------------------------------------------------------- DQN: the error is clipped, not its slope


class QNetwork(nn.Module):
    """Values of four actions."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64, kernel_init=nn.initializers.he_normal())(x))
        x = nn.relu(nn.Dense(64, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(4)(x)


def _q_learning(td_loss):
    model = QNetwork()
    keys = jax.random.split(jax.random.key(0), 5)
    state, following = jax.random.normal(keys[0], (2, 32, 8))
    action = jax.random.randint(keys[1], (32,), 0, 4)
    reward = jax.random.choice(keys[2], jnp.array([-10.0, 10.0, 20.0]), (32,))
    params = model.init(keys[3], state)["params"]
    target = model.init(keys[4], state)["params"]

    def loss(params, target, state, action, reward, following):
        best = model.apply({"params": target}, following).max(-1)
        goal = reward + 0.9 * best
        taken = jnp.take_along_axis(model.apply({"params": params}, state), action[:, None], 1)
        return td_loss(taken[:, 0], goal).mean()

    return loss, params, (target, state, action, reward, following)


def make_clipped_error():
    """Make a Q-learning loss that clips the error to [-1, 1] and then squares it."""
    return _q_learning(
        lambda q, goal: jnp.square(jnp.clip(goal - q, -1.0, 1.0))  # fault: clipped_error
    )


def fixed_clipped_error():
    """Make the same loss with Huber's function."""
    return _q_learning(optax.huber_loss)


# -------------------------------------------------------- mixture density: densities before the log


def _frames(log_density):
    keys = jax.random.split(jax.random.key(0), 6)
    count, bins = 5, 80
    params = {
        "hidden": {"w": jax.random.normal(keys[0], (20, 64)) / jnp.sqrt(20), "b": jnp.zeros(64)},
        "means": {
            "w": jax.random.normal(keys[1], (64, count * bins)) / 8,
            "b": 0.1 * jax.random.normal(keys[2], (count * bins,)),
        },
        "log_sigmas": {"w": 0.1 * jax.random.normal(keys[3], (64, count)) / 8},
        "weights": {"w": jax.random.normal(keys[4], (64, count)) / 8},
    }
    text, noise = jax.random.split(keys[5])
    text = jax.random.normal(text, (32, 20))
    mel = 2.0 * jax.random.normal(noise, (32, bins)) - 3.0

    def loss(params, text, mel):
        h = jnp.tanh(text @ params["hidden"]["w"] + params["hidden"]["b"])
        means = (h @ params["means"]["w"] + params["means"]["b"]).reshape(-1, count, bins)
        log_sigmas = h @ params["log_sigmas"]["w"]
        log_weights = jax.nn.log_softmax(h @ params["weights"]["w"])
        distance = jnp.square(mel[:, None] - means).sum(-1) / 2
        exponents = -distance * jnp.exp(-2 * log_sigmas) - bins * log_sigmas
        return -log_density(log_weights, exponents).mean() / bins

    return loss, params, (text, mel)


def make_density_underflow():
    """Make a mixture density network that sums densities and takes their logarithm."""
    return _frames(
        lambda log_weights, exponents: jnp.log(  # fault: density_underflow
            jnp.sum(jnp.exp(log_weights) * jnp.exp(exponents), -1)
        )
    )


def fixed_density_underflow():
    """Make the same network with logsumexp."""
    return _frames(
        lambda log_weights, exponents: jax.nn.logsumexp(log_weights + exponents, axis=-1)
    )


# ------------------------------------------------------------- GAN: the deviation of a batch of one


class Critic(eqx.Module):
    """Two convolutions, one more channel with the batch's mean deviation, and a score."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    third: eqx.nn.Conv2d
    score: eqx.nn.Linear

    def __init__(self, key):
        """Draw the weights."""
        keys = jax.random.split(key, 4)
        self.first = eqx.nn.Conv2d(3, 12, 3, stride=2, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(12, 16, 3, padding=1, key=keys[1])
        self.third = eqx.nn.Conv2d(17, 16, 3, stride=2, padding=1, key=keys[2])
        self.score = eqx.nn.Linear(16 * 16, 1, key=keys[3])

    def __call__(self, images):
        h = jax.nn.leaky_relu(jax.vmap(self.first)(images), 0.2)
        h = jax.nn.leaky_relu(jax.vmap(self.second)(h), 0.2)
        spread = jnp.std(h, 0).mean()  # fault: deviation_of_batch
        extra = jnp.full((len(h), 1, *h.shape[2:]), spread)
        h = jax.nn.leaky_relu(jax.vmap(self.third)(jnp.concatenate([h, extra], 1)), 0.2)
        return jax.vmap(self.score)(h.reshape(len(h), -1))[:, 0]


def _critic(batch):
    params, static = eqx.partition(Critic(jax.random.key(0)), eqx.is_array)
    real = jax.random.normal(jax.random.key(1), (batch, 3, 16, 16))
    fake = 0.5 * jax.random.normal(jax.random.key(2), (batch, 3, 16, 16)) + 0.2

    def loss(params, real, fake):
        critic = eqx.combine(params, static)
        on_real, on_fake = critic(real), critic(fake)
        return jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()

    return loss, params, (real, fake)


def make_deviation_of_batch():
    """Make a critic with a minibatch standard deviation on the one image left of an epoch."""
    return _critic(1)


def fixed_deviation_of_batch():
    """Make the same critic on a full batch."""
    return _critic(4)


# ------------------------------------------------- VQ-VAE: the codebook's loss on the wrong vectors


class Quantised(nnx.Module):
    """An encoder, a codebook of eight vectors and a decoder."""

    def __init__(self, rngs):
        """Draw the weights."""
        self.encoder = nnx.Sequential(
            nnx.Linear(24, 48, rngs=rngs), nnx.gelu, nnx.Linear(48, 4, rngs=rngs)
        )
        self.decoder = nnx.Sequential(
            nnx.Linear(4, 48, rngs=rngs), nnx.gelu, nnx.Linear(48, 24, rngs=rngs)
        )
        self.codebook = nnx.Param(0.4 * jax.random.normal(rngs.params(), (8, 4)))

    def __call__(self, x):
        z = self.encoder(x)
        book = self.codebook[...]
        nearest = jnp.argmin(jnp.square(z[:, None] - book).sum(-1), -1)
        code = book[nearest]
        passed = z + jax.lax.stop_gradient(code - z)
        return z, code, passed, self.decoder(passed)


def _quantised(of_passed):
    graph, params = nnx.split(Quantised(nnx.Rngs(1)), nnx.Param)
    x = jax.random.normal(jax.random.key(1), (64, 24))

    def loss(params, x):
        z, code, passed, again = nnx.merge(graph, params)(x)
        quantised = passed if of_passed else code
        pull = jnp.square(quantised - jax.lax.stop_gradient(z)).mean()  # fault: codebook_loss
        commit = jnp.square(z - jax.lax.stop_gradient(code)).mean()
        return jnp.square(again - x).mean() + pull + 0.25 * commit

    return loss, params, (x,)


def make_codebook_loss():
    """Make a VQ-VAE whose codebook loss is taken on the straight-through output."""
    return _quantised(True)


def fixed_codebook_loss():
    """Make the same VQ-VAE with that loss on the vectors looked up."""
    return _quantised(False)


# -------------------------------------------------------- contrast of features that have any length


class Projector(nn.Module):
    """An encoder with a projection head."""

    normalise: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(96, kernel_init=nn.initializers.he_normal())(x))
        x = nn.Dense(64, kernel_init=nn.initializers.he_normal())(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if self.normalise else x


def _contrast(normalise):
    model = Projector(normalise)
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (16, 32))
    views = jnp.concatenate([images, images])
    views = views + 0.7 * jax.random.normal(keys[1], views.shape)
    labels = jnp.tile(jnp.arange(16) % 4, 2)
    params = model.init(keys[2], views)["params"]

    def loss(params, views, labels):
        features = model.apply({"params": params}, views)
        logits = features @ features.T / 0.07
        logits = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
        others = 1.0 - jnp.eye(len(logits))
        same = (labels[:, None] == labels) * others
        total = jnp.sum(jnp.exp(logits) * others, 1, keepdims=True)
        log_probs = logits - jnp.log(total)  # fault: features_of_any_length
        return -jnp.mean((same * log_probs).sum(1) / same.sum(1))

    return loss, params, (views, labels)


def make_features_of_any_length():
    """Make a supervised contrastive loss on features that are not normalised."""
    return _contrast(False)


def fixed_features_of_any_length():
    """Make the same loss on unit vectors."""
    return _contrast(True)


# --------------------------------------- false alarm: stop_gradient in a straight-through estimator


def make_rounded_latents():
    """Make a compressor with rounded latents, whose rounding error alone is stopped."""
    keys = jax.random.split(jax.random.key(0), 5)
    sizes = [(32, 64), (64, 8), (8, 64), (64, 32)]
    params = [
        {"w": jax.random.normal(key, size) / jnp.sqrt(size[0]), "b": jnp.zeros(size[1])}
        for key, size in zip(keys, sizes, strict=False)
    ]
    x = jax.random.normal(keys[4], (32, 32))

    def loss(params, x):
        first, latent, back, last = params
        h = jnp.tanh(x @ first["w"] + first["b"])
        z = 3.0 * (h @ latent["w"] + latent["b"])
        z = z + jax.lax.stop_gradient(jnp.round(z) - z)
        h = jnp.tanh(z / 3.0 @ back["w"] + back["b"])
        return jnp.square(h @ last["w"] + last["b"] - x).mean()

    return loss, params, (x,)


REPORTS = {
    "clipped_error": Report(
        source="devsisters/DQN-tensorflow#16 (also spragunr/deep_q_rl#46)",
        symptom="the agent does not learn; large errors give no gradient",
        truth="clip has slope 0 outside its bounds: with rewards of tens every error is outside, "
        "and nothing has a gradient. At the clip. Fix: Huber's loss, which clips the slope.",
        kinds=("dead_gradient", "saturated"),
        make=make_clipped_error,
        fixed=fixed_clipped_error,
        shows=lambda value, grads: _largest(grads) == 0,
        remedy=r"clip|huber|bound|range|scale",
    ),
    "density_underflow": Report(
        source="keras-team/keras#1061 (also keras-team/keras#2586)",
        symptom="the loss of a mixture density network becomes inf, then nan",
        truth="a Gaussian of 80 dimensions underflows to 0 in float32 for every component, and "
        "log(0) is -inf, its slope 0 / 0. At the logarithm. Fix: logsumexp of the logarithms.",
        kinds=("non_finite",),
        make=make_density_underflow,
        fixed=fixed_density_underflow,
        shows=lambda value, grads: not np.isfinite(value) or _broken(grads),
        remedy=r"logsumexp|log_softmax|underflow|log.?(space|domain|sum|0)|epsilon|zero|small",
    ),
    "deviation_of_batch": Report(
        source="ziwei-jiang/PGGAN-PyTorch#1 (the same root: keras-team/keras#2960)",
        symptom="the loss is nan from the second epoch on",
        truth="the last batch of the epoch holds one image: its deviation from itself is 0, where "
        "the root's slope is infinite; times 0 it is nan. At the standard deviation. Fix: drop "
        "that batch, or sqrt(var + eps).",
        kinds=("non_finite",),
        make=make_deviation_of_batch,
        fixed=fixed_deviation_of_batch,
        shows=lambda value, grads: bool(np.isfinite(value)) and _broken(grads),
        remedy=r"eps|sqrt|root|variance|deviation|std|where|1e-|batch",
    ),
    "codebook_loss": Report(
        source="showlab/Olaf-World#8 (also lucidrains/vector-quantize-pytorch#47)",
        symptom="the codebook stays at its initialisation though the reconstruction improves",
        truth="in the straight-through output the code stands inside stop_gradient: the codebook's "
        "loss, taken on it, pulls the encoder only. At that loss. Fix: use the vectors looked up.",
        kinds=("dead_gradient",),
        make=make_codebook_loss,
        fixed=fixed_codebook_loss,
        shows=lambda value, grads: _largest(grads["codebook"]) == 0,
        params=r"codebook",
        remedy=r"stop_gradient|straight|detach|reach|path|depend|codebook|use",
    ),
    "features_of_any_length": Report(
        source="HobbitLong/SupContrast#104 (also HobbitLong/SupContrast#100)",
        symptom="the supervised contrastive loss is nan",
        truth="without normalisation a feature's product with itself over 0.07 exceeds all others "
        "by hundreds: all exponentials but the masked one underflow, log(0) is -inf, and inf * 0 "
        "nan. At the logarithm. Fix: normalise the features.",
        kinds=("non_finite",),
        make=make_features_of_any_length,
        fixed=fixed_features_of_any_length,
        shows=lambda value, grads: not np.isfinite(value) and _broken(grads),
        remedy=r"normali|log|underflow|logsumexp|temperature|mask|eps|zero|scale",
    ),
    "rounded_latents": Report(
        source="Justin-Tan/generative-compression#27",
        symptom="stop_gradient at the quantiser: the encoder is believed to get no gradient",
        truth="nothing is wrong: only the rounding error is stopped, the latent itself passes on.",
        kinds=(),
        make=make_rounded_latents,
        fixed=None,
        shows=lambda value, grads: float(jnp.abs(grads[0]["w"]).max()) < 1e-6,
    ),
}
