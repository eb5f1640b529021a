"""Normalising flows, healthy ones and sick ones."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, normal, sick

BATCH, DIM = 64, 4


def data(scale=1.0, shift=0.0):
    """A bent and correlated cloud of points."""
    z = normal((BATCH, DIM), 11)
    x = z.at[:, 1].set(0.5 * z[:, 1] + 0.4 * z[:, 0] ** 2).at[:, 3].add(z[:, 2])
    return scale * x + shift


def gauss(z, logdet):
    """Mean negative log-likelihood under a standard normal."""
    return (0.5 * (z**2).sum(-1) + 0.5 * z.shape[-1] * jnp.log(2 * jnp.pi) - logdet).mean()


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def net(seed, n, m, hidden=32, last=0.0, bias=0.0):
    """Weights of a conditioner of two hidden layers."""
    return {
        "w0": normal((n, hidden), seed, (2 / n) ** 0.5),
        "b0": jnp.full((1, hidden), bias),
        "w1": normal((hidden, hidden), seed + 1, (2 / hidden) ** 0.5),
        "b1": jnp.full((1, hidden), bias),
        "w2": normal((hidden, m), seed + 2, last),
        "b2": jnp.zeros((1, m)),
    }


def run(p, x, activation=jax.nn.relu):
    """The conditioner."""
    x = activation(activation(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])
    return x @ p["w2"] + p["b2"]


def realnvp(x=None, layers=6, bounded=True, last=0.0, bias=0.0, gain=1.0):
    """RealNVP: couplings that take turns, the log-scale bounded by a tanh."""
    half = DIM // 2
    params = [net(3 * i, half, DIM, last=last, bias=bias) for i in range(layers)]

    def loss(params, x):
        logdet = 0.0
        for p in params:
            a, b = jnp.split(x, 2, -1)
            log_scale, shift = jnp.split(run(p, a), 2, -1)
            log_scale = jnp.tanh(gain * log_scale) if bounded else log_scale
            b = b * jnp.exp(log_scale) + shift
            x, logdet = jnp.concatenate([b, a], -1), logdet + log_scale.sum(-1)
        return gauss(x, logdet)

    return Patient(loss, params, (data() if x is None else x,))


class Glow(nn.Module):
    """Steps of activation norm, a rotation and an affine coupling that starts at nothing."""

    steps: int = 3
    mixing: str = "orthogonal"

    @nn.compact
    def __call__(self, x):
        logdet = 0.0
        for i in range(self.steps):
            mean, std = x.mean(0), x.std(0)
            bias = self.param(f"bias{i}", lambda _, m: -m, mean)
            log_scale = self.param(f"log_scale{i}", lambda _, s: -jnp.log(s + 1e-6), std)
            x = (x + bias) * jnp.exp(log_scale)
            init = nn.initializers.orthogonal() if self.mixing == "orthogonal" else None
            init = init or nn.initializers.zeros
            w = self.param(f"mixing{i}", init, (DIM, DIM))
            x = x @ w
            logdet = logdet + log_scale.sum() + jnp.linalg.slogdet(w)[1]
            a, b = jnp.split(x, 2, -1)
            h = nn.relu(nn.Dense(32)(a))
            h = nn.relu(nn.Dense(32)(h))
            h = nn.Dense(DIM, kernel_init=nn.initializers.zeros)(h)
            shift, raw = jnp.split(h, 2, -1)
            s = nn.sigmoid(raw + 2.0)
            x = jnp.concatenate([a, (b + shift) * s], -1)
            logdet = logdet + jnp.log(s).sum(-1)
        return gauss(x, logdet)


def glow(mixing="orthogonal"):
    """Glow on vectors."""
    x = data(3.0, 1.0)
    params = Glow(mixing=mixing).init(jax.random.key(0), x)["params"]
    return Patient(lambda p, x: Glow(mixing=mixing).apply({"params": p}, x), params, (x,))


class Made(eqx.Module):
    """A masked autoregressive conditioner."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    masks: tuple = eqx.field(static=True)

    def __init__(self, key):
        """Draw the weights; the last ones are small."""
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(DIM, 32, key=keys[0])
        self.last = eqx.nn.Linear(32, 2 * DIM, key=keys[1])
        self.last = jax.tree.map(lambda w: 0.01 * w, self.last)
        hidden = [i % (DIM - 1) + 1 for i in range(32)]
        self.masks = (
            tuple(tuple(float(h >= i + 1) for i in range(DIM)) for h in hidden),
            tuple(tuple(float(i % DIM + 1 > h) for h in hidden) for i in range(2 * DIM)),
        )

    def __call__(self, x):
        """Shift and log-scale."""
        first, last = (jnp.array(m) for m in self.masks)
        h = jax.nn.relu((first * self.first.weight) @ x + self.first.bias)
        return jnp.split((last * self.last.weight) @ h + self.last.bias, 2)


