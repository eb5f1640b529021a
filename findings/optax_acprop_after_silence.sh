#!/usr/bin/env bash
# optax.contrib.acprop answers the first gradient after zero gradients with a step of 3 million learning rates.
#
# Guess: like Adam, whose moments it keeps, it moves by about the learning rate when a parameter that had gradient 0
# gets its first gradient; at any rate by no more than a few of them.
# In fact it divides by the second moment of the step before, which is 0, so by sqrt(1e-16) alone: 1 becomes 3.16e6
# after bias correction. ADOPT, which uses the former moment as well, bounds it.
# Versions: optax 0.2.8, jax 0.10.2, CPU. Tolerance: two digits.
# Source: optax/contrib/_acprop.py (eps 1e-16; asynchronous update of the second moment). Not documented.
# Meaning: dead units, unused embeddings and masked layers explode at the step in which they wake up, with a
# perfectly ordinary gradient.
#> acprop     update / learning rate after gradients 0, 0, 1, 1:  0 0 -3.2e+06 -1.7
#> adopt      update / learning rate after gradients 0, 0, 1, 1:  0 0 -0.12 -0.24
#> adam       update / learning rate after gradients 0, 0, 1, 1:  0 0 -0.64 -0.78
#> adabelief  update / learning rate after gradients 0, 0, 1, 1:  0 0 -0.71 -0.91
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax.numpy as jnp
import optax

optimizers = {
    "acprop": optax.contrib.acprop(0.1),
    "adopt": optax.contrib.adopt(0.1),
    "adam": optax.adam(0.1),
    "adabelief": optax.adabelief(0.1),
}
for name, optimizer in optimizers.items():
    parameter = jnp.ones(())
    state, updates = optimizer.init(parameter), []
    for gradient in (0.0, 0.0, 1.0, 1.0):
        update, state = optimizer.update(jnp.float32(gradient), state, parameter)
        updates.append(f"{update / 0.1 + 0.0:.2g}")
    print(f"{name:10} update / learning rate after gradients 0, 0, 1, 1: ", *updates)
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
