"""One good call of every public function: the arguments that `tests/test_fuzz.py` then spoils."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vanishing
from vanishing import comparison, initializers, layers, meanfield, networks, train
from vanishing.backprop import forward

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 3))
LABELS = jnp.array([0, 1, 2, 0])
IMAGES = jnp.ones((2, 4, 4, 2))
KERNEL = jnp.ones((2, 2, 2, 3))
SEQUENCES = jax.random.normal(KEY, (2, 5, 3))
CHANNELS = jnp.ones(3)
NET = layers.dense(3)
ERRORS = jnp.ones((2, 4, 4, 3))  # of a convolution of IMAGES with KERNEL, "SAME"
POOLED = jnp.ones((2, 2, 2, 2))
UNIT = [{"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}]


def loss(params):
    return jnp.sum(jnp.tanh(X @ params) ** 2)


def activated_network(activation):
    return networks.mlp(3, depth=3, width=8, activation=activation, weights=lecun())


def lecun():
    return initializers.Weights(initializers.lecun_normal())


@functools.cache
def probed():
    return vanishing.probe(loss)(jnp.ones((3, 3)))


@functools.cache
def prediction():
    return vanishing.predict(networks.mlp(3, depth=2, width=8), X)


@functools.cache
def measured():
    net = networks.mlp(3, depth=2, width=8)
    return comparison.measure(net, net.init(KEY, X), X, KEY)


@functools.cache
def history():
    return train.fit(run(), {"learning_rate": [0.1]}, train_data(), records=2)


@functools.cache
def run():
    return train.make_run(problem, batch_size=2)


def problem(settings):
    rate = settings["learning_rate"]
    return train.Problem(NET, vanishing.losses.softmax_cross_entropy, optax.sgd(rate))


def train_data():
    return train.Data(X, LABELS, X, LABELS)


def recurrent(gates, biased):
    shapes = {g: (3, 2) if g.startswith("i") else (2, 2) for g in gates}
    return {
        g: {"kernel": jnp.ones(s) / 2} | ({"bias": jnp.zeros(2)} if g in biased else {})
        for g, s in shapes.items()
    }


RNN = recurrent(("i", "h"), ("i",))
LSTM = recurrent(("ii", "if", "ig", "io", "hi", "hf", "hg", "ho"), ("hi", "hf", "hg", "ho"))
GRU = recurrent(("ir", "iz", "in", "hr", "hz", "hn"), ("ir", "iz", "in", "hn"))
STATES = jnp.ones((2, 5, 2))
SCALES = {"sigma_w": 1.3, "sigma_b": 0.3}
CONV = {"strides": (1, 1), "padding": "SAME"}
POOL = {"size": (2, 2), "strides": (2, 2), "padding": "VALID"}
WINDOW = {"window": (2, 2), "strides": (2, 2), "padding": "VALID"}
WEIGHTS = {"kernel_init": initializers.he_normal(), "bias_init": initializers.zeros}
CELL = WEIGHTS | {"recurrent_init": initializers.orthogonal(), "sequence": False}

# (package, function) -> the arguments, or a function that makes them
CALLS = {
    "theory": {
        "chain_factors": {"activation": "tanh", "weights": CHANNELS, "biases": CHANNELS, "x": 0.5},
        "check_layer": {
            "layer": NET,
            "width": 8,
            "q": 1.0,
            "correlation": 0.5,
            "networks": 2,
            "key": KEY,
        },
        "chi": {"activation": "tanh", "q": 1.0, "sigma_w": 1.3, "correlation": 0.5},
        "chrono_gain": {"steps": 10, "longest": 100.0},
        "correlation_fixed_point": {"activation": "tanh", "q": 1.0, "sigma_w": 1.3},
        "correlation_fixed_points": {"activation": "tanh", "q": 1.0, "sigma_w": 1.3},
        "covariance_map": {"activation": "tanh", "q": 1.0, "correlation": 0.5, **SCALES},
        "critical": {"activation": "tanh", "sigma_b": 0.3},
        "critical_line": {"activation": "tanh", "q": 1.0},
        "depth_scales": {"activation": "tanh", **SCALES},
        "fixed_point": {"activation": "tanh", **SCALES},
        "fixed_points": {"activation": "tanh", **SCALES},
        "gate_gain": {"steps": 10, "bias": 1.0, "sigma": 0.5},
        "gru_gain": {"params": GRU, "steps": 3, "sigma_x": 1.0},
        "learning_speed_ratio": {"activation": "tanh", **SCALES},
        "lstm_gain": {"params": LSTM, "steps": 3, "sigma_x": 1.0},
        "maximal_curvature": {"network": activated_network, "x": X},
        "maximal_slope": {"network": activated_network, "x": X},
        "predict": lambda: {
            "network": networks.mlp(3, depth=1, width=4),
            "x": X,
            "q": 1.0,
            "correlation": 0.5,
            "train": True,
            "gradient_correlation": 0.0,
        },
        "predict_spectrum": {"activation": "tanh", **SCALES, "depth": 4, "orthogonal": False},
        "profile": lambda: {
            "network": networks.mlp(3, depth=1, width=4),
            "start": meanfield.signal(shape=(3,)),
            "gradient_correlation": 0.0,
        },
        "rnn_bound": {"activation": "tanh", "kernel": np.eye(3)},
        "rnn_chi": {"activation": "tanh", **SCALES, "sigma_x": 0.5},
        "singular_values": {"function": jnp.tanh, "x": CHANNELS},
        "spectrum": {
            "function": jnp.tanh,
            "x": CHANNELS,
            "key": KEY,
            "probes": 4,
            "iterations": 3,
        },
        "tailor": {
            "name": "leaky_relu",
            "network": activated_network,
            "x": X,
            "method": "tat",
            "slope": 1.5,
            "correlation": 0.9,
            "curvature": 0.3,
        },
        "variance_map": {"activation": "tanh", "q": 1.0, **SCALES},
    },
    "meanfield": {
        "by_quadrature": {"function": jnp.tanh, "kinks": (1.0,)},
        "elementwise_gain": {
            "square": 1.0,
            "product": 0.5,
            "weighted_square": 1.0,
            "weighted_product": 0.5,
            "log_variance": 0.1,
        },
        "linear_gain": lambda: {
            "before": meanfield.signal(),
            "square": 1.0,
            "log_variance": 0.1,
        },
        "gaussian_mean": {"f": jnp.square, "breaks": (0.0,)},
        "signal": {
            "q": 1.0,
            "correlation": 0.5,
            "mean": 0.1,
            "shape": (3,),
            "batch": 4,
            "train": True,
            "gaussian": False,
        },
    },
    "losses": {
        "mean_squared_error": {"outputs": X, "targets": X},
        "quadratic": {"outputs": X, "targets": X},
        "binary_cross_entropy": {"logits": X, "targets": X},
        "softmax_cross_entropy": {"logits": X, "labels": LABELS},
        "of_labels": {"loss": vanishing.losses.quadratic},
        "accuracy": {"outputs": X, "labels": LABELS},
        "l1": {"params": {"kernel": X}},
        "l2": {"params": {"kernel": X}},
    },
    "optimizers": {
        "by_name": {
            "name": "momentum",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "schedule": "warmup_cosine",
            "steps": 100,
            "warmup_steps": 10,
            "clipping": "value",
            "clip_threshold": 1.0,
        },
        "clip": {"clipping": "value", "threshold": 1.0},
    },
    "layers": {
        "activation": {"function": "tanh", "kinks": (1.0,)},
        "avg_pool": WINDOW,
        "batch_norm": {"momentum": 0.9, "epsilon": 1e-5},
        "checkpoint": {"layer": NET},
        "conv": {"features": 3, "kernel_size": (2, 2), **CONV, **WEIGHTS},
        "dense": {"features": 3, **WEIGHTS},
        "depth_axes": {"path": ()},
        "dropout": {"rate": 0.5},
        "facts_of": {"function": "tanh"},
        "group_norm": {"groups": 1, "epsilon": 1e-5},
        "gru": {"features": 3, "chrono": 10.0, **CELL},
        "highway": {"branch": NET, "gate": NET, "shortcut": NET},
        "layer_norm": {"epsilon": 1e-5},
        "lstm": {"features": 3, "forget_bias": 1.0, "chrono": 10.0, **CELL},
        "max_pool": WINDOW,
        "multiplier": {"initial": 1.0},
        "output_spec": lambda: {"layer": NET, "variables": NET.init(KEY, X), "x": X},
        "propagate": {"layer": NET, "signal": meanfield.signal(shape=(3,))},
        "repeat": {"block": NET, "depth": 3, "unroll": False},
        "residual": {"branch": NET, "shortcut": NET, "shortcut_scale": 1.0, "branch_scale": 1.0},
        "rms_norm": {"epsilon": 1e-5},
        "rnn": {"features": 3, "activation": "tanh", **CELL},
        "serial": {"first": NET},
        "shift": {"initial": 0.0},
        "stateless": {"function": jnp.tanh, "propagate": lambda signal: signal},
        "weight_standardized": {"layer": NET, "gain": 1.0, "epsilon": 1e-4},
    },
    "networks": {
        "block": {
            "kind": "post_activation",
            "weight": lambda weights: layers.dense(3, *weights),
            "blocks": 2,
            "activation": "relu",
            "weights": lecun(),
            "norm": layers.layer_norm(),
            "into": lambda weights: layers.dense(3, *weights),
            "shortcut": NET,
            "gate_bias": -2.0,
        },
        "cnn": {"outputs": 3, "channels": 2, "activation": "relu", "weights": lecun()},
        "from_flax": lambda: {"module": networks.to_linen(NET)},
        "mlp": {
            "outputs": 3,
            "depth": 2,
            "width": 4,
            "activation": "tanh",
            "weights": lecun(),
            "output_activation": "identity",
            "norm": layers.layer_norm(),
            "wrap": lambda block: block,
            "wrap_weights": lambda block: block,
            "unroll": False,
        },
        "plain_cnn": {"outputs": 3},
        "recurrent_layer": {
            "cell": "chrono_lstm",
            "features": 3,
            "chrono": 10.0,
            "sequence": False,
        },
        "residual_mlp": {
            "outputs": 3,
            "kind": "highway",
            "blocks": 2,
            "width": 4,
            "activation": "relu",
            "weights": lecun(),
            "norm": layers.layer_norm(),
            "gate_bias": -2.0,
        },
        "resnet": {
            "outputs": 3,
            "depth": 8,
            "width": 4,
            "kind": "post_activation",
            "activation": "relu",
            "weights": lecun(),
            "norm": layers.layer_norm(),
        },
        "rnn": {
            "outputs": 3,
            "cell": "chrono_lstm",
            "width": 4,
            "chrono": 10.0,
            "sequence": False,
        },
        "to_linen": {"layer": NET, "name": "a"},
        "vanilla_cnn": {
            "outputs": 3,
            "depth": 2,
            "channels": 4,
            "reductions": 1,
            "activation": "tanh",
            "weights": lecun(),
        },
    },
    "initializers": {
        "known": {"initializer": initializers.he_normal()},
        "constant": {"value": 1.0},
        "normal": {"stddev": 1.0},
        "symmetric_uniform": {"scale": 1.0},
        "scaled": SCALES,
        "rescaled": {"initializer": initializers.he_normal(), "factor": 2.0},
        "orthogonal": {"scale": 1.0},
        "delta_orthogonal": {"scale": 1.0},
        "identity": {"scale": 1.0},
        "by_name": {"name": "he_normal"},
    },
    "surrogate": {
        "step": {"x": X},
        "sign": {"x": X},
        "triangle": {"x": X},
        "with_slope": {"function": jnp.tanh, "slope": jnp.cos},
        "straight_through": {"function": jnp.round},
        "activation": {"function": "step", "surrogate": "sigmoid", "sharpness": 2.0},
    },
    "data": {
        "adding": {"key": KEY, "examples": 3, "length": 8},
        "by_pixel": {"images": IMAGES},
        "copy_memory": {"key": KEY, "examples": 3, "blanks": 8},
        "copy_memoryless": {"blanks": 8},
        "load": {"name": "digits", "data_dir": None, "subset": False},
        "standardize": lambda: {"dataset": vanishing.data.synthetic(3, 4)},
        "synthetic": {"examples": 3, "features": 4, "classes": 2, "q": 1.0, "seed": 0},
        "temporal_order": {"key": KEY, "examples": 3, "length": 20},
    },
    "probing": {
        "probe": {
            "loss": jnp.sum,
            "argnums": 0,
            "has_aux": False,
            "level": "layer",
            "where": "*",
            "summaries": "size",
            "params": True,
        },
        "word_of": {"function": jnp.tanh},
    },
    "diagnosis": {
        "diagnose": {
            "loss": jnp.sum,
            "argnums": 0,
            "has_aux": False,
            "level": "layer",
            "where": "*",
            "optimizer": optax.sgd(0.1),
        },
        "assert_healthy": {"loss": jnp.sum, "allow": ("saturated",)},
    },
    "comparison": {
        "measure": lambda: {
            "network": NET,
            "variables": NET.init(KEY, X),
            "x": X,
            "key": KEY,
            "loss": jnp.sum,
            "summaries": "size",
        },
        "measure_drawn": lambda: {"network": NET, "x": X, "key": KEY, "networks": 2},
        "compare": lambda: {"prediction": prediction(), "trace": measured()},
        "slope": lambda: {
            "comparison": comparison.compare(prediction(), measured()),
            "rows": ".*dense",
            "skip": 0,
        },
    },
    "train": {
        "fit": lambda: {
            "run": run(),
            "settings": {"learning_rate": [0.1]},
            "data": train_data(),
            "records": 1,
            "chunks": 1,
        },
        "make_run": {
            "problem": problem,
            "batch_size": 2,
            "record_every": 1,
            "precision": "float32",
            "summaries": "size",
            "keep_params": False,
        },
        "outcome": lambda: {"history": history()},
        "profiles": lambda: {"trace": probed().trace},
        "task": lambda: {"run": run(), "records": 2, "chunks": 1},
        "to_dataset": lambda: {"history": history()},
        "trunk": lambda: {"trace": probed().trace},
    },
    "backprop": {
        "adagrad": {"learning_rate": 0.1, "initial": 0.1, "eps": 1e-7},
        "adam": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8},
        "avg_pool": {"x": IMAGES, **POOL},
        "avg_pool_gradient": {"delta": POOLED, "places": (4, 4), **POOL},
        "backward": lambda: {
            "params": UNIT,
            "passed": forward(UNIT, X, ["tanh"]),
            "cost_gradient": jnp.ones((4, 2)),
            "activation": ["tanh"],
        },
        "backward_work": {"batch": 2, "widths": (3, 2), "itemsize": 4},
        "batch_norm": {"x": X, "scale": CHANNELS, "bias": CHANNELS, "epsilon": 1e-5},
        "batch_norm_gradient": {"x": X, "delta": X, "scale": CHANNELS, "epsilon": 1e-5},
        "bias_gradient": {"delta": X},
        "binary_cross_entropy": {"logits": X, "targets": X},
        "binary_cross_entropy_error": {"logits": X, "targets": X},
        "chain": {"activation": "tanh", "weights": CHANNELS, "biases": CHANNELS, "x": 0.5},
        "clip_by_norm": {"max_norm": 1.0},
        "conv": {"x": IMAGES, "kernel": KERNEL, "bias": CHANNELS, **CONV},
        "conv_bias_gradient": {"delta": ERRORS},
        "conv_input_gradient": {"delta": ERRORS, "kernel": KERNEL, "places": (4, 4), **CONV},
        "conv_kernel_gradient": {"x": IMAGES, "delta": ERRORS, "size": (2, 2), **CONV},
        "dropout": {"x": X, "keep": X > 0, "rate": 0.5},
        "dropout_gradient": {"delta": X, "keep": X > 0, "rate": 0.5},
        "error_backwards": {"delta": X, "kernel": jnp.ones((2, 3)), "slope": jnp.ones((4, 2))},
        "forward": {"params": UNIT, "x": X, "activation": ["tanh"]},
        "forward_work": {"batch": 2, "widths": (3, 2), "itemsize": 4},
        "frozen_batch_norm_gradient": {
            "x": X,
            "delta": X,
            "scale": CHANNELS,
            "mean": CHANNELS,
            "var": CHANNELS,
            "epsilon": 1e-5,
        },
        "gru": {"params": GRU, "x": SEQUENCES},
        "gru_gradient": {"params": GRU, "x": SEQUENCES, "output_errors": STATES},
        "l1_gradient": {"kernel": X},
        "l2_gradient": {"kernel": X},
        "lstm": {"params": LSTM, "x": SEQUENCES},
        "lstm_gradient": {"params": LSTM, "x": SEQUENCES, "output_errors": STATES},
        "max_pool": {"x": IMAGES, **POOL},
        "max_pool_gradient": {"x": IMAGES, "delta": POOLED, **POOL},
        "momentum": {"learning_rate": 0.1, "decay": 0.9},
        "nesterov": {"learning_rate": 0.1, "decay": 0.9},
        "output_error": {"cost_gradient": X, "slope": X},
        "rmsprop": {"learning_rate": 0.1, "decay": 0.9, "eps": 1e-8},
        "rnn": {"params": RNN, "x": SEQUENCES, "activation": "tanh"},
        "rnn_gradient": {
            "params": RNN,
            "x": SEQUENCES,
            "output_errors": STATES,
            "activation": "tanh",
        },
        "sigmoid_quadratic": {"logits": X, "targets": X},
        "sigmoid_quadratic_error": {"logits": X, "targets": X},
        "slope_of": {"activation": "tanh"},
        "softmax": {"logits": X},
        "softmax_cross_entropy": {"logits": X, "labels": LABELS},
        "softmax_cross_entropy_error": {"logits": X, "labels": LABELS},
        "weight_gradient": {"activations": X, "delta": X},
        "window": {"weight": CHANNELS * 9, "bias": 0.1},
        "window_by_bisection": {"weight": CHANNELS * 9, "bias": 0.1},
        "xla_work": {"function": lambda: jnp.ones(2)},
    },
}
