"""Networks of many kinds, healthy ones and sick ones."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, cross_entropy, normal, sick

BATCH = 32


def dense(seed, n, m, std=None):
    """A layer of He weights, or of a given std."""
    return {
        "kernel": normal((n, m), seed, (2 / n) ** 0.5 if std is None else std),
        "bias": jnp.zeros((1, m)),
    }


def apply(p, x):
    """One layer."""
    return x @ p["kernel"] + p["bias"]


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def maml(rate=0.01, steps=1):
    """MAML on sine waves: the gradient goes through the inner steps."""
    params = {
        "first": dense(0, 1, 40, 0.3),
        "second": dense(1, 40, 40, 40**-0.5),
        "last": dense(2, 40, 1, 0.1),
    }

    def regression(p, x, y):
        h = jax.nn.relu(apply(p["second"], jax.nn.relu(apply(p["first"], x))))
        return jnp.mean((apply(p["last"], h) - y) ** 2)

    def loss(params, x, phase):
        def task(x, phase):
            y = jnp.sin(x + phase)

            def inner(p, _):
                grads = jax.grad(regression)(p, x[:10], y[:10])
                return jax.tree.map(lambda w, g: w - rate * g, p, grads), None

            adapted = jax.lax.scan(inner, params, None, steps)[0]
            return regression(adapted, x[10:], y[10:])

        return jax.vmap(task)(x, phase).mean()

    x = jax.random.uniform(jax.random.key(3), (8, 20, 1), minval=-5.0, maxval=5.0)
    phase = jnp.linspace(0.0, 3.0, 8)
    return Patient(loss, params, (x, phase))


class Speech(nn.Module):
    """A GRU in both directions, for CTC."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(24, (5,))(x))
        x = nn.Bidirectional(nn.RNN(nn.GRUCell(16)), nn.RNN(nn.GRUCell(16)))(x)
        return nn.Dense(6)(x)


def ctc():
    """Speech recognition by CTC."""
    x = normal((8, 20, 8))
    labels = jax.random.randint(jax.random.key(1), (8, 5), 1, 6)
    label_padding = (jnp.arange(5) >= jnp.array([5, 3, 4, 5, 2, 3, 4, 5])[:, None]).astype(float)
    padding = jnp.zeros((8, 20))
    params = Speech().init(jax.random.key(0), x)["params"]

    def loss(p, x, labels):
        logits = Speech().apply({"params": p}, x)
        return optax.ctc_loss(logits, padding, labels, label_padding).mean()

    return Patient(loss, params, (x, labels))


class Detector(nn.Module):
    """A head in the manner of RetinaNet: the prior bias says that 1 in 100 is an object."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(16, (3, 3))(x)))
        init = nn.initializers.normal(0.04)
        for _ in range(2):
            x = nn.relu(nn.Conv(16, (3, 3), kernel_init=init)(x))
        bias = nn.initializers.constant(-4.595)
        return nn.Conv(9, (3, 3), kernel_init=init, bias_init=bias)(x)


def detector():
    """A detector's focal loss."""
    x = normal((4, 8, 8, 3))
    labels = (jax.random.uniform(jax.random.key(1), (4, 8, 8, 9)) < 0.02).astype(float)
    params = Detector().init(jax.random.key(0), x)["params"]

    def loss(p, x, labels):
        logits = Detector().apply({"params": p}, x)
        return optax.sigmoid_focal_loss(logits, labels, alpha=0.25).sum() / labels.sum()

    return Patient(loss, params, (x, labels))


def bag(train=True):
    """A bag of words: of 500 rows only those in the batch have a gradient."""
    params = {
        "table": jax.random.uniform(jax.random.key(0), (500, 16), minval=-1 / 16, maxval=1 / 16),
        "head": jnp.zeros((16, 4)),
    }
    ids = jax.random.randint(jax.random.key(1), (BATCH, 8), 0, 500)

    def loss(p, ids):
        return cross_entropy(p["table"][ids].mean(1) @ p["head"])

    return trained(Patient(loss, params, (ids,)), optax.adam(1e-2), 20)


