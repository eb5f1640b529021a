"""Reported faults of models in science, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# A flow between plates: the pressure is known by its Laplacian only.


class Fluid(eqx.Module):
    velocity: eqx.nn.MLP
    pressure: eqx.nn.MLP

    def __init__(self, activation, key):
        a, b = jax.random.split(key)
        self.velocity = eqx.nn.MLP(2, 2, 40, 3, jnp.tanh, key=a)
        self.pressure = eqx.nn.MLP(2, "scalar", 40, 3, activation, use_final_bias=False, key=b)


def _fluid(activation):
    params, static = eqx.partition(Fluid(activation, jax.random.key(0)), eqx.is_inexact_array)
    points = jax.random.uniform(jax.random.key(1), (64, 2), minval=-1)
    x, y = jnp.pi * points.T
    measured = jnp.stack([jnp.sin(x) * jnp.cos(y), -jnp.cos(x) * jnp.sin(y)], -1)

    def loss(params, points, measured):
        model = eqx.combine(params, static)

        def residual(point):
            (ux, uy), (vx, vy) = jax.jacfwd(model.velocity)(point)
            laplacian = jnp.trace(jax.hessian(model.pressure)(point))  # fault: pinn_relu
            return laplacian + ux**2 + 2 * uy * vx + vy**2

        data = jnp.mean((jax.vmap(model.velocity)(points) - measured) ** 2)
        return data + jnp.mean(jax.vmap(residual)(points) ** 2)

    return loss, params, (points, measured)


def pinn_relu():
    """Second derivatives of a pressure network of relus."""
    return _fluid(jax.nn.relu)  # fault: pinn_relu


def pinn_relu_fixed():
    """A smooth activation."""
    return _fluid(jnp.tanh)


# A policy trained through a long simulation of a chaotic system.


def _convection(window):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "hidden": jax.random.normal(keys[0], (3, 16)) / 3**0.5,
        "action": jax.random.normal(keys[1], (16, 3)) / 4,
    }
    start = jax.random.normal(keys[2], (4, 3)) + jnp.array([0.0, 1.0, 20.0])

    def velocity(state, push):
        x, y, z = state.T
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1) + push

    def loss(params, start):
        def step(state, time):
            state = jnp.where(time % window == 0, jax.lax.stop_gradient(state), state)
            push = jnp.tanh(state / 20 @ params["hidden"]) @ params["action"]
            middle = state + 0.005 * velocity(state, push)
            state = state + 0.01 * velocity(middle, push)  # fault: chaotic_rollout
            return state, jnp.mean((state[:, 0] / 10 - 0.8) ** 2)

        return jnp.mean(jax.lax.scan(step, start, jnp.arange(2400))[1])

    return loss, params, (start,)


def chaotic_rollout():
    """The gradient through 2400 steps of chaos."""
    return _convection(1 << 20)


def chaotic_rollout_fixed():
    """The gradient through windows of 20 steps."""
    return _convection(20)


# An image as a network of sines.


class Sines(nn.Module):
    frequency: float

    @nn.compact
    def __call__(self, x):
        def uniform(bound):
            return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
                key, shape, dtype, -bound, bound
            )

        x = jnp.sin(30 * nn.Dense(64, kernel_init=uniform(1 / 2), name="first")(x))
        draw = uniform((6 / 64) ** 0.5)
        for i in range(4):
            h = nn.Dense(64, kernel_init=draw, name=f"hidden{i}")(x)
            x = jnp.sin(self.frequency * h)  # fault: siren_hidden_frequency
        return nn.Dense(1, name="grey")(x)


def _sines(frequency):
    model = Sines(frequency)
    points = jax.random.uniform(jax.random.key(1), (64, 2), minval=-1)
    grey = jnp.sin(3 * points[:, :1]) * jnp.cos(5 * points[:, 1:])
    params = model.init(jax.random.key(0), points)["params"]

    def loss(params, points, grey):
        return jnp.mean((model.apply({"params": params}, points) - grey) ** 2)

    return loss, params, (points, grey)


def siren_hidden_frequency():
    """The frequency of 30 in all layers, whose draw knows nothing of it."""
    return _sines(30.0)  # fault: siren_hidden_frequency


def siren_hidden_frequency_fixed():
    """The frequency of 30 in the first layer only."""
    return _sines(1.0)


# A healthy one: the loss of a flow is below zero.


class Coupling(eqx.Module):
    net: eqx.nn.MLP
    first: bool = eqx.field(static=True)

    def __call__(self, x):
        a, b = jnp.split(x, 2)
        a, b = (a, b) if self.first else (b, a)
        log_scale, shift = jnp.split(self.net(a), 2)
        log_scale = jnp.tanh(log_scale)
        b = b * jnp.exp(log_scale) + shift
        return jnp.concatenate((a, b) if self.first else (b, a)), log_scale.sum()


def flow_negative_loss():
    """A normalising flow on data of small spread, whose density is over 1."""
    keys = jax.random.split(jax.random.key(0), 5)
    mixing = jax.random.normal(keys[4], (8, 8)) / 8**0.5
    x = 0.03 * jnp.tanh(jax.random.normal(jax.random.key(1), (64, 8)) @ mixing)
    flow = {
        "log_scale": -jnp.log(x.std(0)),  # as actnorm begins
        "shift": -x.mean(0) / x.std(0),
        "couplings": [
            Coupling(eqx.nn.MLP(4, 8, 32, 1, jnp.tanh, key=k), i % 2 == 0)
            for i, k in enumerate(keys[:4])
        ],
    }
    params, static = eqx.partition(flow, eqx.is_inexact_array)

    def loss(params, x):
        flow = eqx.combine(params, static)

        def log_density(x):
            z = x * jnp.exp(flow["log_scale"]) + flow["shift"]
            total = flow["log_scale"].sum()
            for coupling in flow["couplings"]:
                z, more = coupling(z)
                total = total + more
            return total + jax.scipy.stats.norm.logpdf(z).sum()

        return -jnp.mean(jax.vmap(log_density)(x)) / 8

    return loss, params, (x,)


REPORTS = {
    "pinn_relu": Report(
        source="lululxvi/deepxde#80 (also tensorflow/tensorflow#9398)",
        symptom="a Navier-Stokes problem with relu does not converge",
        truth="relu is linear by parts, its second derivative 0: the Laplacian of the pressure is "
        "0 whatever its weights are, and they get no gradient at all. At the Laplacian (and the "
        "activation). A smooth activation such as tanh.",
        kinds=("dead_gradient",),
        make=pinn_relu,
        fixed=pinn_relu_fixed,
        shows=lambda value, grads: norm(grads.pressure) == 0 and norm(grads.velocity) > 1e-3,
        params=r"pressure",
        remedy=r"smooth|tanh|softplus|gelu|silu|swish|sin|activation|relu|second|curv",
    ),
    "chaotic_rollout": Report(
        source="google/brax#186",
        symptom="the raw norm of the gradient through a long episode is 1e18 or inf",
        truth="the simulated system is chaotic, its Jacobians multiply to exp(time * Lyapunov "
        "exponent). At the step of the simulation. Cut the gradient into short windows.",
        kinds=("exploding", "non_finite"),
        make=chaotic_rollout,
        fixed=chaotic_rollout_fixed,
        shows=lambda value, grads: not norm(grads) < 1e4,
        params=r"hidden|action",
        remedy=r"truncat|window|short|horizon|clip|stop_gradient|steps|damp",
    ),
    "siren_hidden_frequency": Report(
        source="lucidrains/siren-pytorch#1 and #2 (also dalmia/siren#5)",
        symptom="a network of sines fits slower and worse than the original implementation",
        truth="sin(30 (W x + b)) with W of bound sqrt(6 / n): the slope of each hidden layer is 30 "
        "times too large, the gradient grows by that at each. The frequency in the first layer "
        "only, or a bound divided by 30.",
        kinds=("exploding",),
        make=siren_hidden_frequency,
        fixed=siren_hidden_frequency_fixed,
        shows=lambda value, grads: norm(grads["first"]) > 1e3,
        remedy=r"init|scale|divide|smaller|frequen|omega|w0|30|gain|bound|norm",
    ),
    "flow_negative_loss": Report(
        source="andreas128/SRFlow#54 (also cpmpercussion/keras-mdn-layer#26)",
        symptom="the negative log-likelihood is negative",
        truth="nothing is broken: a density may be over 1.",
        kinds=(),
        make=flow_negative_loss,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
