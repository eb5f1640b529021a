#!/usr/bin/env bash
# The gradient of jax.random.loggamma is too small for small shape parameters, 13-fold at 1e-4; Dirichlet's becomes
# 0.
#
# Guess: loggamma works in log space because the sample itself underflows, so that its gradient is as good as its
# value: for small a, d(log x)/da = -(log x)/a, up to terms of order 1 beside log x.
# In fact the derivative is computed as (dx/da)/x, with an x of 0 replaced by the smallest normal number: where log
# x < -87.3 the answer is that of log x = -87.3. In a Dirichlet sample these floors are equal and cancel to exactly
# 0.
# Versions: jax 0.10.2, CPU. Tolerance: the digits printed.
# Source: jax/_src/random/core.py, `_gamma_grad` ("may be zero due to float roundoff. In this case, correct it to
# smallest representable float"); pull request 9906 introduced it. Not documented.
# Meaning: pathwise gradients of sparse Gamma, Beta and Dirichlet models are short where the samples are extreme,
# finite and without a warning: it looks like a vanishing gradient and is a floor of the float format.
#> a = 0.1: log x = -1.4    gradient / expected = 1.0
#> a = 0.01: log x = -11    gradient / expected = 1.0
#> a = 0.001: log x = -1.1e+02    gradient / expected = 0.8
#> a = 0.0001: log x = -1.1e+03    gradient / expected = 0.1
#> dirichlet, a = 0.001: first entry 3e-07, its slope 0e+00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp

key = jax.random.key(0)
for a in (1e-1, 1e-2, 1e-3, 1e-4):
    value, slope = jax.value_and_grad(lambda a: jax.random.loggamma(key, a))(jnp.float32(a))
    print(f"a = {a}: log x = {value:.2g}    gradient / expected = {float(slope) / (-float(value) / a):.1f}")
first = jax.value_and_grad(lambda a: jax.random.dirichlet(key, jnp.stack([a, a, a]))[0])
value, slope = first(jnp.float32(1e-3))
print(f"dirichlet, a = 0.001: first entry {value:.0e}, its slope {slope + 0.0:.0e}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