def highway(bias=-2.0, depth=20):
    """A highway network whose gates carry the input on at first."""
    layers = [
        {"change": dense(2 * i, 32, 32), "gate": dense(2 * i + 1, 32, 32, 32**-0.5)}
        for i in range(depth)
    ]
    params = {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers), "head": dense(99, 32, 4)}
    params["layers"]["gate"]["bias"] += bias

    def loss(params, x):
        def layer(x, p):
            gate = jax.nn.sigmoid(apply(p["gate"], x))
            return gate * jax.nn.relu(apply(p["change"], x)) + (1 - gate) * x, None

        return cross_entropy(apply(params["head"], jax.lax.scan(layer, x, params["layers"])[0]))

    return Patient(loss, params, (normal((BATCH, 32)),))


def lstm(forget=1.0, steps=30, last=True):
    """An LSTM that is asked at the end, or after each step."""
    params = {
        "wx": normal((8, 128), 0, 8**-0.5),
        "wh": jnp.concatenate(
            [jax.random.orthogonal(jax.random.key(i), 32) for i in range(4)], axis=1
        ),
        "bias": jnp.concatenate([jnp.zeros(32), jnp.full(32, forget), jnp.zeros(64)])[None],
        "head": dense(3, 32, 4, 32**-0.5),
    }

    def loss(p, xs):
        def step(state, x):
            h, c = state
            i, f, o, g = jnp.split(x @ p["wx"] + h @ p["wh"] + p["bias"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = (jnp.zeros((BATCH, 32)), jnp.zeros((BATCH, 32)))
        (h, _), hs = jax.lax.scan(step, start, xs)
        if last:
            return cross_entropy(apply(p["head"], h))
        return jax.vmap(cross_entropy)(apply(p["head"], hs)).mean()

    return Patient(loss, params, (normal((steps, BATCH, 8), 5),))


def forgetful():
    """An LSTM with a forget bias of -4, asked 36 steps after its last input."""
    patient = lstm(-4.0, 40)
    patient = patient._replace(args=(patient.args[0].at[4:].set(0.0),))
    return sick(patient, "vanishing", "w", "rank_collapse", "saturated")


def gru():
    """A GRU in Equinox, 25 steps, of whose states the mean is taken."""
    keys = jax.random.split(jax.random.key(0))
    model = (eqx.nn.GRUCell(8, 32, key=keys[0]), eqx.nn.Linear(32, 4, key=keys[1]))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(p, xs):
        cell, head = eqx.combine(p, static)

        def run(xs):
            states = jax.lax.scan(lambda h, x: (cell(x, h),) * 2, jnp.zeros(32), xs)[1]
            return head(states.mean(0))

        return cross_entropy(jax.vmap(run)(xs))

    return Patient(loss, params, (normal((BATCH, 25, 8), 5),))


def equilibrium(gain=0.6, activation=jnp.tanh, steps=40):
    """A deep equilibrium network: an iteration up to its fixed point."""
    params = {
        "inject": dense(0, 8, 32, 8**-0.5),
        "again": gain * jax.random.orthogonal(jax.random.key(1), 32),
        "head": dense(2, 32, 4),
    }

    def loss(p, x):
        inject = apply(p["inject"], x)
        step = lambda z, _: (activation(z @ p["again"] + inject), None)  # noqa: E731
        z = jax.lax.scan(step, jnp.zeros((BATCH, 32)), None, steps)[0]
        return cross_entropy(apply(p["head"], z))

    return Patient(loss, params, (normal((BATCH, 8)),))


def fourier_operator(scale=1 / 64, depth=3, width=8):
    """A Fourier neural operator; `scale` is that of the spectral weights."""
    keys = jax.random.split(jax.random.key(0), 2 * depth)
    draw = lambda key: scale * jax.random.uniform(key, (width, width, 8))  # noqa: E731
    params = {
        "lift": dense(0, 2, width, 0.5**0.5),
        "layers": [
            {
                "re": draw(keys[2 * i]),
                "im": draw(keys[2 * i + 1]),
                "skip": dense(i + 1, width, width, width**-0.5),
            }
            for i in range(depth)
        ],
        "first": dense(20, width, 32),
        "last": dense(21, 32, 1, 32**-0.5),
    }

    def loss(params, u, target):
        grid = jnp.broadcast_to(jnp.linspace(0, 1, 64)[None, :, None], u.shape)
        x = apply(params["lift"], jnp.concatenate([u, grid], -1))
        for i, p in enumerate(params["layers"]):
            modes = jnp.fft.rfft(x, axis=1)[:, :8]
            modes = jnp.einsum("bki,iok->bko", modes, jax.lax.complex(p["re"], p["im"]))
            modes = jnp.pad(modes, ((0, 0), (0, 33 - 8), (0, 0)))
            x = jnp.fft.irfft(modes, n=64, axis=1) + apply(p["skip"], x)
            x = jax.nn.gelu(x) if i < depth - 1 else x
        return jnp.mean(
            (apply(params["last"], jax.nn.gelu(apply(params["first"], x))) - target) ** 2
        )

    t = jnp.linspace(0, 1, 64)
    phase = jnp.arange(8)[:, None] / 3
    u = (jnp.sin(2 * jnp.pi * t + phase) + 0.5 * jnp.sin(6 * jnp.pi * t - phase))[..., None]
    return Patient(loss, params, (u, jnp.roll(u, 8, axis=1) ** 2))


def lora(b=0.0, a=None):
    """Adapters of rank 4 on a frozen network; B starts at 0."""
    frozen = {f"w{i}": normal((32, 32), i, (2 / 32) ** 0.5) for i in range(3)}
    head = normal((32, 4), 9, 32**-0.5)
    params = {
        f"lora{i}": {
            "a": normal((32, 4), 20 + i, 32**-0.5) if a is None else jnp.full((32, 4), a),
            "b": jnp.full((4, 32), b),
        }
        for i in range(3)
    }

    def loss(p, x):
        for i in range(3):
            low = p[f"lora{i}"]
            x = jax.nn.relu(x @ frozen[f"w{i}"] + 2.0 * (x @ low["a"]) @ low["b"])
        return cross_entropy(x @ head)

    return Patient(loss, params, (normal((BATCH, 32)),))


class Moe(nnx.Module):
    """Four experts, each token sent to one of them, with a loss for balance."""

    def __init__(self, rngs):
        """Draw the weights."""
        init = nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
        self.embed = nnx.Linear(8, 16, rngs=rngs)
        self.router = nnx.Linear(16, 4, use_bias=False, kernel_init=init, rngs=rngs)
        self.up = nnx.List([nnx.Linear(16, 32, rngs=rngs) for _ in range(4)])
        self.down = nnx.List([nnx.Linear(32, 16, rngs=rngs) for _ in range(4)])
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        """Logits and the loss for balance."""
        x = self.embed(x)
        gates = nnx.softmax(self.router(x))
        chosen = jax.nn.one_hot(gates.argmax(-1), 4)
        outs = [down(nnx.relu(up(x))) for up, down in zip(self.up, self.down, strict=True)]
        y = sum((gates * chosen)[:, i : i + 1] * out for i, out in enumerate(outs))
        return self.head(x + y), 4 * (chosen.mean(0) * gates.mean(0)).sum()


def moe():
    """A mixture of experts, one to a token."""
    graph, params = nnx.split(Moe(nnx.Rngs(0)))

    def loss(p, x):
        logits, balance = nnx.merge(graph, p, copy=True)(x)
        return cross_entropy(logits) + 0.01 * balance

    return Patient(loss, params, (normal((64, 8)),))


def soft_experts(copies):
    """Experts mixed by a router that starts at 0; they may have begun as copies of one."""
    up, down = normal((4, 16, 32), 0, 0.25), normal((4, 32, 16), 1, 0.2)
    if copies:
        up, down = (jnp.broadcast_to(w[:1], w.shape) for w in (up, down))
    params = {
        "router": jnp.zeros((16, 4)),
        "experts": {"up": up, "down": down},
        "head": dense(3, 16, 4),
    }

    def loss(p, x):
        gates = jax.nn.softmax(x @ p["router"])
        hidden = jax.nn.gelu(jnp.einsum("bi,eio->beo", x, p["experts"]["up"]))
        out = jnp.einsum("beo,eoi,be->bi", hidden, p["experts"]["down"], gates)
        return cross_entropy(apply(p["head"], x + out))

    return Patient(loss, params, (normal((BATCH, 16)),))


def splines(x, order=3, grid=5):
    """B-splines on [-1, 1]."""
    step = 2 / grid
    knots = jnp.arange(-order, grid + order + 1) * step - 1
    x = x[..., None]
    basis = ((x >= knots[:-1]) & (x < knots[1:])).astype(x.dtype)
    for k in range(1, order + 1):
        left = (x - knots[: -(k + 1)]) / (knots[k:-1] - knots[: -(k + 1)]) * basis[..., :-1]
        right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k]) * basis[..., 1:]
        basis = left + right
    return basis


