"""Physics-informed networks, healthy ones and sick ones."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, normal, sick

POINTS = 48


def glorot(seed, sizes, gain=1.0, bias=0.0):
    """Layers with weights of Glorot's std."""
    return [
        {
            "kernel": normal((n, m), seed + i, gain * (2 / (n + m)) ** 0.5),
            "bias": jnp.full((1, m), bias),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]


def mlp(layers, x, activation=jnp.tanh):
    """A plain network."""
    for p in layers[:-1]:
        x = activation(x @ p["kernel"] + p["bias"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def uniform(n, low, high, seed):
    """Points of a box, one a row."""
    low, high = jnp.array(low, float), jnp.array(high, float)
    return low + (high - low) * jax.random.uniform(jax.random.key(seed), (n, len(low)))


def slopes(u, x):
    """Value, gradient and diagonal of the Hessian of u at the rows of x."""
    size = x.shape[-1]

    def along(x, i):
        e = jnp.eye(size)[i]
        first = lambda x: jax.jvp(u, (x,), (e,))[1]  # noqa: E731
        return jax.jvp(first, (x,), (e,))

    def one(x):
        pairs = [along(x, i) for i in range(size)]
        return u(x), jnp.stack([p[0] for p in pairs]), jnp.stack([p[1] for p in pairs])

    return jax.vmap(one)(x)


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def burgers_loss(net):
    """Burgers' equation on [-1, 1] with its first and boundary values."""

    def loss(params, inner, edge):
        u = lambda xt: net(params, xt[None])[0, 0]  # noqa: E731
        value, first, second = slopes(u, inner)
        residual = first[:, 1] + value * first[:, 0] - 0.01 / jnp.pi * second[:, 0]
        wanted = jnp.where(edge[:, 1] == 0, -jnp.sin(jnp.pi * edge[:, 0]), 0.0)
        return jnp.mean(residual**2) + jnp.mean((net(params, edge)[:, 0] - wanted) ** 2)

    inner = uniform(POINTS, (-1, 0), (1, 1), 1)
    start = uniform(16, (-1, 0), (1, 0), 2)
    sides = uniform(16, (1, 0), (1, 1), 3) * jnp.where(jnp.arange(32)[:16, None] % 2, 1, -1)
    sides = sides.at[:, 1].set(abs(sides[:, 1]))
    return loss, (inner, jnp.concatenate([start, sides]))


def burgers():
    """Burgers' equation, fresh: five layers of tanh."""
    loss, args = burgers_loss(mlp)
    return Patient(loss, glorot(0, (2, 20, 20, 20, 20, 1)), args)


def poisson(steps=60):
    """-u'' = f with the boundary built in, after a few dozen steps of Adam."""

    def loss(params, x):
        u = lambda x: (x * (1 - x))[0] * mlp(params, x[None])[0, 0]  # noqa: E731
        second = slopes(u, x)[2][:, 0]
        return jnp.mean((second + jnp.pi**2 * jnp.sin(jnp.pi * x[:, 0])) ** 2)

    patient = Patient(loss, glorot(0, (1, 24, 24, 1)), (uniform(POINTS, (0,), (1,), 1),))
    return trained(patient, optax.adam(1e-3), steps)


class Siren(nn.Module):
    """Sines with the published uniform weights, or with any others."""

    careful: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(self, x):
        for i in range(4):
            bound = 1 / x.shape[-1] if i == 0 else (6 / x.shape[-1]) ** 0.5 / 30
            init = lambda key, shape, dtype, bound=bound: jax.random.uniform(  # noqa: E731
                key, shape, dtype, -bound, bound
            )
            if not self.careful:
                init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
            x = jnp.sin(30.0 * nn.Dense(32, kernel_init=init, bias_init=nn.initializers.zeros)(x))
        bound = (6 / 32) ** 0.5 / 30
        last = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
        return nn.Dense(1, kernel_init=last)(x)


def siren(module=None):
    """Fits a field and its slope, as SIREN does for pictures."""
    module = module or Siren()
    x = uniform(128, (-1, -1), (1, 1), 1)
    params = module.init(jax.random.key(0), x)["params"]

    def loss(params, x):
        u = lambda x: module.apply({"params": params}, x[None])[0, 0]  # noqa: E731
        value, slope = jax.vmap(jax.value_and_grad(u))(x)
        wave = jnp.sin(4 * x[:, 0]) * jnp.cos(3 * x[:, 1])
        wanted = jnp.stack(
            [
                4 * jnp.cos(4 * x[:, 0]) * jnp.cos(3 * x[:, 1]),
                -3 * jnp.sin(4 * x[:, 0]) * jnp.sin(3 * x[:, 1]),
            ],
            -1,
        )
        return jnp.mean((value - wave) ** 2) + 0.1 * jnp.mean((slope - wanted) ** 2)

    return Patient(loss, params, (x,))


def fourier_features():
    """The heat equation on random Fourier features of std 1."""
    features = normal((2, 24), 5, 1.0)

    def net(params, x):
        x = 2 * jnp.pi * x @ features
        return mlp(params, jnp.concatenate([jnp.cos(x), jnp.sin(x)], -1))

    def loss(params, inner, edge):
        u = lambda xt: net(params, xt[None])[0, 0]  # noqa: E731
        _, first, second = slopes(u, inner)
        residual = first[:, 1] - 0.1 * second[:, 0]
        wanted = jnp.sin(jnp.pi * edge[:, 0])
        return jnp.mean(residual**2) + jnp.mean((net(params, edge)[:, 0] - wanted) ** 2)

    args = uniform(POINTS, (0, 0), (1, 1), 1), uniform(24, (0, 0), (1, 0), 2)
    return Patient(loss, glorot(0, (48, 32, 32, 1)), args)


def deep_ritz():
    """The energy of a residual network."""
    params = {
        "lift": normal((2, 16), 0, 0.5),
        "blocks": [
            {
                "a": normal((16, 16), 1 + 2 * i, 0.25),
                "b": normal((16, 16), 2 + 2 * i, 0.25),
                "bias_a": jnp.zeros((1, 16)),
                "bias_b": jnp.zeros((1, 16)),
            }
            for i in range(2)
        ],
        "head": normal((16, 1), 9, 0.25),
    }

    def net(p, x):
        x = x @ p["lift"]
        for b in p["blocks"]:
            h = jnp.tanh(x @ b["a"] + b["bias_a"])
            x = x + jnp.tanh(h @ b["b"] + b["bias_b"])
        return x @ p["head"]

    def loss(p, inner, edge):
        u = lambda x: net(p, x[None])[0, 0]  # noqa: E731
        value, slope = jax.vmap(jax.value_and_grad(u))(inner)
        energy = (0.5 * (slope**2).sum(-1) - value).mean()
        return energy + 50 * jnp.mean(net(p, edge) ** 2)

    edge = uniform(32, (-1, -1), (1, 1), 2)
    edge = edge.at[jnp.arange(32), jnp.arange(32) % 2].set(jnp.where(jnp.arange(32) % 4 < 2, -1, 1))
    return Patient(loss, params, (uniform(64, (-1, -1), (1, 1), 1), edge))


class Pirate(nnx.Module):
    """PirateNet: gated residual blocks that are the identity at first, on Fourier features."""

    def __init__(self, rngs, depth=1, width=24):
        """Draw the weights."""
        init = nnx.initializers.glorot_normal()
        make = lambda: nnx.Linear(width, width, kernel_init=init, rngs=rngs)  # noqa: E731
        self.features = normal((2, width // 2), 5)
        self.u, self.v = make(), make()
        self.blocks = nnx.List([nnx.List([make(), make(), make()]) for _ in range(depth)])
        self.alphas = nnx.List([nnx.Param(jnp.zeros((1,))) for _ in range(depth)])
        self.head = nnx.Linear(width, 1, use_bias=False, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        """The field at the rows of x."""
        x = x @ self.features
        x = jnp.concatenate([jnp.cos(x), jnp.sin(x)], -1)
        u, v = jnp.tanh(self.u(x)), jnp.tanh(self.v(x))
        for (a, b, c), alpha in zip(self.blocks, self.alphas, strict=True):
            f = jnp.tanh(a(x))
            g = jnp.tanh(b(f * u + (1 - f) * v))
            h = jnp.tanh(c(g * u + (1 - g) * v))
            x = alpha[...] * h + (1 - alpha[...]) * x
        return self.head(x)


def pirate():
    """Burgers' equation by PirateNet in NNX."""
    graph, params, rest = nnx.split(Pirate(nnx.Rngs(0)), nnx.Param, ...)
    loss, args = burgers_loss(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x))
    return Patient(loss, params, args)


def modified():
    """The network of Wang et al. with its two gates, on an advection with a learned speed."""
    params = {
        "u": glorot(0, (2, 24))[0],
        "v": glorot(1, (2, 24))[0],
        "first": glorot(2, (2, 24))[0],
        "hidden": glorot(3, (24, 24, 24)),
        "head": glorot(7, (24, 1))[0],
        "speed": jnp.array([1.0]),
    }

    def net(p, x):
        gate = lambda q, x: jnp.tanh(x @ q["kernel"] + q["bias"])  # noqa: E731
        u, v = gate(p["u"], x), gate(p["v"], x)
        x = gate(p["first"], x)
        for q in p["hidden"]:
            x = gate(q, x)
            x = (1 - x) * u + x * v
        return x @ p["head"]["kernel"] + p["head"]["bias"]

    def loss(p, inner):
        u = lambda x: net(p, x[None])[0, 0]  # noqa: E731
        value, slope = jax.vmap(jax.value_and_grad(u))(inner)
        seen = jnp.sin(2 * (inner[:, 0] - 0.7 * inner[:, 1]))
        residual = slope[:, 1] + p["speed"] * slope[:, 0]
        return jnp.mean(residual**2) + jnp.mean((value - seen) ** 2)

    return trained(
        Patient(loss, params, (uniform(POINTS, (-1, 0), (1, 1), 1),)), optax.adam(1e-3), 40
    )


def raw_coordinates():
    """The heat equation in metres and seconds: x up to 2000, t up to 86400."""

    def loss(params, inner, edge):
        u = lambda xt: mlp(params, xt[None])[0, 0]  # noqa: E731
        _, first, second = slopes(u, inner)
        residual = first[:, 1] - 1e-3 * second[:, 0]
        wanted = jnp.sin(jnp.pi * edge[:, 0] / 2000)
        return jnp.mean(residual**2) + jnp.mean((mlp(params, edge)[:, 0] - wanted) ** 2)

    args = uniform(POINTS, (0, 0), (2000, 86400), 1), uniform(24, (100, 0), (2000, 0), 2)
    patient = Patient(loss, glorot(0, (2, 32, 32, 1)), args)
    return sick(patient, "saturated", "[0]", "vanishing", "rank_collapse", "forward_drift")


def rectifiers():
    """A Laplacian of rectifiers, which is nothing; the boundary is built in."""

    def loss(params, x):
        net = lambda x: mlp(params, x[None], jax.nn.relu)[0, 0]  # noqa: E731
        left, right = jnp.zeros((1,)), jnp.ones((1,))
        u = lambda x: net(x) - (1 - x[0]) * net(left) - x[0] * net(right)  # noqa: E731
        second = slopes(u, x)[2][:, 0]
        return jnp.mean((second + jnp.pi**2 * jnp.sin(jnp.pi * x[:, 0])) ** 2)

    patient = Patient(loss, glorot(0, (1, 24, 24, 1)), (uniform(POINTS, (0,), (1,), 1),))
    return sick(patient, "dead_gradient", "", "vanishing", "dead_units", "rank_collapse")


def sigmoids():
    """Burgers' equation with ten layers of the sigmoid."""
    loss, args = burgers_loss(lambda p, x: mlp(p, x, jax.nn.sigmoid))
    patient = Patient(loss, glorot(0, (2,) + (20,) * 9 + (1,)), args)
    return sick(patient, "vanishing", "[0]", "rank_collapse", "forward_drift")


def at_the_centre():
    """A radial well whose points hold the centre, where the root has no slope."""

    def loss(params, x):
        def u(x):
            r = jnp.sqrt((x * x).sum(keepdims=True))
            return mlp(params, r[None])[0, 0] * jnp.exp(-r[0])

        value, _, second = slopes(u, x)
        return jnp.mean((-0.5 * second.sum(-1) + value) ** 2) / jnp.mean(value**2)

    x = uniform(POINTS, (-1, -1), (1, 1), 1).at[0].set(0.0)
    return sick(Patient(loss, glorot(0, (1, 24, 24, 1)), (x,)), "non_finite", "")


def entropy():
    """A density by Fokker and Planck with an entropy p log(p), rectified to be positive."""

    def loss(params, x):
        density = jax.nn.relu(mlp(params, x))[:, 0]
        u = lambda x: mlp(params, x[None])[0, 0]  # noqa: E731
        _, first, second = slopes(u, x)
        residual = second[:, 0] + x[:, 0] * first[:, 0] + density
        return jnp.mean(residual**2) + 0.1 * jnp.mean(density * jnp.log(density))

    patient = Patient(loss, glorot(0, (1, 24, 24, 1)), (uniform(POINTS, (-3,), (3,), 1),))
    return sick(patient, "non_finite", "")


def equal_units():
    """All weights start at 0.1: a network of one unit."""
    loss, args = burgers_loss(mlp)
    params = jax.tree.map(lambda w: jnp.full(w.shape, 0.1), glorot(0, (2, 20, 20, 1)))
    return sick(Patient(loss, params, args), "symmetry", "[", "rank_collapse")


def wild_sines():
    """Sines of 30 times N(0, 2 / n) instead of the published weights."""
    patient = siren(Siren(careful=False, gain=2.0))
    return sick(patient, "exploding", "Dense_0", "forward_drift")


def stiff():
    """A pendulum rolled out by Euler's steps that are too long for its spring."""
    params = {"spring": glorot(0, (2, 16, 1))}

    def loss(params, start):
        def step(state, _):
            x, v = state
            force = -900.0 * x - mlp(params["spring"], jnp.concatenate([x, v], -1))
            return (x + 0.05 * v, v + 0.05 * force), None

        (x, _), _ = jax.lax.scan(step, (start[:, :1], start[:, 1:]), None, 40)
        return jnp.mean((x - 0.1) ** 2)

    patient = Patient(loss, params, (normal((16, 2), 3),))
    return sick(patient, "exploding", "", "forward_drift", "saturated", "non_finite")


PATIENTS = {
    "burgers": burgers,
    "poisson, trained": poisson,
    "siren": siren,
    "fourier features": fourier_features,
    "deep ritz": deep_ritz,
    "piratenet, nnx": pirate,
    "two gates, trained": modified,
    "raw coordinates": raw_coordinates,
    "laplacian of rectifiers": rectifiers,
    "ten sigmoids": sigmoids,
    "root at the centre": at_the_centre,
    "entropy of a rectified density": entropy,
    "all weights 0.1": equal_units,
    "sines of wild weights": wild_sines,
    "stiff spring by euler": stiff,
}
