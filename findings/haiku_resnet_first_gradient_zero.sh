#!/usr/bin/env bash
# In a freshly made haiku.nets.ResNet the first gradient of every parameter below the last layer is exactly 0.
#
# Guess: with batch norm and shortcuts every convolution gets some gradient at the first step; if a layer starts at
# zero it is at most the last scale of each block.
# In fact the weights of the final `logits` layer start at zero, so no error passes it before it has moved once. All
# of the network's first step is a step of the last layer. At the second step 23 of the 51 arrays below have a
# gradient: the last scale of each block starts at zero as well.
# Versions: dm-haiku 0.0.17, jax 0.10.2, CPU (a network of one narrow block a group: the default is the same at any
# size).
# Source: haiku/_src/nets/resnet.py, `logits_config.setdefault("w_init", jnp.zeros)`. Not documented.
# Meaning: a "vanished gradient" found at step 0 of this network is its initialization, not its depth: measure after
# a step, or pass `logits_config={"w_init": ...}`. Statistics relative to the first gradient divide by 0.
#> parameters below the last layer: 51 arrays, largest gradient 0.0
#> the last layer: 2 arrays, gradient above 0: True
#> after one step of SGD, arrays below with a gradient: 23
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import haiku as hk
import jax
import jax.numpy as jnp

x, labels = jax.random.normal(jax.random.key(0), (4, 16, 16, 3)), jnp.arange(4)


def forward(x):
    return hk.nets.ResNet((1, 1, 1, 1), 10, channels_per_group=(4, 4, 8, 8))(x, is_training=True)


network = hk.transform_with_state(forward)
parameters, state = network.init(jax.random.key(1), x)


@jax.jit
@jax.grad
def gradient(parameters):
    logits = network.apply(parameters, state, None, x)[0]
    return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()


def largest_entries(gradients):
    sizes = {name: [float(abs(g).max()) for g in leaves.values()] for name, leaves in gradients.items()}
    last = sizes.pop("res_net/~/logits")
    return sum(sizes.values(), []), last


first = gradient(parameters)
below, last = largest_entries(first)
print(f"parameters below the last layer: {len(below)} arrays, largest gradient {max(below)}")
print(f"the last layer: {len(last)} arrays, gradient above 0: {min(last) > 0}")
moved = jax.tree.map(lambda p, g: p - 0.1 * g, parameters, first)
below, _ = largest_entries(gradient(moved))
print("after one step of SGD, arrays below with a gradient:", sum(g > 0 for g in below))
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
