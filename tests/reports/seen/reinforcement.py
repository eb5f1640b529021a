"""Reported faults of reinforcement learning, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# Q-learning on raw scores with a clipped error.


def _q_learning(penalty):
    key = jax.random.key(0)
    network = eqx.nn.MLP(16, 4, 64, 2, jax.nn.gelu, key=key)
    params, static = eqx.partition(network, eqx.is_inexact_array)
    states, following = jax.random.normal(jax.random.key(1), (2, 48, 16))
    actions = jnp.arange(48) % 4
    scores = jnp.array([10.0, 50.0, 100.0, 400.0])[jnp.arange(48) // 4 % 4]

    def loss(params, states, actions, scores, following):
        q = jax.vmap(eqx.combine(params, static))
        target = scores + 0.99 * jnp.max(jax.lax.stop_gradient(q(following)), -1)
        chosen = jnp.take_along_axis(q(states), actions[:, None], -1)[:, 0]
        return jnp.mean(penalty(target - chosen))

    return loss, params, (states, actions, scores, following)


def dqn_clipped_error():
    """The error is clipped before it is squared."""

    def penalty(delta):
        return jnp.clip(delta, -1, 1) ** 2  # fault: dqn_clipped_error

    return _q_learning(penalty)


def dqn_clipped_error_fixed():
    """Huber's loss, whose slope is clipped and not the error."""
    return _q_learning(optax.losses.huber_loss)


# A KL penalty towards a reference policy, clipped after its exponential.


class Writer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(32, 48, name="embed")(tokens)
        x = x + nn.Dense(48, name="mix")(nn.silu(nn.Dense(96, name="wide")(x)))
        return nn.Dense(32, name="logits")(nn.RMSNorm(name="norm")(x))


def _kl_penalty(kl):
    model = Writer()
    tokens = jax.random.randint(jax.random.key(1), (8, 17), 0, 32)
    params = model.init(jax.random.key(0), tokens)["params"]
    # Tokens over 28 were forbidden later; some of the texts are older than that.
    forbidden = jnp.where(jnp.arange(32) > 28, -100.0, 0.0)
    reference = jax.nn.log_softmax(jax.random.normal(jax.random.key(2), (8, 16, 32)))
    advantage = jax.random.normal(jax.random.key(3), (8, 1))

    def loss(params, tokens, reference, advantage):
        logits = model.apply({"params": params}, tokens[:, :-1]) + forbidden
        taken = tokens[:, 1:, None]
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), taken, -1)[..., 0]
        logp_reference = jnp.take_along_axis(reference, taken, -1)[..., 0]
        ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))
        return jnp.mean(0.1 * kl(logp_reference - logp) - ratio * advantage)

    return loss, params, (tokens, reference, advantage)


def kl_clipped_late():
    """The estimate is clipped when the exponential has overflowed already."""

    def k3(difference):
        estimate = jnp.exp(difference) - 1 - difference  # fault: kl_clipped_late
        return jnp.clip(estimate, -10, 10)

    return _kl_penalty(k3)


def kl_clipped_late_fixed():
    """The difference is bounded before the exponential."""

    def k3(difference):
        difference = jnp.clip(difference, -20, 20)
        return jnp.clip(jnp.exp(difference) - 1 - difference, -10, 10)

    return _kl_penalty(k3)


# Classifiers of source and target dynamics.


class Domains(nnx.Module):
    def __init__(self, ending, rngs):
        self.ending = ending
        self.first = nnx.Linear(22, 64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.third = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, state, action, following):
        x = jnp.concatenate([state, action, following], -1)
        x = nnx.gelu(self.second(nnx.gelu(self.first(x))))
        return self.ending(self.third(x))


def _domains(ending):
    graph, params = nnx.split(Domains(ending, nnx.Rngs(0)))
    keys = jax.random.split(jax.random.key(1), 3)
    state = jax.random.normal(keys[0], (64, 8))
    action = jax.random.normal(keys[1], (64, 6))
    target = jnp.arange(64) % 2
    following = state + 0.5 * target[:, None] + 0.1 * jax.random.normal(keys[2], (64, 8))

    def loss(params, state, action, following, target):
        logits = nnx.merge(graph, params)(state, action, following)
        return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

    return loss, params, (state, action, following, target)


def domains_double_softmax():
    """The classifier ends in a softmax, its loss begins with another."""
    return _domains(jax.nn.softmax)  # fault: domains_double_softmax


def domains_double_softmax_fixed():
    """The classifier gives its logits."""
    return _domains(lambda logits: logits)


# A deterministic policy on a car's raw readings.


def _driver(scale):
    def network(key, sizes):
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes, sizes[1:], strict=False)
        return [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in pairs]

    def apply(layers, x):
        for w, b in layers[:-1]:
            x = jax.nn.softplus(x @ w + b) - jnp.log(2)
        return x @ layers[-1][0] + layers[-1][1]

    ranges = jnp.array([200.0] * 8 + [90.0, 3.0, 12.0, 9000.0])
    state = ranges * jax.random.uniform(jax.random.key(1), (64, 12))
    critic = network(jax.random.key(2), (15, 64, 64, 1))
    params = {"actor": network(jax.random.key(0), (12, 64, 64, 3))}

    def loss(params, critic, state):
        action = jnp.tanh(apply(params["actor"], state / scale(ranges)))  # fault: ddpg_raw_state
        return -jnp.mean(apply(critic, jnp.concatenate([state / ranges, action], -1)))

    return loss, params, (critic, state)


