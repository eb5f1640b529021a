"""State space models and linear recurrences, healthy ones and sick ones."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, cross_entropy, normal, sick

BATCH, STEPS, DIM, STATES = 8, 64, 16, 8


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def series(steps=STEPS, dim=4):
    """Noise, a batch of it."""
    return normal((BATCH, steps, dim), 7)


def dense(seed, n, m, std=None):
    """A layer's weights, of LeCun's std or of a given one."""
    return {"kernel": normal((n, m), seed, n**-0.5 if std is None else std), "bias": jnp.zeros(m)}


def apply(p, x):
    """One layer."""
    return x @ p["kernel"] + p["bias"]


def standardise(x):
    """Layer normalisation without parameters."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def uniform(seed, shape, low=0.0, high=1.0):
    """Uniform numbers."""
    return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


def s4d(layers=2, step=(1e-3, 1e-1), real=0.5, sign=-1.0, steps=STEPS):
    """S4D-Lin: diagonal states, whose kernel is convolved by the FFT."""
    params = {"encoder": dense(0, 4, DIM), "decoder": dense(1, DIM, 4), "layers": []}
    for i in range(layers):
        params["layers"].append(
            {
                "log_step": uniform(10 + i, (DIM, 1), *(float(jnp.log(s)) for s in step)),
                "log_real": jnp.full((DIM, STATES), float(jnp.log(real))),
                "imag": jnp.broadcast_to(jnp.pi * jnp.arange(STATES), (DIM, STATES)),
                "c_re": normal((DIM, STATES), 20 + i, 0.5**0.5),
                "c_im": normal((DIM, STATES), 30 + i, 0.5**0.5),
                "d": normal((DIM,), 40 + i),
                "mix": dense(50 + i, DIM, 2 * DIM),
            }
        )

    def kernel(p, length):
        a = jax.lax.complex(sign * jnp.exp(p["log_real"]), p["imag"])
        dt = jnp.exp(p["log_step"])
        c = jax.lax.complex(p["c_re"], p["c_im"]) * (jnp.exp(dt * a) - 1) / a
        powers = jnp.exp(dt[..., None] * a[..., None] * jnp.arange(length))
        return 2 * jnp.einsum("hn,hnl->hl", c, powers).real

    def loss(params, x):
        x = apply(params["encoder"], x)
        for p in params["layers"]:
            h = standardise(x)
            k = jnp.fft.rfft(kernel(p, h.shape[1]), n=2 * h.shape[1])
            f = jnp.fft.rfft(h.swapaxes(1, 2), n=2 * h.shape[1])
            y = jnp.fft.irfft(k * f, n=2 * h.shape[1])[..., : h.shape[1]].swapaxes(1, 2)
            a, b = jnp.split(apply(p["mix"], jax.nn.gelu(y + p["d"] * h)), 2, -1)
            x = x + a * jax.nn.sigmoid(b)
        return cross_entropy(apply(params["decoder"], x.mean(1)))

    return Patient(loss, params, (series(steps),))


