#!/usr/bin/env bash
# Strided ConvTranspose layers start with a quarter of the variance, and transpose_kernel makes it depend on the
# output.
#
# Guess: Flax's ConvTranspose keeps unit variance as Conv does, whatever `strides`, `features` and
# `transpose_kernel` are.
# In fact the initializer's fan-in is the whole 4 x 4 window, of which stride 2 leaves 2 x 2 taps for each output:
# 1/4. With `transpose_kernel=True` the kernel is stored as (..., features, inputs), so that fan-in is counted from
# the features: the variance is inputs / (4 features). Equinox has the 1/4 as well, on top of its own 1/3 for Conv.
# Versions: flax 0.12.8, equinox 0.13.8, jax 0.10.2, CPU. Tolerance: the digits printed.
# Source: flax/linen/linear.py (ConvTranspose: the shape `kernel_size + (self.features, in_features)` goes to the
# same initializer), equinox/nn/_conv.py (`lim` from the whole kernel). Not documented.
# Meaning: each upsampling layer of a decoder halves the size of the signal at the start; five of them make 1/32.
#> Conv                                     1/1
#> ConvTranspose, 64 -> 16                  1/4
#> ConvTranspose, 64 -> 256                 1/4
#> ConvTranspose, 64 -> 16, transposed      1/1
#> ConvTranspose, 64 -> 256, transposed     0.06
#> equinox Conv2d                           1/3
#> equinox ConvTranspose2d                  0.08
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

key = jax.random.key(0)
x = jax.random.normal(key, (8, 16, 16, 64))
first = jnp.moveaxis(x, -1, 1)  # channels first, as Equinox wants them


def show(name, y):
    variance = float(y.var())
    print(f"{name:40} 1/{1 / variance:.0f}" if variance > 0.1 else f"{name:40} {variance:.1g}")


show("Conv", nn.Conv(16, (4, 4)).init_with_output(key, x)[0][:, 4:-4, 4:-4])
for transposed, word in ((False, ""), (True, ", transposed")):
    for features in (16, 256):
        layer = nn.ConvTranspose(features, (4, 4), strides=(2, 2), transpose_kernel=transposed)
        show(f"ConvTranspose, 64 -> {features}{word}", layer.init_with_output(key, x)[0][:, 4:-4, 4:-4])
for layer, stride in ((eqx.nn.Conv2d, 1), (eqx.nn.ConvTranspose2d, 2)):
    y = jax.vmap(layer(64, 16, 4, stride, use_bias=False, key=key))(first)
    show(f"equinox {layer.__name__}", y[..., 4:-4, 4:-4])
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
