"""Reported faults of graph networks and of recommenders."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# A graph convolution whose weights of edges are learned, and may be below zero.


class WeightedGraph(nn.Module):
    positive: object

    @nn.compact
    def __call__(self, x, senders, receivers, features):
        for i in range(2):
            edge = nn.Dense(16, name=f"edge{i}")(features)
            edge = self.positive(nn.Dense(1, name=f"weight{i}")(nn.tanh(edge)))[:, 0]
            degree = jax.ops.segment_sum(edge, receivers, len(x))
            inverse = degree**-0.5  # fault: gcn_negative_degree
            inverse = jnp.where(jnp.isinf(inverse), 0.0, inverse)
            weight = (inverse[senders] * edge * inverse[receivers])[:, None]
            h = nn.Dense(32, name=f"node{i}")(x)
            x = nn.tanh(jax.ops.segment_sum(weight * h[senders], receivers, len(x)))
        return nn.Dense(4, name="label")(x)


def _weighted_graph(positive):
    model = WeightedGraph(positive)
    keys = jax.random.split(jax.random.key(1), 3)
    loops = jnp.arange(40)
    senders, receivers = jax.random.randint(keys[0], (2, 120), 0, 40)
    senders = jnp.concatenate([senders, loops])
    receivers = jnp.concatenate([receivers, loops])
    x = jax.random.normal(keys[1], (40, 12))
    features = jax.random.normal(keys[2], (160, 5))
    params = model.init(jax.random.key(0), x, senders, receivers, features)["params"]

    def loss(params, x, senders, receivers, features):
        logits = model.apply({"params": params}, x, senders, receivers, features)
        labels = jnp.argmax(x[:, :4], -1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, params, (x, senders, receivers, features)


def gcn_negative_degree():
    """The edges weigh what a dense layer says."""
    return _weighted_graph(lambda weight: weight)  # fault: gcn_negative_degree


def gcn_negative_degree_fixed():
    """The edges' weights are positive."""
    return _weighted_graph(jax.nn.softplus)


# Messages in a complete graph, averaged.


class Messages(eqx.Module):
    message: eqx.nn.Linear
    own: eqx.nn.Linear | None

    def __init__(self, own, key):
        a, b = jax.random.split(key)
        self.message = eqx.nn.Linear(24, 24, key=a)
        self.own = eqx.nn.Linear(24, 24, use_bias=False, key=b) if own else None

    def __call__(self, x, adjacency):
        weight = adjacency / adjacency.sum(-1, keepdims=True)
        mean = weight @ jax.nn.silu(jax.vmap(self.message)(x))  # fault: complete_graph_mean
        return mean if self.own is None else mean + jax.vmap(self.own)(x)


class Players(eqx.Module):
    enter: eqx.nn.Linear
    layers: list[Messages]
    leave: eqx.nn.Linear

    def __init__(self, own, key):
        keys = jax.random.split(key, 5)
        self.enter = eqx.nn.Linear(10, 24, key=keys[0])
        self.layers = [Messages(own, k) for k in keys[1:4]]
        self.leave = eqx.nn.Linear(24, 3, key=keys[4])

    def __call__(self, x, adjacency):
        x = jnp.tanh(jax.vmap(self.enter)(x))
        for layer in self.layers:
            x = jnp.tanh(2 * layer(x, adjacency))
        return jax.vmap(self.leave)(x)


def _players(own):
    params, static = eqx.partition(Players(own, jax.random.key(0)), eqx.is_inexact_array)
    x = jax.random.normal(jax.random.key(1), (48, 10))
    labels = jnp.argmax(x[:, :3], -1)

    def loss(params, x, adjacency, labels):
        logits = eqx.combine(params, static)(x, adjacency)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, params, (x, jnp.ones((48, 48)), labels)


def complete_graph_mean():
    """All nodes hear all nodes, themselves too, and forget what they were."""
    return _players(False)


def complete_graph_mean_fixed():
    """Each node keeps a transform of its own features."""
    return _players(True)


def _one_direction(value, grads):
    spread = np.linalg.svd(np.asarray(grads.leave.weight), compute_uv=False)
    return bool(spread[1] < 1e-5 * spread[0])


# A factorisation of ratings that begins with the same factors everywhere.


def _ratings(draw):
    keys = jax.random.split(jax.random.key(0), 6)
    params = {
        "user_bias": jnp.zeros(40),
        "item_bias": jnp.zeros(30),
        "users": draw(keys[0], (40, 12)),
        "items": draw(keys[1], (30, 12)),
    }
    user = jax.random.randint(keys[2], (64,), 0, 40)
    item = jax.random.randint(keys[3], (64,), 0, 30)
    rating = jax.random.randint(keys[4], (64,), 1, 6).astype(jnp.float32)

    def loss(params, user, item, rating):
        likes = jnp.sum(params["users"][user] * params["items"][item], -1)
        likes = likes + params["user_bias"][user] + params["item_bias"][item] + 3.0
        return jnp.mean((likes - rating) ** 2)

    return loss, params, (user, item, rating)