def lru(low=0.9, high=0.999, steps=STEPS, last=False, layers=2):
    """Linear recurrent units with eigenvalues in a ring, and the published normaliser."""
    params = {"encoder": dense(0, 4, DIM), "decoder": dense(1, DIM, 4), "layers": []}
    for i in range(layers):
        radius = uniform(10 + i, (DIM,)) * (high**2 - low**2) + low**2
        params["layers"].append(
            {
                "nu": jnp.log(-0.5 * jnp.log(radius)) if high < 1 else 0.5 * jnp.log(radius),
                "theta": jnp.log(2 * jnp.pi * uniform(20 + i, (DIM,), 0.01, 1.0)),
                "gamma": 0.5 * jnp.log(abs(1 - radius)),
                "b_re": normal((DIM, DIM), 30 + i, (2 * DIM) ** -0.5),
                "b_im": normal((DIM, DIM), 40 + i, (2 * DIM) ** -0.5),
                "c_re": normal((DIM, DIM), 50 + i, DIM**-0.5),
                "c_im": normal((DIM, DIM), 60 + i, DIM**-0.5),
                "d": normal((DIM,), 70 + i),
                "mix": dense(80 + i, DIM, 2 * DIM),
            }
        )
        if last:
            del params["layers"][-1]["d"]

    def loss(params, x):
        x = apply(params["encoder"], x)
        for p in params["layers"]:
            size = jnp.exp(-jnp.exp(p["nu"])) if high < 1 else jnp.exp(p["nu"])
            angle = jnp.exp(p["theta"])
            lam = jax.lax.complex(size * jnp.cos(angle), size * jnp.sin(angle))
            h = x if last else standardise(x)
            u = jax.lax.complex(h @ p["b_re"], h @ p["b_im"]) * jnp.exp(p["gamma"])

            def step(s, u, lam=lam):
                s = lam * s + u
                return s, s

            zero = jnp.zeros(u[:, 0].shape, u.dtype)
            states = jax.lax.scan(step, zero, u.swapaxes(0, 1))[1].swapaxes(0, 1)
            y = states.real @ p["c_re"] - states.imag @ p["c_im"]
            y = y if last else y + p["d"] * h
            a, b = jnp.split(apply(p["mix"], jax.nn.gelu(y)), 2, -1)
            x = a * jax.nn.sigmoid(b) + (0.0 if last else x)
        return cross_entropy(apply(params["decoder"], x[:, -1] if last else x.mean(1)))

    return Patient(loss, params, (series(steps),))


def forgetful():
    """A linear recurrent unit with eigenvalues near 0.5, asked 60 steps after the last input."""
    patient = lru(0.45, 0.55, last=True, layers=1)
    patient = patient._replace(args=(patient.args[0].at[:, 4:].set(0.0),))
    return sick(patient, "vanishing", "", "forward_drift", "rank_collapse")


class Mamba(nn.Module):
    """Selective state spaces: the step depends on the input; A = -1 ... -n."""

    step_bias: float | None = None
    rate: float = 1.0
    steps: int = STEPS

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(DIM)(x)
        for i in range(2):
            h = nn.RMSNorm()(x)
            u, gate = jnp.split(nn.Dense(2 * DIM, use_bias=False, name=f"in{i}")(h), 2, -1)
            u = nn.silu(nn.Conv(DIM, (4,), padding=((3, 0),), feature_group_count=DIM)(u))

            def bias_init(key, shape, dtype=float):
                dt = jnp.exp(jax.random.uniform(key, shape) * jnp.log(100.0) + jnp.log(1e-3))
                return dt + jnp.log(-jnp.expm1(-dt))

            if self.step_bias is not None:
                bias_init = nn.initializers.constant(self.step_bias)
            low = nn.Dense(2 + 2 * STATES, use_bias=False, name=f"select{i}")(u)
            low, b, c = jnp.split(low, [2, 2 + STATES], -1)
            dt = nn.softplus(nn.Dense(DIM, bias_init=bias_init, name=f"step{i}")(low))
            a_init = lambda _: jnp.log(jnp.tile(jnp.arange(1.0, STATES + 1), (DIM, 1)))  # noqa: E731
            a = -self.rate * jnp.exp(self.param(f"log_a{i}", a_init))
            d = self.param(f"d{i}", nn.initializers.ones, (DIM,))

            def step(s, inputs, a=a):
                u, dt, b, c = inputs
                s = jnp.exp(dt[..., None] * a) * s + (dt * u)[..., None] * b[:, None]
                return s, (s * c[:, None]).sum(-1)

            inputs = jax.tree.map(lambda v: v.swapaxes(0, 1), (u, dt, b, c))
            y = jax.lax.scan(step, jnp.zeros((len(x), DIM, STATES)), inputs)[1].swapaxes(0, 1)
            x = x + nn.Dense(DIM, use_bias=False)((y + d * u) * nn.silu(gate))
        return nn.Dense(4)(nn.RMSNorm()(x).mean(1))