def maf():
    """A masked autoregressive flow of three steps, in Equinox; some weights lie behind a mask."""
    model = [Made(key) for key in jax.random.split(jax.random.key(0), 3)]
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(p, x):
        def one(x):
            logdet = 0.0
            for made in eqx.combine(p, static):
                shift, log_scale = made(x)
                x = ((x - shift) * jnp.exp(-log_scale))[::-1]
                logdet = logdet - log_scale.sum()
            return x, logdet

        return gauss(*jax.vmap(one)(x))

    return Patient(loss, params, (data(),))


def spline(x, raw, bins=6, reach=3.0):
    """A rational-quadratic spline on [-reach, reach], the identity outside of it."""
    widths, heights, slopes = jnp.split(raw, [bins, 2 * bins], -1)
    grow = lambda w: 1e-3 + (1 - 1e-3 * bins) * jax.nn.softmax(w)  # noqa: E731

    def edges(w):
        total = jnp.pad(jnp.cumsum(grow(w), -1), [(0, 0)] * (w.ndim - 1) + [(1, 0)])
        return reach * (2 * total - 1)

    xs, ys = edges(widths), edges(heights)
    d = 1e-3 + jax.nn.softplus(slopes + 0.5413)
    d = jnp.pad(d, [(0, 0)] * (d.ndim - 1) + [(1, 1)], constant_values=1.0)
    inside = abs(x) < reach
    safe = jnp.where(inside, x, 0.0)
    i = jnp.clip((safe[..., None] >= xs[..., 1:-1]).sum(-1), 0, bins - 1)[..., None]
    pick = lambda a, i: jnp.take_along_axis(a, i, -1)[..., 0]  # noqa: E731
    x0, x1, y0, y1 = pick(xs, i), pick(xs, i + 1), pick(ys, i), pick(ys, i + 1)
    d0, d1, s = pick(d, i), pick(d, i + 1), (y1 - y0) / (x1 - x0)
    t = (safe - x0) / (x1 - x0)
    bottom = s + (d0 + d1 - 2 * s) * t * (1 - t)
    y = y0 + (y1 - y0) * (s * t**2 + d0 * t * (1 - t)) / bottom
    slope = s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2) / bottom**2
    return jnp.where(inside, y, x), jnp.where(inside, jnp.log(slope), 0.0)


def neural_spline():
    """A neural spline flow that starts as the identity; some points lie in the tails."""
    half, bins = DIM // 2, 6
    params = [net(3 * i, half, half * (3 * bins - 1), last=0.01) for i in range(3)]

    def loss(params, x):
        logdet = 0.0
        for p in params:
            a, b = jnp.split(x, 2, -1)
            b, slope = spline(b, run(p, a).reshape(len(x), half, 3 * bins - 1))
            x, logdet = jnp.concatenate([b, a], -1), logdet + slope.sum(-1)
        return gauss(x, logdet)

    return Patient(loss, params, (data(1.5),))


class Radial(nnx.Module):
    """Radial flows with the published constraint on their strength."""

    def __init__(self, rngs, steps=6):
        """Draw the weights."""
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape))  # noqa: E731
        self.centre = nnx.List([draw(1, 2) for _ in range(steps)])
        self.alpha = nnx.List([draw(1) for _ in range(steps)])
        self.beta = nnx.List([draw(1) for _ in range(steps)])

    def __call__(self, z):
        """Samples and their log-determinants."""
        logdet = 0.0
        for centre, a, b in zip(self.centre, self.alpha, self.beta, strict=True):
            alpha = jax.nn.softplus(a[...])
            beta = jax.nn.softplus(b[...]) - alpha
            away = z - centre[...]
            r = jnp.sqrt((away**2).sum(-1) + 1e-12)
            h = 1 / (alpha + r)
            slope = 1 + beta * h
            logdet = logdet + jnp.log(slope) + jnp.log(slope - beta * r * h**2)
            z = z + (beta * h)[:, None] * away
        return z, logdet