def ddpg_raw_state():
    """Distances, speeds and revolutions go into the actor as they are measured."""
    return _driver(jnp.ones_like)


def ddpg_raw_state_fixed():
    """Every reading is divided by its range."""
    return _driver(lambda ranges: ranges)


# A healthy one: the loss of the first update of a group is 0.


def grpo_zero_loss():
    """Advantages of mean 0 and ratios of 1 make a loss of 0 with a useful gradient."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "embed": jax.random.normal(keys[0], (32, 32)),
        "wide": jax.random.normal(keys[1], (32, 64)) / 32**0.5,
        "back": jax.random.normal(keys[2], (64, 32)) / 64**0.5,
        "logits": jax.random.normal(keys[3], (32, 32)) / 32**0.5,
    }
    tokens = jax.random.randint(keys[4], (8, 17), 0, 32)
    reward = (tokens % 3 == 0).mean(-1)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-4)

    def log_probabilities(params, tokens):
        x = params["embed"][tokens[:, :-1]]
        x = x + jax.nn.gelu(x @ params["wide"]) @ params["back"]
        logp = jax.nn.log_softmax(x @ params["logits"])
        return jnp.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]

    def loss(params, tokens, old, advantage):
        ratio = jnp.exp(log_probabilities(params, tokens) - old)
        bounded = jnp.clip(ratio, 0.8, 1.2)
        advantage = advantage[:, None]
        return -jnp.mean(jnp.minimum(ratio * advantage, bounded * advantage))

    return loss, params, (tokens, log_probabilities(params, tokens), advantage)


REPORTS = {
    "dqn_clipped_error": Report(
        source="devsisters/DQN-tensorflow#16 (also spragunr/deep_q_rl#46)",
        symptom="the gradient is exactly zero where the error of Q is large",
        truth="clip has slope 0 outside its bounds: an error over 1 gives no gradient, and with "
        "raw scores all errors are over 1. At the clip. Huber's loss instead.",
        kinds=("dead_gradient", "saturated", "vanishing"),
        make=dqn_clipped_error,
        fixed=dqn_clipped_error_fixed,
        shows=lambda value, grads: norm(grads) == 0,
        remedy=r"huber|clip|slope|scale|straight",
    ),
    "kl_clipped_late": Report(
        source="OpenRLHF/OpenRLHF#1335 (also THUDM/slime#2198, radixark/miles#1363)",
        symptom="the clipped KL and the loss are finite, the gradients nan",
        truth="for a token that the policy all but forbids the exponential of the difference is "
        "inf; the clip behind it hides that in the value, and gives 0 * inf in the gradient. At "
        "the exponential. Bound the difference before it.",
        kinds=("non_finite",),
        make=kl_clipped_late,
        fixed=kl_clipped_late_fixed,
        shows=lambda value, grads: bool(np.isfinite(value)) and not np.isfinite(norm(grads)),
        remedy=r"clip|clamp|bound|exp|before|overflow|where|float",
    ),
    "domains_double_softmax": Report(
        source="OffDynamicsRL/off-dynamics-rl#5",
        symptom="softmax outputs of the classifier are treated as logits, the penalty is weak",
        truth="a softmax in the classifier and a second one in the loss: the gradient is at most "
        "half and the loss cannot come under 0.31. Give the logits to the loss.",
        kinds=("double_softmax",),
        make=domains_double_softmax,
        fixed=domains_double_softmax_fixed,
        shows=lambda value, grads: norm(grads["third"]) < 0.2,
        remedy=r"softmax|logits",
    ),
    "ddpg_raw_state": Report(
        source="floodsung/DDPG#6 (also ZhihanLee/DDPG_Learning#2)",
        symptom="all actions are 1 or -1 from the start and stay there",
        truth="readings of hundreds and thousands go into the actor unscaled, so its tanh is "
        "saturated for every state. At the tanh. Normalise the states.",
        kinds=("saturated", "forward_drift", "dead_units"),
        make=ddpg_raw_state,
        fixed=ddpg_raw_state_fixed,
        shows=lambda value, grads: norm(grads["actor"][-1][1]) < 1e-3,
        params=r"actor",
        remedy=r"normali|scale|standardi|input|init|range|divide",
    ),
    "grpo_zero_loss": Report(
        source="bbruceyuan/Hands-On-Large-Language-Models-CN#9 (also airobotlab/KoChatGPT#2)",
        symptom="the actor's loss is 0 in the first update",
        truth="nothing is broken: all ratios are 1 and the advantages' mean is 0; the gradient is "
        "that of the policy gradient.",
        kinds=(),
        make=grpo_zero_loss,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
