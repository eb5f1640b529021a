#!/usr/bin/env bash
# jax.jit on a CPU, jaxlib 0.10.2: zeros divided by their bounded largest magnitude square to nan.
#
# To square tiny numbers safely one divides by the largest magnitude first, bounded from below so
# that nothing is divided by 0: s = x * (1 / max(largest, 5e-38)), then s * s. Of zeros that is 0, as
# JAX computes it operation by operation. Where XLA can tell that x is zeros (a gradient that is
# exactly 0 because its path was cut, a padding, an initial state), the compiled program gives nan:
# the product is reordered so that the inverse is squared first, which is inf, and 0 * inf is nan.
# The optimization that does it has the name algsimp; jaxlib 0.12.0 gives 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2" numpy

cat > "$folder/zeros.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np


def square(x):
    scaled = x * (1 / jnp.maximum(jnp.max(jnp.abs(x)), 5e-38))
    return jnp.sum(scaled * scaled)


def cut(x):
    """The gradient of a loss that does not look at the last two of its inputs."""
    return square(jax.grad(lambda x: jnp.sum(jnp.sin(x[:2])))(x)[2:])


operation_by_operation = float(square(jnp.zeros(4)))
argument = float(jax.jit(square)(jnp.zeros(4)))
known = float(jax.jit(lambda: square(jnp.zeros(4)))())
of_gradient = float(jax.jit(cut)(jnp.ones(4)))
print(f"jax {jax.__version__}: operation by operation {operation_by_operation}, compiled, zeros as")
print(f"  an argument {argument}, known zeros {known}, zeros of a gradient {of_gradient}")
assert operation_by_operation == argument == 0
if sys.argv[1] == "default":
    assert np.isnan(known) and np.isnan(of_gradient)
else:
    assert known == of_gradient == 0
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/zeros.py" default
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_disable_hlo_passes=algsimp \
  "$folder/venv/bin/python" "$folder/zeros.py" without
# Output seen:
# jax 0.10.2: operation by operation 0.0, compiled, zeros as
#   an argument 0.0, known zeros nan, zeros of a gradient nan
# jax 0.10.2: operation by operation 0.0, compiled, zeros as
#   an argument 0.0, known zeros 0.0, zeros of a gradient 0.0
