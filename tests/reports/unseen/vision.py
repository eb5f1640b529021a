"""Vision: a norm over one value, one logit in a softmax, deep residuals, sparse codes, widening."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.reports.report import Report


def _size(leaf):
    return float(jnp.sqrt(jnp.mean(jnp.square(leaf))))


# ---------------------------------------------------- batch norm after global pooling, batch of one


class Pyramid(nn.Module):
    """Three branches over the same features: 1 x 1, dilated, and pooled over the whole image."""

    width: int

    @nn.compact
    def __call__(self, x):
        point = nn.Conv(self.width, (1, 1), use_bias=False, name="point")(x)
        point = nn.relu(nn.BatchNorm(use_running_average=False)(point))
        wide = nn.Conv(self.width, (3, 3), kernel_dilation=2, use_bias=False, name="wide")(x)
        wide = nn.relu(nn.BatchNorm(use_running_average=False)(wide))
        pooled = x.mean((1, 2), keepdims=True)
        pooled = nn.Conv(self.width, (1, 1), use_bias=False, name="pooled")(pooled)
        pooled = nn.BatchNorm(use_running_average=False)(pooled)  # fault: pooled_branch
        pooled = jnp.broadcast_to(nn.relu(pooled), point.shape)
        return jnp.concatenate([point, wide, pooled], -1)


class Segmenter(nn.Module):
    """A small backbone, the pyramid and a classifier of pixels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), strides=2, kernel_init=nn.initializers.he_normal())(x))
        x = nn.relu(nn.Conv(24, (3, 3), kernel_init=nn.initializers.he_normal())(x))
        return nn.Conv(4, (1, 1))(Pyramid(16)(x))


def _segment(batch):
    model = Segmenter()
    colour = jax.random.normal(jax.random.key(1), (batch, 1, 1, 3))
    x = colour + jax.random.normal(jax.random.key(2), (batch, 24, 24, 3))
    y = jax.random.randint(jax.random.key(3), (batch, 12, 12), 0, 4)
    variables = model.init(jax.random.key(0), x)
    params, stats = variables["params"], variables["batch_stats"]

    def loss(params, x, y):
        variables = {"params": params, "batch_stats": stats}
        logits, _ = model.apply(variables, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, y)


def make_pooled_branch():
    """Make a segmentation step on one image, whose pooled branch is normalised over one value."""
    return _segment(1)


def fixed_pooled_branch():
    """Make the same step on eight images."""
    return _segment(8)


# -------------------------------------------------------------------------- a softmax over one unit