def kan(reach=1.0):
    """A Kolmogorov-Arnold network; its inputs lie within `reach`."""
    sizes = (2, 5, 1)
    params = [
        {
            "base": normal((n, m), i, n**-0.5),
            "spline": normal((n, 8, m), 10 + i, 0.02),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]

    def loss(params, x, y):
        for p in params:
            x = jax.nn.silu(x) @ p["base"] + jnp.einsum("bnk,nkm->bm", splines(x), p["spline"])
        return jnp.mean((x - y) ** 2)

    x = jax.random.uniform(jax.random.key(5), (64, 2), minval=-1.0, maxval=1.0)
    y = jnp.exp(jnp.sin(jnp.pi * x[:, :1]) + x[:, 1:] ** 2)
    x = reach * jnp.where(abs(x) < 0.1, 0.1, x) if reach > 1 else x
    return Patient(loss, params, (x, y))


def neural_ode(gain=1.0, end=1.0, steps=10):
    """A neural differential equation by RK4."""
    params = {"first": dense(0, 2, 32, 0.5**0.5), "last": dense(1, 32, 2, gain * 32**-0.5)}

    def loss(p, y, target):
        field = lambda y: apply(p["last"], jnp.tanh(apply(p["first"], y)))  # noqa: E731
        h = end / steps

        def step(y, _):
            a = field(y)
            b = field(y + h / 2 * a)
            c = field(y + h / 2 * b)
            d = field(y + h * c)
            return y + h / 6 * (a + 2 * b + 2 * c + d), None

        return jnp.mean((jax.lax.scan(step, y, None, steps)[0] - target) ** 2)

    y = normal((BATCH, 2), 7)
    return Patient(loss, params, (y, y @ jnp.array([[0.0, 1.0], [-1.0, 0.0]])))


def weight_norm(zero=False):
    """Weights as a length and a direction."""
    params = [
        {"v": normal((32, 32), i, 0.05), "g": jnp.full((1, 32), 1.4), "b": jnp.zeros((1, 32))}
        for i in range(3)
    ]
    params.append({"v": normal((32, 4), 9, 0.05), "g": jnp.ones((1, 4)), "b": jnp.zeros((1, 4))})
    if zero:
        params[-1]["v"] = jnp.zeros((32, 4))

    def loss(params, x):
        for i, p in enumerate(params):
            w = p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True)
            x = x @ w + p["b"]
            x = jax.nn.relu(x) if i < 3 else x
        return cross_entropy(x)

    return Patient(loss, params, (normal((BATCH, 32)),))