def radial():
    """Radial flows against the energy of two moons, in NNX."""
    graph, params = nnx.split(Radial(nnx.Rngs(0)))

    def loss(p, z):
        x, logdet = nnx.merge(graph, p, copy=True)(z)
        ring = 0.5 * ((jnp.sqrt((x**2).sum(-1) + 1e-6) - 2) / 0.4) ** 2
        moons = jnp.logaddexp(-0.5 * ((x[:, 0] - 2) / 0.6) ** 2, -0.5 * ((x[:, 0] + 2) / 0.6) ** 2)
        return (ring - moons - logdet).mean()

    return trained(Patient(loss, params, (normal((BATCH, 2), 3),)), optax.adam(1e-2), 40)


def ffjord():
    """A continuous flow with the exact trace, by RK4."""
    params = {
        "w0": normal((3, 24), 0, 3**-0.5),
        "w1": normal((24, 24), 1, 24**-0.5),
        "w2": normal((24, 2), 2, 24**-0.5),
        "b": jnp.zeros((1, 24)),
    }

    def loss(p, x):
        def field(x, t):
            h = jnp.tanh(jnp.append(x, t) @ p["w0"] + p["b"][0])
            return jax.nn.softplus(h @ p["w1"]) @ p["w2"]

        def both(x, t):
            jacobian = jax.vmap(jax.jacfwd(field), (0, None))(x, t)
            return jax.vmap(field, (0, None))(x, t), jnp.trace(jacobian, axis1=1, axis2=2)

        def step(state, t):
            x, logdet = state
            a, da = both(x, t)
            b, db = both(x + 0.1 * a, t + 0.1)
            return (x + 0.2 * b, logdet + 0.1 * (da + db)), None

        return gauss(*jax.lax.scan(step, (x, jnp.zeros(len(x))), jnp.arange(5) * 0.2)[0])

    return Patient(loss, params, (data()[:, :2],))


def residual_flow():
    """Residual blocks held below a Lipschitz constant of 0.9 by power iterations."""
    params = [
        {
            "a": normal((2, 24), 2 * i, 0.5),
            "b": normal((24, 2), 2 * i + 1, 0.2),
            "bias": jnp.zeros(24),
        }
        for i in range(4)
    ]

    def normed(w):
        v = jnp.ones(w.shape[1]) / w.shape[1] ** 0.5
        for _ in range(8):
            u = w @ v
            u = jax.lax.stop_gradient(u / jnp.linalg.norm(u))
            v = w.T @ u
            v = jax.lax.stop_gradient(v / jnp.linalg.norm(v))
        return 0.9 * w / jnp.maximum(u @ w @ v, 0.9)

    def loss(params, x):
        logdet = 0.0
        for p in params:
            a, b = normed(p["a"]), normed(p["b"])
            block = lambda x, p=p, a=a, b=b: jax.nn.elu(x @ a + p["bias"]) @ b  # noqa: E731
            j = jax.vmap(jax.jacfwd(block))(x) + jnp.eye(2)
            logdet = logdet + jnp.log(j[:, 0, 0] * j[:, 1, 1] - j[:, 0, 1] * j[:, 1, 0])
            x = x + block(x)
        return gauss(x, logdet)

    return Patient(loss, params, (data()[:, :2],))


def nice():
    """NICE: additive couplings and one diagonal scale."""
    half = DIM // 2
    params = {"couplings": [net(3 * i, half, half, last=0.1) for i in range(4)]}
    params["scale"] = jnp.zeros((1, DIM))

    def loss(params, x):
        for p in params["couplings"]:
            a, b = jnp.split(x, 2, -1)
            x = jnp.concatenate([b + run(p, a), a], -1)
        return gauss(x * jnp.exp(params["scale"]), params["scale"].sum())

    return Patient(loss, params, (data(),))


