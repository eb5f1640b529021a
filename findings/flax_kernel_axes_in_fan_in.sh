#!/usr/bin/env bash
# Flax's Einsum, DenseGeneral and ConvLocal start with outputs far below unit variance: axes never summed over count
# as inputs.
#
# Guess: like Dense and Conv, they keep the variance of a unit-variance input at about 1 with their default kernel.
# In fact the default initializer sees only the kernel's shape and takes every axis but the last two as receptive
# field: the eight blocks of a block-diagonal Einsum divide the variance by 8, the 26 x 26 output positions of
# ConvLocal by 676. DenseGeneral flattens the kernel for the initializer, with its `batch_dims` among the inputs:
# 1/8 as well.
# Versions: flax 0.12.8, jax 0.10.2, CPU. Tolerance: the digits printed.
# Source: jax/_src/nn/initializers.py, `_compute_fans` (axes that are not named as input, output or batch are
# "assumed to constitute the receptive field"); flax/linen/linear.py, kernel shape of ConvLocal. Not documented for
# the layers.
# Meaning: such a layer shrinks the forward signal, and the backward one alike, at the start: 26-fold in size for
# one small ConvLocal. Give it `variance_scaling(..., batch_axis=...)`.
#> linen.DenseGeneral, batch_dims  1/8
#> linen.Einsum                    1/8
#> nnx.Einsum                      1/8
#> linen.Conv                      1/1
#> linen.ConvLocal                 below 1/600: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import flax.linen as nn
import jax
from flax import nnx

key = jax.random.key(0)
x = jax.random.normal(key, (8, 1024, 64))  # eight blocks, a batch of 1024, 64 features
images = jax.random.normal(key, (16, 28, 28, 8))


def show(name, y):
    part = float(1 / y.var())
    print(f"{name:31} 1/{part:.0f}" if part < 100 else f"{name:31} below 1/600: {part > 600}")


show("linen.DenseGeneral, batch_dims", nn.DenseGeneral(64, batch_dims=(0,)).init_with_output(key, x)[0])
equation = "hbi,hio->hbo"
show("linen.Einsum", nn.Einsum((8, 64, 64), equation).init_with_output(key, x)[0])
show("nnx.Einsum", nnx.Einsum(equation, (8, 64, 64), rngs=nnx.Rngs(0))(x))
for layer in (nn.Conv, nn.ConvLocal):
    y, _ = layer(8, (3, 3), padding="VALID").init_with_output(key, images)
    show(f"linen.{layer.__name__}", y)
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