class Vae(nn.Module):
    """A variational autoencoder."""

    naive: bool = False

    @nn.compact
    def __call__(self, x, noise):
        h = nn.relu(nn.Dense(32)(x))
        mean, log_var = nn.Dense(4, name="mean")(h), nn.Dense(4, name="log_var")(h)
        z = mean + jnp.exp(log_var / 2) * noise
        logits = nn.Dense(x.shape[-1], name="pixels")(nn.relu(nn.Dense(32)(z)))
        kl = 0.5 * (jnp.exp(log_var) + mean**2 - 1 - log_var).sum(-1)
        if self.naive:
            p = nn.sigmoid(logits)
            likelihood = x * jnp.log(p) + (1 - x) * jnp.log(1 - p)
        else:
            likelihood = -optax.sigmoid_binary_cross_entropy(logits, x)
        return (kl - likelihood.sum(-1)).mean()


def vae(scale=1.0, steps=30, naive=False):
    """A VAE of black and white pixels, which may come as 0 to 255."""
    x = scale * (normal((BATCH, 36)) + 0.5 * normal((1, 36), 1) > 0).astype(float)
    noise = normal((BATCH, 4), 2)
    module = Vae(naive)
    params = module.init(jax.random.key(0), x[:1] / scale, noise[:1])["params"]
    loss = lambda p, x, noise: module.apply({"params": p}, x, noise)  # noqa: E731
    patient = Patient(loss, params, (x, noise))
    return trained(patient, optax.adam(1e-3), steps) if steps else patient


