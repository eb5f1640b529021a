"""Initialisations and heads: softmax twice, sigmoids in a row, equal factors, equal units."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.reports.report import Report


def _size(leaf):
    return float(jnp.sqrt(jnp.mean(jnp.square(leaf))))


# ------------------------------------------------------------------------------------ softmax twice


class Digits(nn.Module):
    """A small convolutional classifier."""

    probabilities: bool

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(12, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(16, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        logits = nn.Dense(10, name="head")(x)
        if self.probabilities:
            return nn.softmax(logits)
        return logits


def _digits(probabilities):
    model = Digits(probabilities)
    x = jax.random.normal(jax.random.key(1), (32, 12, 12, 1))
    y = jnp.arange(32) % 10
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        pred = model.apply({"params": params}, x)
        one_hot = jax.nn.one_hot(y, 10)
        return optax.softmax_cross_entropy(pred, one_hot).mean()  # fault: softmax_then_softmax

    return loss, params, (x, y)


def make_softmax_then_softmax():
    """Make a classifier whose probabilities are given to a cross-entropy of logits."""
    return _digits(True)


def fixed_softmax_then_softmax():
    """Make the same classifier with logits."""
    return _digits(False)


# -------------------------------------------------------------------------------- sigmoids in a row


def _binary_to_real(activation, init):
    keys = jax.random.split(jax.random.key(0), 9)
    widths = [24, 64, 64, 64, 64, 64, 64]
    params = [
        {"w": init(key, (a, b), jnp.float32), "b": jnp.zeros(b)}
        for key, a, b in zip(keys, widths, widths[1:], strict=False)
    ]
    params.append({"w": jax.nn.initializers.lecun_normal()(keys[6], (64, 1)), "b": jnp.zeros(1)})
    x = jax.random.bernoulli(keys[7], 0.5, (64, 24)).astype(jnp.float32)
    y = jax.random.normal(keys[8], (64, 1))

    def loss(params, x, y):
        for layer in params[:-1]:
            x = activation(x @ layer["w"] + layer["b"])  # fault: sigmoids_in_a_row
        return jnp.square(x @ params[-1]["w"] + params[-1]["b"] - y).mean()

    return loss, params, (x, y)


def make_sigmoids_in_a_row():
    """Make a regression of binary vectors through six layers of sigmoids."""
    return _binary_to_real(jax.nn.sigmoid, jax.nn.initializers.glorot_uniform())


def fixed_sigmoids_in_a_row():
    """Make the same regression with leaky ReLUs and weights drawn for them."""
    return _binary_to_real(jax.nn.leaky_relu, jax.nn.initializers.he_normal())


# --------------------------------------------------------------- factors that begin at one constant


def _ratings(draw):
    params = {
        "users": draw(jax.random.key(0), (20, 8)),
        "items": draw(jax.random.key(1), (30, 8)),
        "user_bias": jnp.zeros(20),
        "item_bias": jnp.zeros(30),
    }
    keys = jax.random.split(jax.random.key(2), 3)
    user = jnp.arange(240) % 20
    item = jax.random.permutation(keys[0], jnp.arange(240) % 30)
    rating = jnp.clip(jnp.round(3.5 + jax.random.normal(keys[1], (240,))), 1, 5)

    def loss(params, user, item, rating):
        p, q = params["users"][user], params["items"][item]  # fault: constant_factors
        guess = 3.5 + params["user_bias"][user] + params["item_bias"][item] + (p * q).sum(-1)
        return jnp.square(guess - rating).mean() + 0.02 * (p**2 + q**2).sum(-1).mean()

    return loss, params, (user, item, rating)


def make_constant_factors():
    """Make a matrix factorisation whose factors all begin at 0.1."""
    return _ratings(lambda key, shape: jnp.full(shape, 0.1))


def fixed_constant_factors():
    """Make the same factorisation with random factors."""
    return _ratings(lambda key, shape: 0.3 * jax.random.normal(key, shape))


def _equal_columns(value, grads):
    users = np.asarray(grads["users"])
    return bool(np.allclose(users, users[:, :1], rtol=1e-4, atol=1e-8))


# ------------------------------------------------------------- a threshold deep in a sigmoid's tail


class Pruned(eqx.Module):
    """Click prediction from two embeddings whose small entries are pruned by a learnt threshold."""

    fields: list
    thresholds: list
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, start, key):
        """Draw the weights."""
        keys = jax.random.split(key, 4)
        self.fields = [jax.random.normal(key, (10, 12)) for key in keys[:2]]
        self.thresholds = [jnp.full((10, 1), start), jnp.full((10, 1), start)]
        self.hidden = eqx.nn.Linear(24, 48, key=keys[2])
        self.out = eqx.nn.Linear(48, 1, key=keys[3])

    def __call__(self, ids):
        kept = []
        for i in range(2):
            v, s = self.fields[i][ids[i]], self.thresholds[i][ids[i]]
            cut = jax.nn.sigmoid(s)  # fault: pruning_threshold
            kept.append(jnp.sign(v) * jax.nn.relu(jnp.abs(v) - cut))
        return self.out(jax.nn.gelu(self.hidden(jnp.concatenate(kept))))[0]


def _clicks(start):
    params, static = eqx.partition(Pruned(start, jax.random.key(0)), eqx.is_array)
    ids = jnp.stack([jnp.arange(60) % 10, jnp.arange(60) // 6], 1)
    click = jax.random.bernoulli(jax.random.key(1), 0.4, (60,)).astype(jnp.float32)

    def loss(params, ids, click):
        logits = jax.vmap(eqx.combine(params, static))(ids)
        return optax.sigmoid_binary_cross_entropy(logits, click).mean()

    return loss, params, (ids, click)


def make_pruning_threshold():
    """Make learnt thresholds sigmoid(s) that begin at s = -150."""
    return _clicks(-150.0)


def fixed_pruning_threshold():
    """Make the same thresholds, begun at s = -2."""
    return _clicks(-2.0)


# ----------------------------------------------------------------- a net widened by copies of units


def _widened(noise):
    keys = jax.random.split(jax.random.key(0), 6)
    small = jax.random.normal(keys[0], (16, 32)) * jnp.sqrt(2 / 16)
    bias = 0.1 * jax.random.normal(keys[1], (32,))
    out = jax.random.normal(keys[2], (32, 6)) / jnp.sqrt(32)
    wide = jnp.concatenate([small, small], 1)
    params = {
        "hidden": {
            "w": wide + noise * jax.random.normal(keys[3], wide.shape),
            "b": jnp.concatenate([bias, bias]),
        },
        "out": {"w": jnp.concatenate([out, out]) / 2, "b": jnp.zeros(6)},
    }
    x = jax.random.normal(keys[4], (48, 16))
    y = jax.random.randint(keys[5], (48,), 0, 6)

    def loss(params, x, y):
        h = jax.nn.relu(
            x @ params["hidden"]["w"] + params["hidden"]["b"]
        )  # fault: widened_by_copies
        logits = h @ params["out"]["w"] + params["out"]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, y)


def make_widened_by_copies():
    """Make a layer of 64 units from a trained one of 32, each unit copied as it is."""
    return _widened(0.0)


def fixed_widened_by_copies():
    """Make the same layer with noise on the copies."""
    return _widened(0.1)


def _equal_copies(value, grads):
    w = np.asarray(grads["hidden"]["w"])
    return bool(np.allclose(w[:, :32], w[:, 32:], rtol=1e-4, atol=1e-8))


REPORTS = {
    "softmax_then_softmax": Report(
        source="aymericdamien/TensorFlow-Examples#50 (also taehoonlee/tensornets#45)",
        symptom="the accuracy is unstable and lower than with the plain formula",
        truth="the model ends in a softmax and the cross-entropy takes another one: the gradient "
        "is weak and the loss cannot fall under 1.46. At the cross-entropy (and the model's "
        "softmax). Fix: return logits.",
        kinds=("double_softmax",),
        make=make_softmax_then_softmax,
        fixed=fixed_softmax_then_softmax,
        shows=lambda value, grads: _size(grads["head"]["kernel"]) < 0.01,
        remedy=r"logit|softmax|log_softmax|twice",
    ),
    "sigmoids_in_a_row": Report(
        source="https://ai.stackexchange.com/questions/16557 (also "
        "https://stackoverflow.com/questions/20009078)",
        symptom="the network does not even fit the training data; fewer layers do better",
        truth="a sigmoid's slope is at most 1/4, so that each layer takes three quarters or more "
        "of the gradient. At every sigmoid; the first layers get nothing. Fix: ReLU (and He "
        "initialisation).",
        kinds=("vanishing",),
        make=make_sigmoids_in_a_row,
        fixed=fixed_sigmoids_in_a_row,
        shows=lambda value, grads: _size(grads[0]["w"]) < 1e-3 * _size(grads[-1]["w"]),
        remedy=r"relu|activation|sigmoid|init|norm|residual|tanh|gelu|gain|scale",
    ),
    "constant_factors": Report(
        source="NicolasHug/Surprise#22",
        symptom="all users get the same recommendations: the factors of a user never differ",
        truth="all factors begin at 0.1: the eight of a user have the same gradient and stay "
        "equal, as one factor would. At the initialisation of the factors. Fix: random factors.",
        kinds=("symmetry",),
        make=make_constant_factors,
        fixed=fixed_constant_factors,
        shows=_equal_columns,
        params=r"users|items",
        remedy=r"random|init|symmetr|differ|noise|equal|same",
    ),
    "pruning_threshold": Report(
        source="ssui-liu/learnable-embed-sizes-for-RecSys#4",
        symptom="after the training the thresholds' parameters are all still -150",
        truth="sigmoid(-150) is 0 in float32 and so is its slope: the thresholds have no gradient. "
        "At the sigmoid. Fix: begin where the sigmoid has a slope (the authors let weight decay "
        "pull it there).",
        kinds=("saturated", "dead_gradient", "vanishing"),
        make=make_pruning_threshold,
        fixed=fixed_pruning_threshold,
        shows=lambda value, grads: max(map(_size, grads.thresholds)) == 0,
        params=r"thresholds",
        remedy=r"init|start|begin|sigmoid|satur|range|scale|closer|smaller|bias|clip",
    ),
    "widened_by_copies": Report(
        source="soumith/net2net.torch#3",
        symptom="the widened network gains nothing over the small one",
        truth="a unit and its copy have equal weights in and out, hence equal gradients: they stay "
        "equal. At the widened layer. Fix: a little noise on the copies.",
        kinds=("symmetry",),
        make=make_widened_by_copies,
        fixed=fixed_widened_by_copies,
        shows=_equal_copies,
        params=r"hidden|out",
        remedy=r"noise|random|init|symmetr|differ|equal|same",
    ),
}
