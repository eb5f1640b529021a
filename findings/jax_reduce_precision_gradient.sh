#!/usr/bin/env bash
# The gradient of jax.lax.reduce_precision is not 1: the cotangent is rounded to the same few bits, to 0 or inf.
#
# Guess: it is a straight-through rounding; its slope is 1 for any cotangent in float32.
# In fact its transpose applies the operation to the cotangent. With 5 exponent bits, as in float16, an error signal
# of 1e-9 becomes exactly 0 and one of 1e6 becomes inf, although values, weights and gradients are all float32.
# Versions: jax 0.10.2, CPU.
# Source: jax/_src/lax/lax.py, `ad.deflinear(reduce_precision_p, lambda t, **kwargs:
# [reduce_precision_p.bind(...)])`. Not documented.
# Meaning: simulated low precision in the forward pass makes small gradients vanish and large ones explode at that
# very place. For forward-only rounding write `x + stop_gradient(reduce_precision(x) - x)`.
#> cotangent 1e+00  through reduce_precision 1.000e+00  straight-through 1.000e+00
#> cotangent 1e-03  through reduce_precision 1.000e-03  straight-through 1.000e-03
#> cotangent 1e-07  through reduce_precision 0.000e+00  straight-through 1.000e-07
#> cotangent 1e-09  through reduce_precision 0.000e+00  straight-through 1.000e-09
#> cotangent 1e+06  through reduce_precision inf  straight-through 1.000e+06
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp


def rounded(x):
    return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)


def straight_through(x):
    return x + jax.lax.stop_gradient(rounded(x) - x)


def pulled_back(function, cotangent):
    return float(jax.vjp(function, jnp.float32(1.0))[1](jnp.float32(cotangent))[0])


for cotangent in (1.0, 1e-3, 1e-7, 1e-9, 1e6):
    through, straight = pulled_back(rounded, cotangent), pulled_back(straight_through, cotangent)
    print(f"cotangent {cotangent:.0e}  through reduce_precision {through:.3e}  straight-through {straight:.3e}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