def mamba(steps=STEPS, **settings):
    """A small Mamba in Linen."""
    module, x = Mamba(**settings), series(steps)
    params = module.init(jax.random.key(0), x)["params"]
    return Patient(lambda p, x: cross_entropy(module.apply({"params": p}, x)), params, (x,))


class MinGru(eqx.Module):
    """A gated recurrence whose gates see the input alone."""

    gate: eqx.nn.Linear
    value: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        """Draw the weights."""
        keys = jax.random.split(key)
        self.gate = eqx.nn.Linear(DIM, DIM, key=keys[0])
        self.value = eqx.nn.Linear(DIM, DIM, key=keys[1])
        self.norm = eqx.nn.LayerNorm(DIM)

    def __call__(self, x):
        """One sequence."""
        h = jax.vmap(self.norm)(x)
        z, v = jax.nn.sigmoid(jax.vmap(self.gate)(h)), jax.vmap(self.value)(h)

        def join(a, b):
            return a[0] * b[0], b[0] * a[1] + b[1]

        return x + jax.lax.associative_scan(join, (1 - z, z * v))[1]


def min_gru():
    """A minGRU in Equinox, by an associative scan."""
    keys = jax.random.split(jax.random.key(0), 4)
    model = (
        eqx.nn.Linear(4, DIM, key=keys[0]),
        [MinGru(keys[1])],
        eqx.nn.Linear(DIM, 4, key=keys[3]),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(p, x):
        first, layers, last = eqx.combine(p, static)

        def one(x):
            x = jax.vmap(first)(x)
            for layer in layers:
                x = layer(x)
            return last(x.mean(0))

        return cross_entropy(jax.vmap(one)(x))

    return Patient(loss, params, (series(16),))


class Retention(nnx.Module):
    """Retention with the published decays of its heads."""

    def __init__(self, rngs, heads=4):
        """Draw the weights."""
        make = lambda: nnx.Linear(DIM, DIM, use_bias=False, rngs=rngs)  # noqa: E731
        self.q, self.k, self.v, self.gate, self.out = (make() for _ in range(5))
        self.norm = nnx.LayerNorm(DIM, rngs=rngs)
        self.group = nnx.GroupNorm(DIM, num_groups=heads, rngs=rngs)
        self.heads = heads

    def __call__(self, x):
        """A batch of sequences."""
        h, length = self.norm(x), x.shape[1]
        q, k, v = (f(h).reshape(*h.shape[:2], self.heads, -1) for f in (self.q, self.k, self.v))
        decay = 1 - 2.0 ** (-5 - jnp.arange(self.heads))
        lag = jnp.arange(length)[:, None] - jnp.arange(length)
        mask = jnp.where(lag >= 0, decay[:, None, None] ** jnp.maximum(lag, 0), 0.0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * DIM**-0.5 * mask
        y = jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(-1, DIM)
        return x + self.out(self.group(y).reshape(x.shape) * nnx.silu(self.gate(h)))


class RetNet(nnx.Module):
    """Two layers of retention."""

    def __init__(self, rngs):
        """Draw the weights."""
        self.first, self.last = nnx.Linear(4, DIM, rngs=rngs), nnx.Linear(DIM, 4, rngs=rngs)
        self.layers = nnx.List([Retention(rngs) for _ in range(2)])

    def __call__(self, x):
        """A batch of sequences."""
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x.mean(1))


def retnet():
    """A small RetNet in NNX, after a few dozen steps."""
    graph, params = nnx.split(RetNet(nnx.Rngs(0)))
    loss = lambda p, x: cross_entropy(nnx.merge(graph, p, copy=True)(x))  # noqa: E731
    return trained(Patient(loss, params, (series(32),)), optax.adamw(1e-3), 40)


def dead_mixers():
    """S4D with rectifiers in place of GELU, and mixing biases that keep them off."""
    patient = s4d()
    params = patient.params | {"shift": jnp.full((1, DIM), -30.0)}

    def loss(params, x):
        x = apply(params["encoder"], x)
        for p in params["layers"]:
            k = jnp.exp(-jnp.exp(p["log_step"]) * jnp.arange(x.shape[1]))
            f = jnp.fft.rfft(standardise(x).swapaxes(1, 2), n=2 * STEPS)
            y = jnp.fft.irfft(jnp.fft.rfft(k, n=2 * STEPS) * f, n=2 * STEPS)[..., :STEPS]
            y = jax.nn.relu(y.swapaxes(1, 2) + params["shift"])
            x = x + apply(p["mix"], y)[..., :DIM]
        return cross_entropy(apply(params["decoder"], x.mean(1)))

    keep = ("log_step", "mix")
    params["layers"] = [{k: p[k] for k in keep} for p in params["layers"]]
    params["layers"] = [p | {"mix": dense(90, DIM, DIM)} for p in params["layers"]]
    patient = Patient(loss, params, patient.args)
    return sick(patient, "dead_units", "", "vanishing", "dead_gradient", "rank_collapse")


def chaotic():
    """A tanh network of gain 3, 100 steps: chaos."""
    params = {
        "wx": normal((4, 64), 0, 0.5),
        "wh": normal((64, 64), 1, 3 / 8),
        "head": dense(2, 64, 4),
    }

    def loss(p, x):
        step = lambda h, x: (jnp.tanh(x @ p["wx"] + h @ p["wh"]), None)  # noqa: E731
        h = jax.lax.scan(step, jnp.zeros((BATCH, 64)), x.swapaxes(0, 1))[0]
        return cross_entropy(apply(p["head"], h))

    return sick(Patient(loss, params, (series(100),)), "exploding", "w", "saturated")


def equal_channels():
    """Channels that start alike in all their weights: a model of one channel."""
    params = {
        "b": jnp.full((4, DIM), 0.5),
        "log_rate": jnp.full((1, DIM), -1.0),
        "c": jnp.tile(normal((1, 4), 3, 0.25), (DIM, 1)),
    }

    def loss(p, x):
        u = x @ p["b"]
        decay = jnp.exp(-jnp.exp(p["log_rate"]))
        step = lambda s, u: (decay * s + (1 - decay) * u, None)  # noqa: E731
        s = jax.lax.scan(step, jnp.zeros((BATCH, DIM)), u.swapaxes(0, 1))[0]
        return cross_entropy(jnp.tanh(s) @ p["c"])

    return sick(Patient(loss, params, (series(),)), "symmetry", "", "rank_collapse")


PATIENTS = {
    "s4d": s4d,
    "s4d, trained": lambda: trained(s4d(1), optax.adam(1e-3), 40),
    "lru": lru,
    "mamba": mamba,
    "mingru, equinox": min_gru,
    "retnet, trained, nnx": retnet,
    "lru, outside of the circle": lambda: sick(
        lru(1.1, 1.2, steps=200, last=True), "exploding", "layers", "forward_drift", "saturated",
        "non_finite", "rank_collapse",
    ),
    "s4d, a sign forgotten": lambda: sick(
        s4d(step=(0.5, 4.0), sign=1.0), "non_finite", "layers", "exploding", "forward_drift"
    ),
    "lru that forgets": forgetful,
    "mamba, steps of e^-30": lambda: sick(
        mamba(step_bias=-30.0), "vanishing", "step", "saturated", "forward_drift"
    ),
    "mamba, a sign forgotten": lambda: sick(
        mamba(step_bias=2.0, rate=-1.0), "non_finite", "", "exploding", "forward_drift"
    ),
    "dead mixers": dead_mixers,
    "chaotic tanh, 100 steps": chaotic,
    "equal channels": equal_channels,
}  # fmt: skip