class WindowClassifier(eqx.Module):
    """Two convolutions over a window of prices and one output unit."""

    first: eqx.nn.Conv1d
    second: eqx.nn.Conv1d
    dense: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(self, activation, key):
        """Draw the weights."""
        keys = jax.random.split(key, 4)
        self.first = eqx.nn.Conv1d(4, 16, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv1d(16, 8, 3, padding=1, key=keys[1])
        self.dense = eqx.nn.Linear(80, 32, key=keys[2])
        self.out = eqx.nn.Linear(32, 1, key=keys[3])
        self.activation = activation

    def __call__(self, x):
        x = jax.nn.leaky_relu(self.second(jax.nn.leaky_relu(self.first(x))))
        score = self.out(jax.nn.leaky_relu(self.dense(x.reshape(-1))))
        if self.activation == "softmax":
            return jax.nn.softmax(score)[0]  # fault: softmax_of_one_unit
        return jax.nn.sigmoid(score)[0]


def _up_or_down(activation):
    model = WindowClassifier(activation, jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    x = jax.random.normal(jax.random.key(1), (32, 4, 10))
    y = (jnp.arange(32) % 5 < 3).astype(jnp.float32)

    def loss(params, x, y):
        p = jnp.clip(jax.vmap(eqx.combine(params, static))(x), 1e-7, 1 - 1e-7)
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    return loss, params, (x, y)


def make_softmax_of_one_unit():
    """Make a binary classifier with a softmax over its only unit."""
    return _up_or_down("softmax")


def fixed_softmax_of_one_unit():
    """Make the same classifier with a sigmoid."""
    return _up_or_down("sigmoid")


# ----------------------------------------------------------- residual blocks that add at full scale


class WideBlock(nnx.Module):
    """Expand, ReLU, contract, and add to the input; no normalisation."""

    def __init__(self, width, scale, rngs):
        """Draw the weights."""
        he = nnx.initializers.he_normal()
        self.expand = nnx.Conv(width, 4 * width, (3, 3), kernel_init=he, rngs=rngs)
        self.contract = nnx.Conv(4 * width, width, (3, 3), kernel_init=he, rngs=rngs)
        self.scale = scale

    def __call__(self, x):
        return x + self.scale * self.contract(nnx.relu(self.expand(x)))  # fault: residual_scale


class Upscaler(nnx.Module):
    """A head, eleven wide blocks and a tail that draws the residual of the bicubic image."""

    def __init__(self, scale, rngs):
        """Draw the weights."""
        self.head = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.blocks = nnx.List([WideBlock(8, scale, rngs) for _ in range(11)])
        self.tail = nnx.Conv(8, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        h = self.head(x)
        for block in self.blocks:
            h = block(h)
        return x + self.tail(h)


def _upscale(scale):
    graph, params = nnx.split(Upscaler(scale, nnx.Rngs(0)), nnx.Param)
    low = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    high = low + 0.3 * jax.random.normal(jax.random.key(2), low.shape)

    def loss(params, low, high):
        return jnp.abs(nnx.merge(graph, params)(low) - high).mean()

    return loss, params, (low, high)


def make_residual_scale():
    """Make a super-resolution network whose blocks add their He-initialised branch as it is."""
    return _upscale(1.0)


def fixed_residual_scale():
    """Make the same network with its branches scaled by 0.1."""
    return _upscale(0.1)


# ---------------------------------------------- a sparse autoencoder of activations with a big mean


def _sparse_codes(centred):
    keys = jax.random.split(jax.random.key(0), 4)
    offset = 6 * jax.random.normal(keys[0], (32,))
    x = offset + jax.random.normal(keys[1], (64, 32))
    decoder = jax.random.normal(keys[2], (96, 32))
    decoder = decoder / jnp.linalg.norm(decoder, axis=1, keepdims=True)
    params = {
        "encoder": decoder.T,
        "encoder_bias": jnp.zeros(96),
        "decoder": decoder,
        "decoder_bias": x.mean(0) if centred else jnp.zeros(32),
    }

    def loss(params, x):
        shifted = x - params["decoder_bias"]
        codes = jax.nn.relu(  # fault: codes_off_centre
            shifted @ params["encoder"] + params["encoder_bias"]
        )
        again = codes @ params["decoder"] + params["decoder_bias"]
        return jnp.mean((again - x) ** 2) + 1e-3 * jnp.mean(jnp.abs(codes).sum(-1))

    return loss, params, (x,)


def make_codes_off_centre():
    """Make a sparse autoencoder that starts with a zero bias on activations far from zero."""
    return _sparse_codes(False)


def fixed_codes_off_centre():
    """Make the same autoencoder with its bias at the activations' mean."""
    return _sparse_codes(True)


def _half_dead(value, grads):
    unused = jnp.all(grads["encoder"] == 0, 0)
    return float(unused.mean()) > 0.25


# ------------------------------------------------------- false alarm: a bias in front of batch norm


class Denoiser(nn.Module):
    """Convolutions with a bias each, normalised over the batch."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(16, (3, 3), name="first")(x))
        for i in range(3):
            h = nn.Conv(16, (3, 3), name=f"middle_{i}")(h)
            h = nn.relu(nn.BatchNorm(use_running_average=False)(h))
        return x - nn.Conv(1, (3, 3), name="last")(h)


def make_bias_before_batch_norm():
    """Make a denoiser whose biases before batch norm cancel: no gradient, and no loss in it."""
    model = Denoiser()
    clean = jax.random.normal(jax.random.key(1), (8, 12, 12, 1))
    noisy = clean + 0.5 * jax.random.normal(jax.random.key(2), clean.shape)
    variables = model.init(jax.random.key(0), noisy)

    def loss(params, noisy, clean):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        out, _ = model.apply(state, noisy, mutable=["batch_stats"])
        return jnp.mean((out - clean) ** 2)

    return loss, variables["params"], (noisy, clean)


REPORTS = {
    "pooled_branch": Report(
        source="nv-tlabs/GSCNN#40 (also VainF/DeepLabV3Plus-Pytorch#27)",
        symptom="PyTorch refuses: expected more than 1 value per channel when training; elsewhere "
        "the branch is silently constant",
        truth="after global pooling a batch of one image has one value per channel: minus its own "
        "mean it is 0 whatever the branch computes. At the pooled branch's batch norm; the pooled "
        "convolution gets no gradient. Fix: a larger batch, or no batch norm there.",
        kinds=("norm", "dead_gradient"),
        make=make_pooled_branch,
        fixed=fixed_pooled_branch,
        shows=lambda value, grads: (
            _size(grads["Pyramid_0"]["pooled"]["kernel"])
            < 1e-6 * _size(grads["Pyramid_0"]["point"]["kernel"])
        ),
        params=r"pooled|BatchNorm_2",
        remedy=r"norm|batch|axis|one value|single",
    ),
    "softmax_of_one_unit": Report(
        source="https://whosebug.com/question/2796462/Why-does-a-binary-Keras-CNN-always-predict-1",
        symptom="every prediction is 1 and the accuracy never changes",
        truth="a softmax over one unit is 1 whatever the unit says: nothing has a gradient. At the "
        "softmax. Fix: a sigmoid (or two units).",
        kinds=("dead_gradient", "saturated"),
        make=make_softmax_of_one_unit,
        fixed=fixed_softmax_of_one_unit,
        shows=lambda value, grads: max(map(_size, jax.tree.leaves(grads))) == 0,
        remedy=r"softmax|sigmoid|logit|constant|axis|one (unit|value|class)",
    ),
    "residual_scale": Report(
        source="JiahuiYu/wdsr_ntire2018#21",
        symptom="with many blocks the first losses are about 2e8, and it does not recover",
        truth="each block adds a branch twice as strong as its input, and nothing normalises: "
        "the signal grows about sqrt(3)-fold a block. At the addition of the branch. Fix: scale "
        "the residual branch by 0.1.",
        kinds=("forward_drift", "exploding"),
        make=make_residual_scale,
        fixed=fixed_residual_scale,
        shows=lambda value, grads: float(value) > 30,
        remedy=r"residual|branch|scale|norm|init|gain",
    ),
    "codes_off_centre": Report(
        source="AkihikoWatanabe/paper_notes#5822 (arXiv 2605.31518)",
        symptom="most features of a sparse autoencoder never fire, with some models only",
        truth="the activations' mean is far larger than their spread: a feature that points away "
        "from the mean is below 0 for every input, from the start. At the encoder's ReLU. Fix: "
        "start the bias at the activations' mean (or centre them).",
        kinds=("dead_units",),
        make=make_codes_off_centre,
        fixed=fixed_codes_off_centre,
        shows=_half_dead,
        params=r"encoder",
        remedy=r"bias|cent(re|er)|mean|normali|standardi|init|leaky|dead|input",
    ),
    "bias_before_batch_norm": Report(
        source="cszn/KAIR#4 (also ClementPinard/FlowNetPytorch#81)",
        symptom="the biases of the convolutions do not move: is the gradient lost?",
        truth="nothing is wrong: batch norm takes the mean away again, so that the bias is "
        "redundant; its own bias does the work.",
        kinds=(),
        make=make_bias_before_batch_norm,
        fixed=None,
        shows=lambda value, grads: (
            min(_size(g["kernel"]) for name, g in grads.items() if "BatchNorm" not in name) < 1e-6
        ),
    ),
}
