#!/usr/bin/env bash
# The gradient of jax.scipy.special.spence is nan for every x in (1, 2], and 0 at x = 1, where the values are right.
#
# Guess: the slope of the dilogarithm, log(x) / (1 - x), everywhere; -1 at x = 1.
# In fact a branch that is not taken there, log(1 - x), has a nan slope, which the selection multiplies by 0; x = 1
# itself is a constant of a `piecewise`. Outside of [1, 2] it is right, but for 0 at x = 0.
# Versions: jax 0.10.2, CPU. Tolerance: two digits.
# Source: jax/_src/scipy/special.py, `_spence_calc` and `_spence`; pull request 40709 (open, for huge x) also makes
# the branches that are not taken safe to differentiate. Not documented.
# Meaning: a function that is smooth, and right in value, may be nan in gradient on a whole interval: a nan that
# begins in the backward pass alone.
#> x = 0.5: value 0.58, slope -1.39 (expected -1.39)
#> x = 1.0: value 0.00, slope 0.00 (expected -1.00)
#> x = 1.2: value -0.19, slope nan (expected -0.91)
#> x = 2.0: value -0.82, slope nan (expected -0.69)
#> x = 2.1: value -0.89, slope -0.67 (expected -0.67)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import spence

for x in (0.5, 1.0, 1.2, 2.0, 2.1):
    value, slope = jax.value_and_grad(spence)(jnp.float32(x))
    expected = math.log(x) / (1 - x) if x != 1 else -1.0
    print(f"x = {x}: value {value + 0.0:.2f}, slope {slope:.2f} (expected {expected:.2f})")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
