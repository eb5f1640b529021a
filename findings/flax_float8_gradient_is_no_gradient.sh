#!/usr/bin/env bash
# With Flax's float8 layers jax.grad returns numbers that are no gradients: the new scales and amax histories
# themselves.
#
# Guess: scales and histories are state outside of the derivative: their gradient is 0, or they are not in the tree.
# In fact the collection `_overwrite_with_gradient` abuses the backward pass to carry the layer's next state. Its
# "gradient" is a record of the largest input, kernel and output gradient. Besides, the first step's scales are 1: a
# loss scaled down by 1e6 leaves a kernel gradient of exactly 0, since float8 holds no error signal of that size.
# Versions: flax 0.12.8, optax 0.2.8, jax 0.10.2, CPU. Tolerance: the digits printed.
# Source: flax/linen/fp8_ops.py and flax/training/train_state.py (OVERWRITE_WITH_GRADIENT); the name says it, and
# TrainState.apply_gradients treats it apart; jax.grad, global norms and clipping do not.
# Meaning: the norm over all of `grads` has a floor that is no gradient (here it hides a vanished one), and clipping
# by it would scale the next state: leave this collection out first.
#> loss x 1:     norm of bias gradient 7e+00, of kernel gradient 6e+01, of all 6e+01
#> loss x 1e-06: norm of bias gradient 7e-06, of kernel gradient 0e+00, of all 3e+00
#> "gradient" of input_scale 1.0, of input_amax_history 2.2 (largest input 2.2)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

key = jax.random.key(0)
layer, x = nn.Dense(4, dot_general_cls=nn.Fp8DotGeneralOp), jax.random.normal(key, (8, 4))
variables = layer.init(key, x)
for scale in (1, 1e-6):
    gradient = jax.grad(lambda v: scale * (layer.apply(v, x) ** 2).sum())(variables)
    bias, kernel = (optax.global_norm(gradient["params"][name]) for name in ("bias", "kernel"))
    norms = f"norm of bias gradient {bias:.0e}, of kernel gradient {kernel:.0e}"
    print(f"{f'loss x {scale}:':13} {norms}, of all {optax.global_norm(gradient):.0e}")
state = gradient["_overwrite_with_gradient"]["Fp8DotGeneralOp_0"]
scale, history = state["input_scale"][0], state["input_amax_history"][0]
largest = jnp.abs(x).max()
print(f'"gradient" of input_scale {scale:.1f}, of input_amax_history {history:.1f} (largest input {largest:.1f})')
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
