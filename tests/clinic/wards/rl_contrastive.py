"""Reinforcement and contrastive learning, healthy ones and sick ones."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, normal, sick

BATCH, STATE, ACTIONS = 64, 8, 4


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def layers(seed, sizes, last=None, bias=0.0):
    """He weights of a plain network; `last` is the gain of an orthogonal last layer."""
    params = [
        {"kernel": normal((n, m), seed + i, (2 / n) ** 0.5), "bias": jnp.full((1, m), bias)}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]
    params[-1]["bias"] *= 0.0
    if last is not None:
        init = nn.initializers.orthogonal(last)
        params[-1]["kernel"] = init(jax.random.key(seed), sizes[-2:])
    return params


def mlp(params, x, activation=jax.nn.relu):
    """A plain network."""
    for p in params[:-1]:
        x = activation(x @ p["kernel"] + p["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def transitions():
    """States, actions, rewards, next states and whether the episode goes on."""
    s = normal((BATCH, STATE), 1)
    actions = jnp.arange(BATCH) % ACTIONS
    after = 0.9 * s + 0.3 * normal((BATCH, STATE), 2)
    rewards = jnp.tanh(s[:, 0]) + 0.1 * (actions == 1)
    goes_on = (jnp.arange(BATCH) % 10 != 0).astype(float)
    return s, actions, rewards, after, goes_on


def pick(q, actions):
    """The values of the actions that were taken."""
    return jnp.take_along_axis(q, actions[:, None], 1)[:, 0]


def dqn(bias=0.0):
    """A deep Q network with a frozen copy as its target."""
    params = layers(0, (STATE, 64, 64, ACTIONS), bias=bias)
    target = jax.tree.map(jnp.array, params)

    def loss(p, s, a, r, after, goes_on):
        wanted = r + 0.99 * goes_on * mlp(target, after).max(-1)
        return optax.huber_loss(pick(mlp(p, s), a), wanted).mean()

    return Patient(loss, params, transitions())


def diverged():
    """Q-learning on its own moving target with a discount of 1.02 and squares: values run away."""
    params = layers(0, (STATE, 64, 64, ACTIONS))

    def loss(p, s, a, r, after, goes_on):
        wanted = r + 1.02 * jax.lax.stop_gradient(mlp(p, after).max(-1))
        return jnp.mean((pick(mlp(p, s), a) - wanted) ** 2)

    patient = Patient(loss, params, transitions())
    patient = trained(patient, optax.sgd(0.05), 1)
    args = (*patient.args[:2], patient.args[2] * 1e3, *patient.args[3:])
    patient = trained(patient._replace(args=args), optax.adam(0.3), 60)
    return sick(patient, "exploding", "", "forward_drift", "dead_units", "rank_collapse")


class Policy(nn.Module):
    """Orthogonal weights: sqrt(2) within, 0.01 for the policy, 1 for the value."""

    last: float = 0.01

    @nn.compact
    def __call__(self, s):
        init = nn.initializers.orthogonal
        heads = []
        for size, gain in ((ACTIONS, self.last), (1, 1.0)):
            h = nn.tanh(nn.Dense(64, kernel_init=init(2**0.5))(s))
            h = nn.tanh(nn.Dense(64, kernel_init=init(2**0.5))(h))
            heads.append(nn.Dense(size, kernel_init=init(gain))(h))
        return heads[0], heads[1][:, 0]


def ppo(last=0.01, steps=0, entropy=0.01):
    """Proximal policy optimisation; at first the ratio is 1 everywhere."""
    s, a, r, _, _ = transitions()
    module = Policy(last)
    params = module.init(jax.random.key(0), s)["params"]
    logits, value = module.apply({"params": params}, s)
    old = pick(jax.nn.log_softmax(logits), a)
    advantage = r - value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    def loss(p, s, a, returns, old, advantage):
        logits, value = module.apply({"params": p}, s)
        logs = jax.nn.log_softmax(logits)
        ratio = jnp.exp(pick(logs, a) - old)
        clipped = jnp.clip(ratio, 0.8, 1.2)
        gain = jnp.minimum(ratio * advantage, clipped * advantage).mean()
        spread = -(jnp.exp(logs) * logs).sum(-1).mean()
        return -gain + 0.5 * jnp.mean((value - returns) ** 2) - entropy * spread

    patient = Patient(loss, params, (s, a, r, old, advantage))
    return trained(patient, optax.adam(3e-4), steps) if steps else patient


def sac(clip=True, naive=False, scale=1.0):
    """The actor of soft actor-critic: a squashed Gaussian whose log-std lies within [-20, 2]."""
    params = layers(0, (STATE, 64, 64, 4))
    params[-1]["kernel"] = jax.random.uniform(jax.random.key(9), (64, 4), minval=-3e-3, maxval=3e-3)
    params[-1]["kernel"] *= scale
    critic = layers(20, (STATE + 2, 64, 1))

    def loss(p, s, noise):
        mean, log_std = jnp.split(mlp(p, s), 2, -1)
        log_std = jnp.clip(log_std, -20, 2) if clip else log_std
        u = mean + jnp.exp(log_std) * noise
        a = jnp.tanh(u)
        logs = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        squash = jnp.log(1 - a**2) if naive else 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
        q = mlp(critic, jnp.concatenate([s, a], -1))[:, 0]
        return (0.2 * (logs - squash).sum(-1) - q).mean()

    return Patient(loss, params, (transitions()[0], normal((BATCH, 2), 30)))


def two_views(size=16):
    """Two noisy views of the same things."""
    x = normal((BATCH, size), 1)
    return x + 0.3 * normal((BATCH, size), 2), x + 0.3 * normal((BATCH, size), 3)


def unit(z, eps=1e-12):
    """Rows of length 1."""
    return z / jnp.sqrt((z**2).sum(-1, keepdims=True) + eps)


def info_nce(temperature=0.1, sizes=(16, 64, 64, 16)):
    """SimCLR's loss on two views."""
    params = layers(0, sizes)

    def loss(p, a, b):
        logits = unit(mlp(p, a)) @ unit(mlp(p, b)).T / temperature
        labels = jnp.arange(BATCH)
        both = (logits, logits.T)
        return (
            sum(optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in both) / 2
        )

    return Patient(loss, params, two_views())


