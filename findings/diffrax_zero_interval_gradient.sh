#!/usr/bin/env bash
# diffrax.diffeqsolve over an empty interval has gradient 0 with respect to t1, where the true one is the vector
# field.
#
# Guess: d y(t1) / d t1 = f(y) everywhere, so -3 for y' = -3 y at t1 = t0 = 0, as just beside it.
# In fact t1 = t0 never enters the integration loop: y0 is returned as it is, a constant. A hair to the right the
# gradient is right.
# Versions: diffrax 0.7.2, equinox 0.13.8, jax 0.10.2, CPU. Tolerance: two digits.
# Source: diffrax/_integrate.py (its comment: "if t0 == t1 then we don't enter the integration loop"). The gradient
# is not documented.
# Meaning: a learned integration time (or depth) that starts at 0, as a residual scale would, never starts to learn.
#> t1 = 0      y = 1.00  dy/dt1 = 0.00
#> t1 = 0.001  y = 1.00  dy/dt1 = -2.99
#> t1 = 1      y = 0.05  dy/dt1 = -0.15
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 diffrax==0.7.2 equinox==0.13.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import diffrax
import jax
import jax.numpy as jnp


def final_value(t1):
    term = diffrax.ODETerm(lambda t, y, args: -3 * y)
    return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, t1, 0.1, jnp.float32(1.0), max_steps=64).ys[-1]


for t1 in (0.0, 1e-3, 1.0):
    value, slope = jax.value_and_grad(final_value)(jnp.float32(t1))
    print(f"t1 = {t1:<5g}  y = {value:.2f}  dy/dt1 = {slope + 0.0:.2f}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
