"""Graph networks, healthy ones and sick ones."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, cross_entropy, normal, sick

NODES, FEATURES, HIDDEN = 40, 16, 32


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own graph."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def graph(degree=4, alone=0, nodes=NODES, seed=0):
    """A symmetric adjacency without loops, in which classes like their own; some may be alone."""
    same = (jnp.arange(nodes)[:, None] - jnp.arange(nodes)) % 4 == 0
    chance = jnp.where(same, 2.5, 0.5) * degree / nodes
    upper = jnp.triu(jax.random.uniform(jax.random.key(seed), (nodes, nodes)) < chance, 1)
    ring = jnp.roll(jnp.eye(nodes, dtype=bool), 1, axis=1)
    a = (upper | upper.T | ring | ring.T).astype(float)
    keep = (jnp.arange(nodes) >= alone).astype(float)
    return a * keep[:, None] * keep


def features(nodes=NODES):
    """Noisy hints at the class of each node."""
    hints = jax.nn.one_hot(jnp.arange(nodes) % 4, FEATURES)
    return normal((nodes, FEATURES), 1) + hints


def normalised(a, loops=True):
    """D^-1/2 (A + I) D^-1/2."""
    a = a + jnp.eye(len(a)) if loops else a
    d = a.sum(1) ** -0.5
    return d[:, None] * a * d


def glorot(seed, n, m, gain=1.0):
    """Glorot's weights."""
    return gain * normal((n, m), seed, (2 / (n + m)) ** 0.5)


def gcn(depth=2, a=None, bias=0.0, gain=1.0, norm=normalised, skip=0.0):
    """Kipf and Welling's network."""
    a = graph() if a is None else a
    sizes = [FEATURES] + [HIDDEN] * (depth - 1) + [4]
    params = [
        {"kernel": glorot(i, n, m, gain), "bias": jnp.full((1, m), bias * (i < depth - 1))}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]

    def loss(params, a, x):
        mix = norm(a)
        for i, p in enumerate(params):
            h = mix @ (x @ p["kernel"]) + p["bias"]
            h = jax.nn.relu(h) if i < depth - 1 else h
            x = x + h if skip and 0 < i < depth - 1 else h
        return cross_entropy(x)

    return Patient(loss, params, (a, features()))


def gcnii(depth=32):
    """GCNII: 32 layers with an initial residual and nearly identical maps."""
    params = {
        "first": glorot(0, FEATURES, HIDDEN),
        "layers": normal((depth, HIDDEN, HIDDEN), 1, HIDDEN**-0.5 / 3**0.5),
        "last": glorot(2, HIDDEN, 4),
    }

    def loss(p, a, x):
        mix, start = normalised(a), jax.nn.relu(x @ p["first"])
        beta = jnp.log(0.5 / jnp.arange(1, depth + 1) + 1)

        def layer(h, inputs):
            w, b = inputs
            h = 0.5 * mix @ h + 0.5 * start
            return jax.nn.relu((1 - b) * h + b * h @ w), None

        return cross_entropy(jax.lax.scan(layer, start, (p["layers"], beta))[0] @ p["last"])

    return Patient(loss, params, (graph(), features()))


class Gat(nn.Module):
    """Two layers of graph attention with 4 heads."""

    loops: bool = True

    @nn.compact
    def __call__(self, a, x):
        mask = (a + jnp.eye(len(a)) if self.loops else a) > 0
        for heads, size in ((4, 8), (1, 4)):
            init = nn.initializers.xavier_uniform()
            h = nn.Dense(heads * size, use_bias=False, kernel_init=init)(x)
            h = h.reshape(len(x), heads, size)
            left = self.param(f"left_{size}", init, (heads, size))
            right = self.param(f"right_{size}", init, (heads, size))
            scores = (h * left).sum(-1)[:, None] + (h * right).sum(-1)[None]
            scores = jnp.where(mask[..., None], nn.leaky_relu(scores, 0.2), -jnp.inf)
            x = jnp.einsum("ijh,jhs->ihs", nn.softmax(scores, axis=1), h)
            x = nn.elu(x.reshape(len(x), -1)) if heads > 1 else x[:, 0]
        return x


def gat(loops=True, alone=0):
    """A graph attention network in Linen."""
    a, x = graph(alone=alone), features()
    module = Gat(loops)
    params = module.init(jax.random.key(0), a, x)["params"]
    return Patient(lambda p, a, x: cross_entropy(module.apply({"params": p}, a, x)), params, (a, x))