class Clip(nnx.Module):
    """Two towers and a learned scale that starts at 1 / 0.07."""

    def __init__(self, rngs):
        """Draw the weights."""
        make = lambda n: nnx.List(  # noqa: E731
            [nnx.Linear(n, 64, rngs=rngs), nnx.LayerNorm(64, rngs=rngs),
             nnx.Linear(64, 16, use_bias=False, rngs=rngs)]
        )  # fmt: skip
        self.image, self.text = make(16), make(12)
        self.scale = nnx.Param(jnp.log(jnp.array([1 / 0.07])))

    def __call__(self, image, text):
        """The logits."""
        towers = []
        for (first, norm, last), x in ((self.image, image), (self.text, text)):
            towers.append(unit(last(norm(nnx.gelu(first(x))))))
        return jnp.exp(self.scale[...]) * towers[0] @ towers[1].T


def clip(steps=0):
    """CLIP in NNX."""
    graph, params = nnx.split(Clip(nnx.Rngs(0)))

    def loss(p, image, text):
        logits = nnx.merge(graph, p, copy=True)(image, text)
        labels = jnp.arange(BATCH)
        a = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return (a + optax.softmax_cross_entropy_with_integer_labels(logits.T, labels).mean()) / 2

    image, other = two_views()
    patient = Patient(loss, params, (image, other[:, :12]))
    return trained(patient, optax.adamw(1e-3), steps) if steps else patient


def triplet(margin=1.5, root=False):
    """A triplet loss on the sphere; some of the triplets lie beyond the margin."""
    params = layers(0, (16, 64, 16))

    def loss(p, anchor, near, away):
        a, b, c = (unit(mlp(p, x)) for x in (anchor, near, away))
        close, apart = ((a - b) ** 2).sum(-1), ((a - c) ** 2).sum(-1)
        if root:
            close, apart = jnp.sqrt(close), jnp.sqrt(apart)
        return jax.nn.relu(close - apart + margin).mean()

    a, b = two_views()
    return Patient(loss, params, (a, b, jnp.roll(a, 7, axis=0)))