def critic(last_zero=False):
    """A Wasserstein critic with a gradient penalty."""
    params = {"a": dense(0, 2, 32), "b": dense(1, 32, 32), "c": dense(2, 32, 1, 32**-0.5)}
    if last_zero:
        params["c"]["kernel"] *= 0.0

    def score(p, x):
        h = jax.nn.leaky_relu(apply(p["a"], x), 0.2)
        return apply(p["c"], jax.nn.leaky_relu(apply(p["b"], h), 0.2))[:, 0]

    def loss(p, real, fake, mix):
        between = mix * real + (1 - mix) * fake
        slope = jax.grad(lambda x: score(p, x).sum())(between)
        length = jnp.sqrt((slope**2).sum(-1))
        return score(p, fake).mean() - score(p, real).mean() + 10 * ((length - 1) ** 2).mean()

    mix = jax.random.uniform(jax.random.key(6), (BATCH, 1))
    return Patient(loss, params, (normal((BATCH, 2), 4) + 2, normal((BATCH, 2), 5), mix))


def hypernetwork(careful=True):
    """A network whose weights another network makes, with or without the scale that this needs."""
    last = (64**-0.5 * 16**-0.5) if careful else (2 / 64) ** 0.5
    params = {
        "code": normal((1, 8), 0),
        "first": dense(1, 8, 64),
        "weights": [dense(2 + i, 64, 16 * 16, last) for i in range(5)],
        "head": dense(20, 16, 4, 0.25),
    }

    def loss(p, x):
        h = jax.nn.relu(apply(p["first"], p["code"]))
        for w in p["weights"]:
            x = jax.nn.relu(x @ apply(w, h).reshape(16, 16))
        return cross_entropy(apply(p["head"], x))

    return Patient(loss, params, (normal((BATCH, 16)),))


def tanh_net(bias=0.0):
    """Ten layers of tanh with the gain of 5/3, in Linen."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.initializers.variance_scaling(25 / 9, "fan_in", "normal")
            for _ in range(6):
                x = nn.tanh(nn.Dense(32, kernel_init=init)(x))
            return nn.Dense(4)(x)

    x = normal((BATCH, 32))
    params = Net().init(jax.random.key(0), x)["params"]
    return Patient(lambda p, x: cross_entropy(Net().apply({"params": p}, x)), params, (x,))


def constant_kernels():
    """Hidden kernels that are all 0.1, in Linen: all units of a layer are one."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.initializers.constant(0.1)
            x = nn.tanh(nn.Dense(16, kernel_init=init)(x))
            x = nn.tanh(nn.Dense(16, kernel_init=init)(x))
            return nn.Dense(4)(x)

    x = normal((BATCH, 16))
    params = Net().init(jax.random.key(0), x)["params"]
    patient = Patient(lambda p, x: cross_entropy(Net().apply({"params": p}, x)), params, (x,))
    return sick(patient, "symmetry", "Dense_", "rank_collapse")


def fooled():
    """A generator against a critic that is too sure: log(1 - D) has no slope left."""
    params = {"a": dense(0, 4, 32), "b": dense(1, 32, 2, 32**-0.5)}
    judge = {"a": dense(3, 2, 32), "b": dense(4, 32, 1, 0.1)}
    judge["b"]["bias"] -= 25.0

    def loss(p, z):
        x = apply(p["b"], jax.nn.relu(apply(p["a"], z)))
        logit = apply(judge["b"], jax.nn.relu(apply(judge["a"], x)))
        return jnp.log(1 - jax.nn.sigmoid(logit)).mean()

    patient = Patient(loss, params, (normal((BATCH, 4), 5),))
    return sick(patient, "saturated", "", "vanishing", "dead_gradient")