class Mpnn(nnx.Module):
    """Gilmer's messages of edges, a GRU for the nodes, and a set read out."""

    def __init__(self, rngs):
        """Draw the weights."""
        self.first = nnx.Linear(FEATURES, 16, rngs=rngs)
        self.edge = nnx.Linear(1, 16, rngs=rngs)
        self.edge_out = nnx.Linear(16, 16, rngs=rngs)
        self.message = nnx.Linear(16, 16, rngs=rngs)
        self.cell = nnx.GRUCell(16, 16, rngs=rngs)
        self.gate = nnx.Linear(32, 16, rngs=rngs)
        self.last = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, a, x, length):
        """Logits of the nodes."""
        h = start = nnx.tanh(self.first(x))
        weight = nnx.sigmoid(self.edge_out(nnx.relu(self.edge(length[..., None]))))
        for _ in range(3):
            m = jnp.einsum("ij,ijc,jc->ic", a, weight, self.message(h))
            h, _ = self.cell(h, m)
        return self.last(nnx.sigmoid(self.gate(jnp.concatenate([h, start], -1))) * h)


def mpnn():
    """A message passing network in NNX, after a few dozen steps."""
    net, params = nnx.split(Mpnn(nnx.Rngs(0)))
    a, x = graph(), features()
    place = normal((NODES, 2), 4)
    length = jnp.abs(place[:, None] - place).sum(-1)
    loss = lambda p, a, x, d: cross_entropy(nnx.merge(net, p, copy=True)(a, x, d))  # noqa: E731
    return trained(Patient(loss, params, (a, x, length)), optax.adam(1e-3), 30)


class Gin(nn.Module):
    """Graph isomorphism layers, sums with batch norms."""

    norm: bool = True
    depth: int = 3
    activation: str = "relu"

    @nn.compact
    def __call__(self, a, x):
        for i in range(self.depth):
            eps = self.param(f"eps{i}", nn.initializers.zeros, (1,))
            h = (1 + eps) * x + a @ x
            for _ in range(2):
                h = nn.Dense(HIDDEN)(h)
                h = nn.BatchNorm(use_running_average=False)(h) if self.norm else h
                h = getattr(nn, self.activation)(h)
            x = h
        return nn.Dense(4)(x)


def gin(module=None, a=None):
    """A graph isomorphism network in Linen."""
    module, a, x = module or Gin(), graph() if a is None else a, features()
    variables = module.init(jax.random.key(0), a, x)
    params = variables.pop("params")

    def loss(p, a, x):
        return cross_entropy(
            module.apply({"params": p, **variables}, a, x, mutable=["batch_stats"])[0]
        )

    return Patient(loss, params, (a, x))


class Sage(eqx.Module):
    """GraphSAGE: means of neighbours, rows of length 1."""

    own: list
    near: list

    def __init__(self, key):
        """Draw the weights."""
        keys = jax.random.split(key, 4)
        sizes = ((FEATURES, HIDDEN), (HIDDEN, 4))
        self.own = [eqx.nn.Linear(n, m, key=k) for (n, m), k in zip(sizes, keys, strict=False)]
        self.near = [
            eqx.nn.Linear(n, m, False, key=k) for (n, m), k in zip(sizes, keys[2:], strict=True)
        ]

    def __call__(self, a, x):
        """Logits of the nodes."""
        mean = a / jnp.maximum(a.sum(1, keepdims=True), 1)
        h = jax.nn.relu(jax.vmap(self.own[0])(x) + mean @ jax.vmap(self.near[0])(x))
        h = h / jnp.sqrt((h * h).sum(-1, keepdims=True) + 1e-12)
        return jax.vmap(self.own[1])(h) + mean @ jax.vmap(self.near[1])(h)


def sage():
    """GraphSAGE in Equinox, with nodes that are alone."""
    params, static = eqx.partition(Sage(jax.random.key(0)), eqx.is_inexact_array)
    loss = lambda p, a, x: cross_entropy(eqx.combine(p, static)(a, x))  # noqa: E731
    return Patient(loss, params, (graph(alone=3), features()))


