"""Science, graphs and signals: eigenvectors, PDEs, rollouts, sines, spectra, oversmoothing."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.reports.report import Report


def _broken(tree):
    return any(not np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


# ----------------------------------------------------- charges from eigenvectors of equal molecules


@jax.custom_jvp
def _masked_eigh(matrix):
    return tuple(jnp.linalg.eigh(matrix))


@_masked_eigh.defjvp
def _masked_eigh_jvp(primals, tangents):
    values, vectors = _masked_eigh(*primals)
    turned = vectors.T @ tangents[0] @ vectors
    gaps = values[None, :] - values[:, None]
    apart = jnp.abs(gaps) > 1e-4
    mixing = jnp.where(apart, turned / jnp.where(apart, gaps, 1.0), 0.0)
    return (values, vectors), (jnp.diagonal(turned), vectors @ mixing)


def _charges(eigh):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "species": {"w": jax.random.normal(keys[0], (2, 16)), "b": jnp.zeros(16)},
        "level": 0.3 * jax.random.normal(keys[1], (16,)),
        "hopping": jnp.array(1.0),
    }
    one_hot = jnp.eye(2)[jnp.array([0, 1, 0, 1])]  # two molecules A-B, too far apart to touch
    bonds = jnp.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], jnp.float32)
    stretch = 1 + 0.1 * jax.random.normal(keys[2], (6, 2))
    stretch = stretch.at[2].set(1.0)  # the two molecules of one sample are in equilibrium
    target = jnp.tile(jnp.array([1.8, 0.2, 1.8, 0.2]), (6, 1))

    def loss(params, stretch, target):
        h = jnp.tanh(one_hot @ params["species"]["w"] + params["species"]["b"])
        levels = h @ params["level"]

        def one(stretch):
            strength = params["hopping"] * jnp.exp(1 - jnp.repeat(stretch, 2))
            matrix = jnp.diag(levels) - bonds * strength[:, None]
            _, vectors = eigh(matrix)  # fault: equal_molecules
            return 2 * jnp.square(vectors[:, :2]).sum(1)

        return jnp.square(jax.vmap(one)(stretch) - target).mean()

    return loss, params, (stretch, target)


def make_equal_molecules():
    """Make a tight-binding model of charges with a sample of two equal molecules."""
    return _charges(jnp.linalg.eigh)


def fixed_equal_molecules():
    """Make the same model with the pairs of equal levels masked in eigh's derivative."""
    return _charges(_masked_eigh)


# ------------------------------------------------------------------- a PDE's residual through ReLUs


def _poisson(activation):
    key = jax.random.key(0)
    net = eqx.nn.MLP("scalar", "scalar", 32, 3, activation, use_final_bias=False, key=key)
    params, static = eqx.partition(net, eqx.is_array)
    points = jax.random.uniform(jax.random.key(1), (48,))

    def loss(params, points):
        net = eqx.combine(params, static)

        def u(x):
            return net(x) - (1 - x) * net(0.0) - x * net(1.0)  # 0 at both ends

        curvature = jax.vmap(jax.grad(jax.grad(u)))(points)  # fault: relu_in_pde
        return jnp.square(curvature + 4 * jnp.sin(jnp.pi * points)).mean()

    return loss, params, (points,)


def make_relu_in_pde():
    """Make a network for Poisson's equation of ReLUs, whose second derivative is 0."""
    return _poisson(jax.nn.relu)


def fixed_relu_in_pde():
    """Make the same network of tanh."""
    return _poisson(jnp.tanh)


# ------------------------------------------------------- a policy through a long chaotic simulation


def _lorenz(state, push):
    x, y, z = state
    return jnp.stack([10 * (y - x) + push, x * (28 - z) - y, x * y - 8 / 3 * z])


def _rollout(truncation):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "hidden": {"w": jax.random.normal(keys[0], (3, 32)) / jnp.sqrt(3), "b": jnp.zeros(32)},
        "push": {"w": jax.random.normal(keys[1], (32, 1)) / jnp.sqrt(32), "b": jnp.zeros(1)},
    }
    start = jnp.array([1.0, 1.0, 25.0]) + 3 * jax.random.normal(keys[2], (8, 3))

    def loss(params, start):
        def step(state, index):
            stopped = jax.lax.stop_gradient(state)
            state = jnp.where(index % truncation == 0, stopped, state)
            scaled = (state - jnp.array([0.0, 0.0, 25.0])) / 10
            h = jnp.tanh(scaled @ params["hidden"]["w"] + params["hidden"]["b"])
            push = (h @ params["push"]["w"] + params["push"]["b"])[0]
            middle = state + 0.02 * _lorenz(state, push)
            state = state + 0.04 * _lorenz(middle, push)  # fault: long_rollout
            return state, jnp.square(scaled).mean() + 0.01 * push**2

        def one(state):
            return jax.lax.scan(step, state, jnp.arange(500))[1].mean()

        return jax.vmap(one)(start).mean()

    return loss, params, (start,)