def lorenz():
    """A chaotic system's parameters from its state after 1500 steps."""
    params = {"sigma": jnp.array([10.0]), "rho": jnp.array([28.0]), "beta": jnp.array([8 / 3])}

    def loss(p, start):
        def step(s, _):
            x, y, z = s[..., 0], s[..., 1], s[..., 2]
            slope = jnp.stack(
                [p["sigma"] * (y - x), x * (p["rho"] - z) - y, x * y - p["beta"] * z], -1
            )
            return s + 0.01 * slope, None

        return jnp.mean(jax.lax.scan(step, start, None, 1500)[0][..., 2])

    patient = Patient(loss, params, (normal((16, 3)) + jnp.array([1.0, 1.0, 20.0]),))
    return sick(patient, "exploding", "", "forward_drift", "non_finite")


def moe_collapsed():
    """A router whose bias sends every token to the first expert; the others never learn."""
    params = {
        "router": {"kernel": normal((16, 4), 0, 0.25), "bias": jnp.array([[12.0, 0.0, 0.0, 0.0]])},
        "head": dense(3, 16, 4),
    }
    for i in range(4):
        params[f"expert{i}"] = {"up": dense(10 + i, 16, 32), "down": dense(20 + i, 32, 16, 0.2)}

    def loss(p, x):
        gates = jax.nn.softmax(apply(p["router"], x))
        gates = gates * jax.nn.one_hot(gates.argmax(-1), 4)
        out = x
        for i in range(4):
            e = p[f"expert{i}"]
            out = out + gates[:, i : i + 1] * apply(e["down"], jax.nn.relu(apply(e["up"], x)))
        return cross_entropy(apply(p["head"], out))

    patient = Patient(loss, params, (normal((BATCH, 16)),))
    return sick(patient, "dead_gradient", "expert", "vanishing", "saturated", "symmetry")


PATIENTS = {
    "maml, sine waves": maml,
    "ctc, two-way gru": ctc,
    "detector with a prior bias": detector,
    "bag of words, trained": bag,
    "highway, gates of -2": highway,
    "lstm, asked after each step": lambda: lstm(last=False),
    "gru, equinox": gru,
    "equilibrium": equilibrium,
    "fourier operator": fourier_operator,
    "lora": lora,
    "mixture of experts, nnx": moe,
    "soft experts": lambda: soft_experts(False),
    "kan": kan,
    "neural ode": neural_ode,
    "weight norm": weight_norm,
    "tanh, gain of 5/3": tanh_net,
    "vae, trained": vae,
    "critic with gradient penalty": critic,
    "hypernetwork": hypernetwork,
    "maml, rate too large": lambda: sick(
        maml(0.3, 4), "exploding", "", "non_finite", "forward_drift"
    ),
    "lstm, forget bias of -4": forgetful,
    "equilibrium without contraction": lambda: sick(
        equilibrium(2.0, jax.nn.relu), "exploding", "", "forward_drift", "rank_collapse"
    ),
    "lora, both 0": lambda: sick(lora(a=0.0), "dead_gradient", "lora", "vanishing", "symmetry"),
    "experts begun as copies": lambda: sick(soft_experts(True), "symmetry", "experts"),
    "router collapsed": moe_collapsed,
    "kan, inputs off the grid": lambda: sick(
        kan(40.0), "dead_gradient", "spline", "vanishing", "dead_units"
    ),
    "fourier operator without scale": lambda: sick(
        fourier_operator(1.0, 5), "exploding", "layers", "forward_drift"
    ),
    "highway, gates of -25": lambda: sick(highway(-25.0), "vanishing", "layers", "saturated"),
    "weight norm of zeros": lambda: sick(weight_norm(True), "non_finite", "[3]"),
    "vae, pixels to 255 and a log": lambda: sick(
        vae(255.0, 0, True), "non_finite", "pixels", "saturated", "exploding"
    ),
    "critic, norm at zero slope": lambda: sick(critic(True), "non_finite", ""),
    "hypernetwork, he": lambda: sick(
        hypernetwork(False), "exploding", "", "forward_drift", "rank_collapse"
    ),
    "constant kernels": constant_kernels,
    "generator fooled": fooled,
    "lorenz, 1500 steps": lorenz,
}