def egnn(root=False, trains=0):
    """Equivariant layers, whose coordinates hardly move at first, on a little molecule."""
    dense = lambda seed, n, m, gain=1.0: {  # noqa: E731
        "kernel": glorot(seed, n, m, gain), "bias": jnp.zeros((1, m))
    }  # fmt: skip
    params = {"embed": dense(0, 4, 16), "head": dense(1, 16, 1), "layers": []}
    for i in range(3):
        s = 10 * i + 10
        params["layers"].append(
            {
                "edge": [dense(s, 33, 16), dense(s + 1, 16, 16)],
                "place": [dense(s + 2, 16, 16), dense(s + 3, 16, 1, 0.001)],
                "node": [dense(s + 4, 32, 16), dense(s + 5, 16, 16)],
            }
        )

    def mlp(ps, x, last=True):
        for i, p in enumerate(ps):
            x = x @ p["kernel"] + p["bias"]
            x = jax.nn.silu(x) if i < len(ps) - 1 or last else x
        return x

    def loss(p, h, place, target):
        n = len(h)
        h = h @ p["embed"]["kernel"] + p["embed"]["bias"]
        other = 1 - jnp.eye(n)[..., None]
        for q in p["layers"]:
            between = place[:, None] - place[None]
            length = (between**2).sum(-1, keepdims=True)
            length = jnp.sqrt(length) if root else length
            pairs = jnp.broadcast_to(h[:, None], (n, n, 16)), jnp.broadcast_to(h[None], (n, n, 16))
            m = mlp(q["edge"], jnp.concatenate([*pairs, length], -1)) * other
            place = place + (between * mlp(q["place"], m, False) * other).sum(1) / (n - 1)
            h = h + mlp(q["node"], jnp.concatenate([h, m.sum(1) / n], -1), False)
        energy = (h @ p["head"]["kernel"] + p["head"]["bias"]).sum()
        return (energy - target[0]) ** 2 + jnp.mean((place - target[1:]) ** 2)

    kinds, place = jax.nn.one_hot(jnp.arange(10) % 4, 4), normal((10, 3), 2)
    target = jnp.concatenate([jnp.full((1, 3), 4.0), 1.1 * place])

    def scalar(p, h, place, target):
        return loss(p, h, place, target).mean()

    patient = Patient(scalar, params, (kinds, place, target))
    return trained(patient, optax.adam(1e-3), trains) if trains else patient


def smoothed():
    """Thirty-two layers of plain averaging: all nodes have become one."""
    patient = gcn(32, gain=2**0.5, a=graph(8))
    return sick(
        patient, "rank_collapse", "", "vanishing", "forward_drift", "dead_units", "exploding"
    )


def summed():
    """Eight layers of plain sums over many neighbours."""
    patient = gcn(8, a=graph(16), norm=lambda a: a + jnp.eye(NODES))
    return sick(patient, "exploding", "[", "forward_drift", "rank_collapse")


def alone():
    """D^-1/2 without loops, and nodes without neighbours: 0 times infinity."""
    patient = gcn(3, a=graph(alone=3), norm=lambda a: normalised(a, False))
    return sick(patient, "non_finite", "[0]")


def saturated():
    """Sums of the features of 600 neighbours go into a tanh."""
    nodes = 600
    params = [{"kernel": glorot(i, FEATURES, FEATURES)} for i in range(3)]
    params.append({"kernel": glorot(9, FEATURES, 4)})

    def loss(params, a, x):
        for p in params[:-1]:
            x = jnp.tanh(a @ (x @ p["kernel"]))
        return cross_entropy(x @ params[-1]["kernel"])

    a = jnp.ones((nodes, nodes)) - (normal((nodes, nodes), 3) > 1)
    patient = Patient(loss, params, (a, features(nodes) + 0.3))
    return sick(
        patient, "saturated", "[", "vanishing", "rank_collapse", "exploding", "forward_drift"
    )


def equal_weights():
    """All hidden kernels 0.1: all hidden features of a node are one."""
    patient = gcn(3)
    hidden = jax.tree.map(lambda w: jnp.full(w.shape, 0.1), patient.params[:-1])
    patient = patient._replace(params=[*hidden, patient.params[-1]])
    return sick(patient, "symmetry", "[", "rank_collapse")


PATIENTS = {
    "gcn": gcn,
    "gcn, trained": lambda: trained(gcn(), optax.adam(1e-2), 40),
    "gcnii, 32 layers": gcnii,
    "gat": gat,
    "mpnn, trained, nnx": mpnn,
    "gin": gin,
    "graphsage, equinox": sage,
    "egnn": egnn,
    "gcn of 32 layers": smoothed,
    "sums over many neighbours": summed,
    "nodes without neighbours": alone,
    "attention of lonely nodes": lambda: sick(gat(False, 3), "non_finite", ""),
    "egnn, root of a distance": lambda: sick(egnn(root=True), "non_finite", "layers"),
    "tanh of 600 neighbours": saturated,
    "gcn, dead units": lambda: sick(
        gcn(3, bias=-12.0), "dead_units", "[", "vanishing", "rank_collapse", "dead_gradient"
    ),
    "equal weights": equal_weights,
    "gin of sigmoids": lambda: sick(
        gin(Gin(False, 5, "sigmoid")), "vanishing", "Dense_0", "rank_collapse", "forward_drift",
        "saturated",
    ),
}  # fmt: skip