def equal_factors():
    """All factors begin at 0.1."""

    def draw(key, shape):
        return jnp.full(shape, 0.1)  # fault: equal_factors

    return _ratings(draw)


def equal_factors_fixed():
    """Factors drawn at random."""
    return _ratings(lambda key, shape: 0.1 * jax.random.normal(key, shape))


# A factorisation machine on a table with the time of day in seconds since 1970.


def _machine(prepare):
    keys = jax.random.split(jax.random.key(0), 6)
    params = {
        "bias": jnp.array(3.0),
        "linear": 0.1 * jax.random.normal(keys[0], (34,)),
        "factors": 0.1 * jax.random.normal(keys[1], (34, 10)),
    }
    user = jax.nn.one_hot(jax.random.randint(keys[2], (64,), 0, 30), 30)
    uniform = jax.random.uniform(keys[3], (64, 4))
    numeric = uniform * jnp.array([40.0, 2e7, 2e8, 9e4]) + jnp.array([18.0, 8.8e8, 6e8, 1e4])
    rating = jax.random.randint(keys[4], (64,), 1, 6).astype(jnp.float32)

    def loss(params, user, numeric, rating):
        x = jnp.concatenate([user, prepare(numeric)], -1)
        pairs = (x @ params["factors"]) ** 2 - x**2 @ params["factors"] ** 2  # fault: raw_timestamp
        score = params["bias"] + x @ params["linear"] + pairs.sum(-1) / 2
        return jnp.mean((score - rating) ** 2)

    return loss, params, (user, numeric, rating)


def raw_timestamp():
    """Age, time of rating, time of release and zip code as they are."""
    return _machine(lambda numeric: numeric)  # fault: raw_timestamp


def raw_timestamp_fixed():
    """The numbers are standardised."""
    return _machine(lambda numeric: (numeric - numeric.mean(0)) / numeric.std(0))


REPORTS = {
    "gcn_negative_degree": Report(
        source="pyg-team/pytorch_geometric#61",
        symptom="GCNConv with learned weights of edges gives nan; inf is caught, nan is not",
        truth="the degree is a sum of weights of either sign and is raised to the power -0.5: nan "
        "where it is below zero. At that power. Keep the weights positive.",
        kinds=("non_finite",),
        make=gcn_negative_degree,
        fixed=gcn_negative_degree_fixed,
        shows=lambda value, grads: not np.isfinite(value),
        remedy=r"positive|negative|power|root|sqrt|softplus|clamp|max|abs|domain|where|below",
    ),
    "complete_graph_mean": Report(
        source="pyg-team/pytorch_geometric#305",
        symptom="after the propagation all nodes have (almost) the same features",
        truth="the graph is complete and has loops, so the mean of the messages is the same for "
        "all nodes: from the first layer on there is one vector, and every answer is the same. At "
        "the mean. Add a transform of the node's own features.",
        kinds=("rank_collapse",),
        make=complete_graph_mean,
        fixed=complete_graph_mean_fixed,
        shows=_one_direction,
        remedy=r"residual|skip|own|root|self|identity|input|norm|mix",
    ),
    "equal_factors": Report(
        source="NicolasHug/Surprise#22",
        symptom="the factors of a user are all equal after training, the top ten are poor",
        truth="all factors begin at 0.1, so all get the same gradient and stay equal: twelve "
        "factors do the work of one. At the initialisation. Draw them at random.",
        kinds=("symmetry", "rank_collapse"),
        make=equal_factors,
        fixed=equal_factors_fixed,
        shows=lambda value, grads: bool(np.ptp(np.asarray(grads["users"]), -1).max() < 1e-7),
        params=r"users|items",
        remedy=r"random|symmetr|init|draw|noise",
    ),
    "raw_timestamp": Report(
        source="online-ml/river#669 (also alexeygrigorev/libffm-python#5)",
        symptom="a factorisation machine predicts nan with the numeric columns among its inputs",
        truth="a timestamp of 9e8 enters the products of pairs squared beside columns of 0 and 1: "
        "scores of 1e17, gradients beyond any rate. At the pairs. Standardise the columns.",
        kinds=("exploding", "forward_drift", "update_ratio", "non_finite"),
        make=raw_timestamp,
        fixed=raw_timestamp_fixed,
        shows=lambda value, grads: not norm(grads["linear"]) < 1e6,
        params=r"linear|factors|bias",
        remedy=r"normali|standardi|scale|input|clip|magnitude|divide|log",
        optimizer=lambda: optax.sgd(0.01),
    ),
}