def make_long_rollout():
    """Make a policy trained through 500 steps of a chaotic simulation."""
    return _rollout(10_000)


def fixed_long_rollout():
    """Make the same policy with the gradient cut every 10 steps."""
    return _rollout(10)


# --------------------------------------------------------------------- sines with the usual weights


class Siren(nn.Module):
    """A network of sines from coordinates to grey values."""

    hidden_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x):
        def first(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -1, 1) / shape[0]

        x = jnp.sin(30.0 * nn.Dense(64, kernel_init=first)(x))
        for _ in range(3):
            x = jnp.sin(30.0 * nn.Dense(64, kernel_init=self.hidden_init)(x))  # fault: siren_init
        return nn.Dense(1)(x)


def _image(hidden_init):
    model = Siren(hidden_init)
    x = jax.random.uniform(jax.random.key(1), (64, 2), minval=-1)
    y = jnp.sin(4 * x[:, :1]) * jnp.cos(3 * x[:, 1:])
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    return loss, params, (x, y)


def make_siren_init():
    """Make a network of sin(30 x) whose hidden weights are drawn as for any other layer."""
    return _image(nn.initializers.lecun_normal())


def fixed_siren_init():
    """Make the same network with hidden weights of sqrt(6 / n) / 30."""

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.sqrt(6 / shape[0]) / 30

    return _image(draw)


# -------------------------------------------------------------------- the spectrum of exact silence


class Enhancer(nnx.Module):
    """Two convolutions that draw a mask over the waveform."""

    def __init__(self, rngs):
        """Draw the weights."""
        self.first = nnx.Conv(1, 16, (9,), rngs=rngs)
        self.second = nnx.Conv(16, 1, (9,), rngs=rngs)

    def __call__(self, wave):
        return wave * nnx.sigmoid(self.second(nnx.gelu(self.first(wave[..., None]))))[..., 0]


def _spectra(under_root):
    graph, params = nnx.split(Enhancer(nnx.Rngs(0)), nnx.Param)
    time = jnp.arange(256)
    tone = jnp.sin(jax.random.uniform(jax.random.key(1), (6, 1), minval=0.1, maxval=0.9) * time)
    spoken = time < jnp.array([256, 200, 256, 144, 240, 256])[:, None]  # the rest is padding
    noisy = (tone + 0.3 * jax.random.normal(jax.random.key(2), tone.shape)) * spoken
    clean = tone * spoken
    angle = 2 * jnp.pi * jnp.outer(jnp.arange(32), jnp.arange(1, 16)) / 32
    window = jnp.hanning(32)[:, None]

    def magnitude(wave):
        frames = wave[:, jnp.arange(0, 225, 16)[:, None] + jnp.arange(32)]
        real, imaginary = frames @ (window * jnp.cos(angle)), frames @ (window * jnp.sin(angle))
        return jnp.sqrt(real**2 + imaginary**2 + under_root)  # fault: spectrum_of_silence

    def loss(params, noisy, clean):
        enhanced = nnx.merge(graph, params)(noisy)
        return jnp.abs(magnitude(enhanced) - magnitude(clean)).mean()

    return loss, params, (noisy, clean)


def make_spectrum_of_silence():
    """Make a spectral loss on clips that are padded with zeros."""
    return _spectra(0.0)


def fixed_spectrum_of_silence():
    """Make the same loss with 1e-8 under the root."""
    return _spectra(1e-8)


# ----------------------------------------------------------------- many graph convolutions in a row


