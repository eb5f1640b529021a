"""A small classification problem that the tests of training share."""

import jax.numpy as jnp
import numpy as np

from vanishing import initializers, losses, networks, optimizers, train

EXAMPLES, CLASSES = 50, 3


def examples(dtype=np.float32):
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(CLASSES, 6))
    y = rng.integers(CLASSES, size=2 * EXAMPLES)
    x = (centres[y] + rng.normal(size=(len(y), 6))).astype(dtype)
    return train.Data(
        jnp.asarray(x[:EXAMPLES]),
        jnp.asarray(y[:EXAMPLES]),
        jnp.asarray(x[EXAMPLES:]),
        jnp.asarray(y[EXAMPLES:]),
    )


def problem(settings):
    weights = initializers.scaled(settings.get("sigma_w", 1.0), 0.1)
    return train.Problem(
        network=networks.mlp(CLASSES, depth=3, width=8, activation="tanh", weights=weights),
        loss=losses.softmax_cross_entropy,
        optimizer=optimizers.by_name("momentum", settings["learning_rate"]),
    )
