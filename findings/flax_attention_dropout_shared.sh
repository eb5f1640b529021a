#!/usr/bin/env bash
# Dropout of attention weights in Flax drops the same weights for every example and every head; Equinox draws each
# anew.
#
# Guess: each attention weight of the batch is dropped independently, as nn.Dropout does with its default arguments.
# In fact `broadcast_dropout=True` is the default in Linen and NNX alike: one mask of (query, key) for the whole
# batch and all heads. In Equinox's layer, which is vmapped over the batch with one key each, the masks differ.
# Versions: flax 0.12.8, equinox 0.13.8, jax 0.10.2, CPU.
# Source: flax/linen/attention.py ("dropout is broadcast across the batch + head dimensions"); the argument's
# documentation speaks of batch dimensions only.
# Meaning: the noise that dropout adds to gradients does not average out over the batch: for identical examples, as
# here, the batch's gradient has the variance of a single one's.
#> linen: 3 equal examples give 1 different outputs
#> linen, broadcast_dropout=False: 3 equal examples give 3 different outputs
#> nnx: 3 equal examples give 1 different outputs
#> nnx, broadcast_dropout=False: 3 equal examples give 3 different outputs
#> equinox: 3 equal examples give 3 different outputs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 equinox==0.13.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

key = jax.random.key(0)
x = jnp.broadcast_to(jax.random.normal(key, (1, 6, 8)), (3, 6, 8))


def show(name, y):
    different = len({example.tobytes() for example in jax.device_get(y)})
    print(f"{name}: 3 equal examples give {different} different outputs")


options = {"": {}, ", broadcast_dropout=False": {"broadcast_dropout": False}}
for word, option in options.items():
    layer = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False, **option)
    variables = layer.init({"params": key, "dropout": key}, x)
    show(f"linen{word}", layer.apply(variables, x, rngs={"dropout": key}))
for word, option in options.items():
    layer = nnx.MultiHeadAttention(2, 8, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0), **option)
    show(f"nnx{word}", layer(x, deterministic=False))
layer = eqx.nn.MultiheadAttention(2, 8, dropout_p=0.5, key=key)
show("equinox", jax.vmap(lambda x, key: layer(x, x, x, key=key))(x, jax.random.split(key, 3)))
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