def _graph(layers, initial):
    keys = jax.random.split(jax.random.key(0), layers + 5)
    upper = jnp.triu(jax.random.bernoulli(keys[0], 0.2, (40, 40)), 1)
    adjacency = (upper | upper.T | jnp.eye(40, dtype=bool)).astype(jnp.float32)
    degree = adjacency.sum(1)
    adjacency = adjacency / jnp.sqrt(degree[:, None] * degree)
    x = jax.random.normal(keys[1], (40, 24))
    y = jax.random.randint(keys[2], (40,), 0, 5)
    params = {
        "in": jax.random.normal(keys[3], (24, 32)) * jnp.sqrt(2 / 24),
        "convolutions": [jax.random.normal(key, (32, 32)) / 4 for key in keys[5:]],
        "out": jax.random.normal(keys[4], (32, 5)) / jnp.sqrt(32),
    }

    def loss(params, adjacency, x, y):
        start = h = jax.nn.leaky_relu(x @ params["in"], 0.2)
        for w in params["convolutions"]:
            mixed = (1 - initial) * adjacency @ h + initial * start  # fault: oversmoothing
            h = jax.nn.leaky_relu(mixed @ w, 0.2)
        logits = h @ params["out"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (adjacency, x, y)


def make_oversmoothing():
    """Make a plain graph network of eight convolutions, after which all nodes agree."""
    return _graph(8, 0.0)


def fixed_oversmoothing():
    """Make the same network whose convolutions mix the first layer in again."""
    return _graph(8, 0.2)


def _one_direction(value, grads):
    singular = jnp.linalg.svd(grads["out"], compute_uv=False)
    return float(singular[1]) < 0.02 * float(singular[0])


REPORTS = {
    "equal_molecules": Report(
        source="XanaduAI/GradDFT#35 (also jax-ml/jax#10527)",
        symptom="nan gradients through eigh while the energies are right",
        truth="the derivative of eigenvectors divides by differences of eigenvalues; two equal "
        "molecules have equal levels, so 1 / 0. At eigh. Fix: mask the equal pairs in its "
        "derivative (their mixing does not change the charges), or break the symmetry.",
        kinds=("non_finite",),
        make=make_equal_molecules,
        fixed=fixed_equal_molecules,
        shows=lambda value, grads: bool(np.isfinite(value)) and _broken(grads),
        remedy=r"eigen|eigh|degenera|equal|repeated|jitter|custom|mask|gap",
    ),
    "relu_in_pde": Report(
        source="ComputationalDomain/PINNs#1",
        symptom="with ReLU the physics-informed network does not train",
        truth="a network of ReLUs is piecewise linear: its second derivative is 0, and so is the "
        "gradient of a residual of second derivatives. At the second derivative. Fix: a smooth "
        "activation such as tanh.",
        kinds=("dead_gradient",),
        make=make_relu_in_pde,
        fixed=fixed_relu_in_pde,
        shows=lambda value, grads: _largest(grads) == 0,
        remedy=r"tanh|smooth|activation|relu|gelu|silu|swish|sin|second|deriv|linear",
    ),
    "long_rollout": Report(
        source="google/brax#186 (truncation: google/brax#38)",
        symptom="gradient norms of 1e18 and inf through the simulator",
        truth="the dynamics are chaotic: a change of state grows exponentially with the steps, and "
        "so does the gradient back through them. At the simulation's step. Fix: cut the gradient "
        "every few steps (truncation_length).",
        kinds=("exploding",),
        make=make_long_rollout,
        fixed=fixed_long_rollout,
        shows=lambda value, grads: _largest(grads) > 1e3,
        remedy=r"trunc|stop_gradient|horizon|shorter|steps|clip|recurren|spectral|norm",
    ),
    "siren_init": Report(
        source="NVlabs/tiny-cuda-nn#216 (also lucidrains/siren-pytorch#1)",
        symptom="a network of sines gives other, worse results than the original",
        truth="sin(30 x) multiplies the gradient by about 20 a layer unless the hidden weights are "
        "divided by 30. At the hidden sines. Fix: uniform weights within sqrt(6 / n) / 30.",
        kinds=("exploding",),
        make=make_siren_init,
        fixed=fixed_siren_init,
        shows=lambda value, grads: (
            _largest(grads["Dense_0"]["kernel"]) > 300 * _largest(grads["Dense_4"]["kernel"])
        ),
        params=r"Dense_[0-3]",
        remedy=r"init|siren|scale|smaller|weight|gain|30",
    ),
    "spectrum_of_silence": Report(
        source="KinWaiCheuk/nnAudio#138 (also speechbrain/speechbrain#184)",
        symptom="nan gradients where the spectrum is 0",
        truth="padding is exact silence: the magnitude's root stands at 0, where its slope is "
        "infinite, times 0. At the root. Fix: add 1e-8 under it.",
        kinds=("non_finite",),
        make=make_spectrum_of_silence,
        fixed=fixed_spectrum_of_silence,
        shows=lambda value, grads: bool(np.isfinite(value)) and _broken(grads),
        remedy=r"eps|sqrt|root|1e-|where|zero|safe",
    ),
    "oversmoothing": Report(
        source="DropEdge/DropEdge#8",
        symptom="eight graph convolutions reach 16% where two reach 83%",
        truth="each convolution averages over neighbours, so that all nodes end with the same "
        "features but for a factor, and cannot be told apart. In the stack of convolutions. Fix: a "
        "residual from the first layer (as in GCNII), or fewer layers.",
        kinds=("rank_collapse",),
        make=make_oversmoothing,
        fixed=fixed_oversmoothing,
        shows=_one_direction,
        remedy=r"residual|skip|fewer|norm|depth|smooth|layers|identity|rank|mix",
    ),
}