def vicreg():
    """VICReg with its expander, whose last layer has no bias."""
    params = layers(0, (16, 64, 64, 64))
    del params[-1]["bias"]

    def loss(p, a, b):
        last = {"bias": 0.0, **p[-1]}
        za, zb = mlp([*p[:-1], last], a), mlp([*p[:-1], last], b)
        total = 25.0 * jnp.mean((za - zb) ** 2)
        for z in (za, zb):
            z = z - z.mean(0)
            std = jnp.sqrt(z.var(0) + 1e-4)
            cov = z.T @ z / (BATCH - 1)
            off = cov - jnp.diag(jnp.diag(cov))
            total = total + 12.5 * jax.nn.relu(1 - std).mean()
            total = total + (off**2).sum() / z.shape[-1]
        return total

    return Patient(loss, params, two_views())


class Byol(eqx.Module):
    """An encoder and a predictor."""

    encoder: eqx.nn.MLP
    predictor: eqx.nn.MLP

    def __init__(self, key):
        """Draw the weights."""
        keys = jax.random.split(key)
        self.encoder = eqx.nn.MLP(16, 16, 64, 2, key=keys[0])
        self.predictor = eqx.nn.MLP(16, 16, 64, 1, key=keys[1])


def byol():
    """BYOL in Equinox, against a frozen target."""
    model = Byol(jax.random.key(0))
    target = Byol(jax.random.key(5)).encoder
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(p, a, b):
        m = eqx.combine(p, static)
        z = unit(jax.vmap(lambda x: m.predictor(m.encoder(x)))(a))
        return (2 - 2 * (z * unit(jax.vmap(target)(b))).sum(-1)).mean()

    return Patient(loss, params, two_views())


def collapsed():
    """Strong noise, and nothing that holds the views apart: all things have become one."""
    params, optimiser = layers(0, (16, 64, 64, 16)), optax.adam(3e-3)

    def loss(p, a, b):
        za, zb = (unit(mlp(p, x, jnp.tanh)) for x in (a, b))
        return ((za - zb) ** 2).sum(-1).mean()

    def step(state, key):
        params, opt = state
        views = two_views()[0] + 3 * jax.random.normal(key, (2, BATCH, 16))
        updates, opt = optimiser.update(jax.grad(loss)(params, *views), opt, params)
        return (optax.apply_updates(params, updates), opt), None

    keys = jax.random.split(jax.random.key(4), 300)
    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), keys)[0][0])
    patient = Patient(loss, run(params), two_views())
    return sick(patient, "rank_collapse", "", "vanishing", "saturated", "forward_drift")


def stale():
    """PPO whose old policy was another one: the ratio overflows."""
    patient = ppo(last=0.01)
    s, a, r, old, advantage = patient.args
    args = (s, a, r, jnp.where(jnp.arange(BATCH) % 8 == 0, -150.0, old), -abs(advantage))
    return sick(patient._replace(args=args), "non_finite", "Dense_2", "exploding")


def too_sure():
    """A policy whose last layer is drawn 500 times too large: it never tries anything."""
    return sick(ppo(last=500.0, entropy=0.0), "saturated", "Dense_2", "vanishing", "exploding")


PATIENTS = {
    "dqn": dqn,
    "ppo, ratio of 1": ppo,
    "ppo, trained": lambda: ppo(steps=40),
    "sac actor": sac,
    "infonce, 0.1": info_nce,
    "clip, nnx": clip,
    "clip, trained": lambda: clip(40),
    "triplet": triplet,
    "vicreg": vicreg,
    "byol, equinox": byol,
    "q-values run away": diverged,
    "dqn, dead units": lambda: sick(
        dqn(-20.0), "dead_units", "[", "vanishing", "rank_collapse", "dead_gradient"
    ),
    "policy too sure": too_sure,
    "ratio overflows": stale,
    "sac, log of 1 - tanh^2": lambda: sick(
        sac(naive=True, scale=2000.0), "non_finite", "", "saturated", "exploding"
    ),
    "sac, log-std without a bound": lambda: sick(
        sac(clip=False, scale=30000.0), "non_finite", "", "saturated", "exploding"
    ),
    "infonce, 1e-3": lambda: sick(info_nce(1e-3), "saturated", "", "exploding", "vanishing"),
    "triplets all beyond the margin": lambda: sick(
        triplet(0.2), "dead_gradient", "", "vanishing", "dead_units"
    ),
    "root of a distance of 0": lambda: (
        lambda p: sick(p._replace(args=(p.args[0], p.args[0], p.args[2])), "non_finite", "")
    )(triplet(root=True)),
    "views pulled into one": collapsed,
}
