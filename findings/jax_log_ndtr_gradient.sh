#!/usr/bin/env bash
# The gradient of jax.scipy.special.log_ndtr, and so of norm.logcdf, is wrong by powers of ten beyond about x = -10000.
#
# Guess: log_ndtr exists for far tails; its slope tends to -x there and is right to a few digits, as its value is.
# In fact the slope is exp(logpdf(x) - log_ndtr(x)), the difference of two numbers near -x^2/2 in float32. At
# x = -1e4 such numbers are 4 apart; beyond it the answer is mostly exp(0) = 1, else hundreds of times too large.
# Versions: jax 0.10.2, CPU, float32. Tolerance: one digit, or a factor.
# Source: jax/_src/scipy/special.py, `_log_ndtr_jvp`. Not documented; no issue found.
# Meaning: probit losses and truncated normals far from the data lose their gradient (1 instead of 1e5) or have it
# exploded, while the loss itself is right: nothing but a comparison with -x shows it.
#> x = -10: slope / -x = 1.0
#> x = -1000: slope / -x = 1.0
#> x = -100000: slope = 1
#> from -40000 to -10000: largest slope / -x above 100: True, smallest below 0.001: True
#> norm.logcdf the same: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jax.scipy.stats import norm

slope = jax.jit(jax.vmap(jax.grad(log_ndtr)))
for x in (-10, -1000):
    print(f"x = {x}: slope / -x = {slope(jnp.float32([x]))[0] / -x:.1f}")
print(f"x = -100000: slope = {slope(jnp.float32([-1e5]))[0]:.0f}")
tail = jnp.linspace(-4e4, -1e4, 2000)
ratio = slope(tail) / -tail
large, small = bool(ratio.max() > 100), bool(ratio.min() < 1e-3)
print(f"from -40000 to -10000: largest slope / -x above 100: {large}, smallest below 0.001: {small}")
same = jax.vmap(jax.grad(norm.logcdf))(jnp.float32([-1e5]))[0] == slope(jnp.float32([-1e5]))[0]
print(f"norm.logcdf the same: {bool(same)}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
