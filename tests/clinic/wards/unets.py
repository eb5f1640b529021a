"""Diffusion U-Nets and score networks, healthy ones and sick ones."""

import itertools
import math
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, normal, sick

BATCH = 8
zeros = nn.initializers.zeros


def pictures(size=8, channels=3):
    """Smooth pictures, one a row."""
    grid = jnp.linspace(-1, 1, size)
    a, b, c = normal((3, BATCH, 1, 1, channels), 1)
    x, y = grid[None, :, None, None], grid[None, None, :, None]
    return jnp.sin(2 * a * x + c) * jnp.cos(2 * b * y)


def angles(t, size=16, scale=1000.0):
    """Sines and cosines of the time."""
    f = jnp.exp(-math.log(10000.0) * jnp.arange(size // 2) / (size // 2))
    a = scale * t[:, None] * f
    return jnp.concatenate([jnp.sin(a), jnp.cos(a)], -1)


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


class Unet(nn.Module):
    """DDPM's U-Net, small: group norms, times, one level down, and last layers of zeros."""

    width: int = 16
    kernels: Any = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    last: Any = zeros
    norm: bool = True
    bias: float = 0.0
    activation: Any = nn.silu
    blocks: int = 1
    raw: bool = False
    squeeze: bool = False

    @nn.compact
    def __call__(self, x, t):
        conv = lambda n, **kw: nn.Conv(n, (3, 3), kernel_init=self.kernels, **kw)  # noqa: E731
        norm = lambda h: nn.GroupNorm(4)(h) if self.norm else h  # noqa: E731
        bias = nn.initializers.constant(self.bias)
        if self.raw:
            c = nn.tanh(nn.Dense(32)(1000.0 * jnp.stack([t, t**2], -1)))
        else:
            c = nn.silu(nn.Dense(32)(angles(t)))
        c = self.activation(nn.Dense(32)(c))

        def block(h, n):
            r = conv(n, bias_init=bias)(self.activation(norm(h)))
            r = r + nn.Dense(n)(c)[:, None, None]
            r = self.activation(norm(r))
            r = nn.Conv(n, (3, 3), kernel_init=self.last)(r)
            return r + (h if h.shape[-1] == n else nn.Conv(n, (1, 1))(h))

        h = conv(self.width)(x)
        kept = [h]
        for _ in range(self.blocks):
            h = block(h, self.width)
            kept.append(h)
        h = nn.Conv(2 * self.width, (3, 3), strides=(2, 2), kernel_init=self.kernels)(h)
        h = block(h, 2 * self.width)
        if self.squeeze:
            g = h.mean(axis=(1, 2))[..., None]
            g = (g - g.mean(-1, keepdims=True)) * jax.lax.rsqrt(g.var(-1, keepdims=True) + 1e-5)
            h = h * nn.sigmoid(nn.Dense(h.shape[-1])(g[..., 0]))[:, None, None]
        h = jax.image.resize(h, (*kept[-1].shape[:3], h.shape[-1]), "nearest")
        h = conv(self.width)(h)
        for _ in range(self.blocks):
            h = block(jnp.concatenate([h, kept.pop()], -1), self.width)
        return nn.Conv(x.shape[-1], (3, 3), kernel_init=self.last)(self.activation(norm(h)))


def ddpm(**settings):
    """DDPM's loss with a cosine schedule."""
    module = Unet(**settings)
    x, noise = pictures(), normal((BATCH, 8, 8, 3), 2)
    t = jnp.linspace(0.02, 0.98, BATCH)
    params = module.init(jax.random.key(0), x, t)["params"]

    def loss(p, x, noise, t):
        a = (t * jnp.pi / 2)[:, None, None, None]
        noisy = jnp.cos(a) * x + jnp.sin(a) * noise
        return jnp.mean((module.apply({"params": p}, noisy, t) - noise) ** 2)

    return Patient(loss, params, (x, noise, t))


def layers(seed, sizes, last=1.0):
    """He weights of a plain network."""
    params = [
        {"kernel": normal((n, m), seed + i, (2 / n) ** 0.5), "bias": jnp.zeros((1, m))}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]
    params[-1]["kernel"] *= last
    return params


def mlp(params, x, activation=jax.nn.silu):
    """A plain network."""
    for p in params[:-1]:
        x = activation(x @ p["kernel"] + p["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def edm():
    """Karras's preconditioned denoiser on points of a spiral, sigmas over five decades."""
    t = jnp.linspace(0, 9, 64)
    x = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], -1) / 9
    sigma = jnp.exp(jnp.linspace(math.log(0.002), math.log(80.0), 64))[:, None]
    features = normal((1, 16), 3)

    def loss(p, x, noise):
        skip = 0.25 / (sigma**2 + 0.25)
        out, scale = sigma * 0.5 / jnp.sqrt(sigma**2 + 0.25), 1 / jnp.sqrt(sigma**2 + 0.25)
        a = 2 * jnp.pi * jnp.log(sigma) / 4 * features
        noisy = x + sigma * noise
        h = jnp.concatenate([scale * noisy, jnp.cos(a), jnp.sin(a)], -1)
        d = skip * noisy + out * mlp(p, h)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return jnp.mean(weight * (d - x) ** 2)

    return Patient(loss, layers(0, (34, 64, 64, 2), 0.1), (x, normal((64, 2), 2)))


def score(low=0.01, zero=False, depth=3, activation=jax.nn.silu, trains=0, gain=1.0):
    """A noise-conditional score network, its output divided by sigma."""
    params = layers(0, (3,) + (64,) * depth + (2,))
    params = jax.tree.map(lambda w: gain * w, params)
    sigma = jnp.exp(jnp.linspace(math.log(low), 0.0, 64))[:, None]
    sigma = sigma.at[0].set(0.0) if zero else sigma

    def loss(p, x, noise, sigma):
        noisy = x + sigma * noise
        s = mlp(p, jnp.concatenate([noisy, jnp.log(sigma + 1e-3)], -1), activation) / sigma
        return jnp.mean((sigma * s + noise) ** 2)

    angle = jnp.linspace(0, 2 * jnp.pi, 64)
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    patient = Patient(loss, params, (x, normal((64, 2), 2), sigma))
    return trained(patient, optax.adam(1e-3), trains) if trains else patient


class Series(nnx.Module):
    """A U-Net of one dimension for rectified flows, in NNX."""

    def __init__(self, rngs, width=16):
        """Draw the weights."""
        conv = lambda n, m, **kw: nnx.Conv(n, m, (3,), rngs=rngs, **kw)  # noqa: E731
        self.time = nnx.Linear(16, width, rngs=rngs)
        self.first = conv(2, width)
        self.down = conv(width, width, strides=(2,))
        self.middle = conv(width, width)
        self.up = conv(width, width)
        self.norms = nnx.List([nnx.GroupNorm(width, num_groups=4, rngs=rngs) for _ in range(3)])
        self.last = conv(2 * width, 2, kernel_init=zeros)

    def __call__(self, x, t):
        """The velocity."""
        c = nnx.silu(self.time(angles(t)))[:, None]
        a = nnx.silu(self.norms[0](self.first(x))) + c
        b = nnx.silu(self.norms[1](self.down(a)))
        b = b + nnx.silu(self.norms[2](self.middle(b) + c))
        b = self.up(jnp.repeat(b, 2, axis=1))
        return self.last(jnp.concatenate([a, b], -1))


def rectified():
    """A rectified flow of series, after a few dozen steps."""
    graph, params = nnx.split(Series(nnx.Rngs(0)))
    x = pictures(16, 2)[:, 0]
    noise, t = normal(x.shape, 2), jnp.linspace(0.05, 0.95, BATCH)

    def loss(p, x, noise, t):
        s = t[:, None, None]
        velocity = nnx.merge(graph, p, copy=True)((1 - s) * noise + s * x, t)
        return jnp.mean((velocity - (x - noise)) ** 2)

    return trained(Patient(loss, params, (x, noise, t)), optax.adam(1e-3), 40)


class Segment(eqx.Module):
    """The first U-Net: rectifiers and He's weights."""

    convs: list
    up: eqx.nn.ConvTranspose2d
    last: eqx.nn.Conv2d

    def __init__(self, key):
        """Draw the weights."""
        keys = jax.random.split(key, 7)
        sizes = ((3, 8), (8, 8), (8, 16), (16, 16), (16, 8))
        self.convs = []
        for k, (n, m) in zip(keys, sizes, strict=False):
            conv = eqx.nn.Conv2d(n, m, 3, padding=1, key=k)
            kernel = normal(conv.weight.shape, n + m, (2 / (9 * n)) ** 0.5)
            self.convs.append(eqx.tree_at(lambda c: c.weight, conv, kernel))
        self.up = eqx.nn.ConvTranspose2d(16, 8, 2, stride=2, key=keys[5])
        self.last = eqx.nn.Conv2d(8, 1, 1, key=keys[6])

    def __call__(self, x):
        """The logits of one picture."""
        a, b, c, d, e = self.convs
        x = kept = jax.nn.relu(b(jax.nn.relu(a(x))))
        x = x.reshape(8, 4, 2, 4, 2).max((2, 4))
        x = self.up(jax.nn.relu(d(jax.nn.relu(c(x)))))
        return self.last(jax.nn.relu(e(jnp.concatenate([x, kept]))))


def segmentation():
    """Which pixels are bright, by the first U-Net, in Equinox."""
    params, static = eqx.partition(Segment(jax.random.key(0)), eqx.is_inexact_array)
    x = pictures().transpose(0, 3, 1, 2)

    def loss(p, x, labels):
        logits = jax.vmap(eqx.combine(p, static))(x)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    return Patient(loss, params, (x, (x.sum(1, keepdims=True) > 0).astype(float)))


def schedule(start=2.0):
    """A variational diffusion whose schedule is learned: sigma is a root of a sigmoid."""
    params = {"net": layers(0, (3, 64, 64, 2)), "gamma": jnp.array([[-start, start]])}

    def loss(p, x, noise, t):
        low, high = p["gamma"][:, :1], p["gamma"][:, 1:]
        gamma = low + (high - low) * t
        alpha, sigma = jnp.sqrt(1 - jax.nn.sigmoid(gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
        guess = mlp(p["net"], jnp.concatenate([alpha * x + sigma * noise, t], -1))
        return jnp.mean((guess - noise) ** 2)

    x, noise = normal((64, 2), 1), normal((64, 2), 2)
    return Patient(loss, params, (x, noise, jnp.linspace(0, 1, 64)[:, None]))


def stuck():
    """A schedule begun at +-40: 1 - sigmoid(40) is 0, whose root has no slope."""
    return sick(schedule(40.0), "non_finite", "gamma")


def wild():
    """All convolutions of N(0, 1) and no norms."""
    init = nn.initializers.normal(1.0)
    patient = ddpm(kernels=init, last=init, norm=False)
    return sick(patient, "exploding", "", "forward_drift", "rank_collapse", "saturated")


def squeezed():
    """Squeeze and excitation behind a norm of one number: it sees nothing of the picture."""
    return sick(
        ddpm(squeeze=True, last=nn.initializers.lecun_normal()), "norm", "", "vanishing",
        "dead_gradient", "rank_collapse",
    )  # fmt: skip


def raw_time():
    """Times up to 1000 go straight into a tanh."""
    return sick(
        ddpm(raw=True, last=nn.initializers.lecun_normal()), "saturated", "Dense_0", "vanishing",
        "rank_collapse", "forward_drift",
    )  # fmt: skip


def dead():
    """A U-Net of rectifiers without norms, whose blocks' biases have sunk to -30."""
    return sick(
        ddpm(bias=-30.0, activation=nn.relu, norm=False, last=nn.initializers.lecun_normal()),
        "dead_units", "Conv_", "vanishing", "rank_collapse", "dead_gradient", "forward_drift",
    )  # fmt: skip


def equal_kernels():
    """All kernels 0.02: all channels of a layer are one."""
    patient = ddpm()
    params = jax.tree.map(lambda w: jnp.full(w.shape, 0.02) if w.ndim > 1 else w, patient.params)
    also = ("rank_collapse", "norm", "vanishing", "dead_gradient")
    return sick(patient._replace(params=params), "symmetry", "", *also)


PATIENTS = {
    "ddpm": ddpm,
    "ddpm, trained": lambda: trained(ddpm(), optax.adam(1e-3), 30),
    "edm": edm,
    "score network, trained": lambda: score(trains=40),
    "rectified flow, trained, nnx": rectified,
    "segmentation, equinox": segmentation,
    "learned schedule": schedule,
    "schedule stuck": stuck,
    "sigma of 0": lambda: sick(score(zero=True), "non_finite", ""),
    "score network of twelve sigmoids": lambda: sick(
        score(depth=12, activation=jax.nn.sigmoid, gain=0.7), "vanishing", "[0]", "rank_collapse",
        "forward_drift",
    ),
    "all N(0, 1), no norms": wild,
    "squeeze of one number": squeezed,
    "raw times": raw_time,
    "dead rectifiers": dead,
    "equal kernels": equal_kernels,
}  # fmt: skip