def overflow():
    """Raw data of a thousand and log-scales that nothing bounds: exp overflows."""
    return sick(
        realnvp(data(2000.0), bounded=False, last=0.1), "non_finite", "[", "exploding",
        "forward_drift",
    )  # fmt: skip


def singular():
    """Mixing matrices that start at 0 have no log-determinant."""
    return sick(glow("zeros"), "non_finite", "mixing")


def grown():
    """Six unbounded couplings with last layers of std 0.06: scales feed on one another."""
    patient = realnvp(layers=6, bounded=False, last=0.06)
    return sick(patient, "exploding", "[", "forward_drift", "non_finite")


def saturated_scales():
    """Conditioners a hundred times too large behind the tanh of the log-scale."""
    patient = realnvp(layers=4, last=(2 / 32) ** 0.5, gain=100.0)
    return sick(patient, "saturated", "[", "exploding", "vanishing", "forward_drift")


def dead_conditioners():
    """Conditioners whose rectifiers a bias of -15 keeps off."""
    patient = realnvp(layers=3, last=0.05, bias=-15.0)
    return sick(patient, "dead_units", "[", "vanishing", "rank_collapse", "dead_gradient")


def empty_pixels():
    """A logit of pixels, without the margin that keeps it from log(0), within a learned scale."""
    params = {"blend": jnp.array([[0.1]]), "couplings": [net(0, 2, DIM), net(3, 2, DIM)]}

    def loss(params, x):
        x = x ** jnp.exp(params["blend"])
        logdet = (params["blend"] + (jnp.exp(params["blend"]) - 1) * jnp.log(x)).sum(-1)
        x = jnp.log(x) - jnp.log(1 - x)
        for p in params["couplings"]:
            a, b = jnp.split(x, 2, -1)
            log_scale, shift = jnp.split(run(p, a), 2, -1)
            x = jnp.concatenate([b * jnp.exp(jnp.tanh(log_scale)) + shift, a], -1)
            logdet = logdet + jnp.tanh(log_scale).sum(-1)
        return gauss(x, logdet)

    pixels = jax.random.randint(jax.random.key(4), (BATCH, DIM), 0, 8) / 8.0
    return sick(Patient(loss, params, (pixels,)), "non_finite", "blend")


def equal_units():
    """Conditioners whose kernels are all 0.05: their hidden units are one."""
    patient = realnvp(layers=4)
    params = jax.tree.map(lambda w: jnp.full(w.shape, 0.05), patient.params)
    return sick(patient._replace(params=params), "symmetry", "[", "rank_collapse")


def sharp_planar():
    """Twenty linear steps of z + u (w z) with u along w: each stretches the samples."""
    w = normal((20, 1, 2), 1)
    params = {"u": 1.5 * w, "w": w}

    def loss(params, z):
        def step(state, p):
            z, logdet = state
            h = (z * p["w"]).sum(-1, keepdims=True)
            slope = (p["w"] * p["u"]).sum()
            return (z + p["u"] * h, logdet + jnp.log(abs(1 + slope))), None

        z, logdet = jax.lax.scan(step, (z, jnp.zeros(len(z))), params)[0]
        return gauss(z, logdet)

    patient = Patient(loss, params, (normal((BATCH, 2), 3),))
    return sick(patient, "exploding", "", "forward_drift", "rank_collapse")


PATIENTS = {
    "realnvp": realnvp,
    "realnvp, trained": lambda: trained(realnvp(), optax.adam(1e-3), 60),
    "glow": glow,
    "maf, equinox": maf,
    "neural spline": neural_spline,
    "radial, trained, nnx": radial,
    "ffjord": ffjord,
    "residual flow": residual_flow,
    "nice": nice,
    "exp overflows": overflow,
    "glow, mixing of zeros": singular,
    "couplings feed on one another": grown,
    "saturated log-scales": saturated_scales,
    "dead conditioners": dead_conditioners,
    "logit of empty pixels": empty_pixels,
    "equal units": equal_units,
    "stretched twenty times": sharp_planar,
}
