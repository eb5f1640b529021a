#!/usr/bin/env bash
# jax.numpy.max and min on a CPU: a nan is kept in a small array and left out of a large one.
#
# NumPy's maximum of an array that holds nan is nan, JAX documents the same for jax.numpy.max, and
# so it is for 100 elements. From some thousand elements on, XLA for CPUs hands the reduction to
# another library, which leaves nan out: the maximum is that of the other elements, and -inf where
# all are nan. A sum keeps its nan, and so does the maximum with
# XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce. So a largest gradient looks finite where
# the gradient holds nan, and a test `isfinite(max(abs(x)))` passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2" numpy

cat > "$folder/maximum.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

handed_over = sys.argv[1] == "default"
for size in (100, 100_000):
    x = np.ones(size, np.float32)
    x[3] = np.nan
    largest, smallest = float(jnp.max(x)), float(jnp.min(x))
    of_nan = float(jnp.max(jnp.full(size, jnp.nan)))
    print(f"jax {jax.__version__}, {size} elements, one nan: max {largest}, min {smallest}, ", end="")
    print(f"sum {float(jnp.sum(x))}; all nan: max {of_nan}; numpy {np.max(x)}")
    assert np.isnan(np.max(x)) and np.isnan(float(jnp.sum(x)))
    if size == 100 or not handed_over:
        assert np.isnan(largest) and np.isnan(smallest) and np.isnan(of_nan)
    else:
        assert largest == smallest == 1.0, "nan was left out"
        assert of_nan == -np.inf
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/maximum.py" default
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce \
  "$folder/venv/bin/python" "$folder/maximum.py" without
# Output seen:
# jax 0.10.2, 100 elements, one nan: max nan, min nan, sum nan; all nan: max nan; numpy nan
# jax 0.10.2, 100000 elements, one nan: max 1.0, min 1.0, sum nan; all nan: max -inf; numpy nan
# jax 0.10.2, 100 elements, one nan: max nan, min nan, sum nan; all nan: max nan; numpy nan
# jax 0.10.2, 100000 elements, one nan: max nan, min nan, sum nan; all nan: max nan; numpy nan
