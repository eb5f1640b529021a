#!/usr/bin/env bash
# optax.adaptive_grad_clip takes a stack of kernels (layer, in, out) for one single unit and clips all layers
# together.
#
# Guess: a three-axis leaf is clipped column by column as each of its 2-D kernels would be.
# In fact every rank has its fixed axes: at rank 2 one norm a column, at rank 3 and 4 one norm over the first three
# axes, at rank 3 thus over everything. A layer of size 1e-3 in a stack with one of size 1 gets 707 times the update
# that it gets alone. The same holds for a 1-D convolution's kernel (width, in, out).
# Versions: optax 0.2.8, jax 0.10.2, CPU.
# Source: the docstring of `unitwise_norm` in optax/transforms/_clipping.py lists the axes by rank ("Rank-3 or 4:
# Axes (0, 1, 2)"), that of adaptive_grad_clip does not name stacks; optax pull request 1340 added the `axis`
# argument.
# Meaning: under `scan` over layers (nnx.scan, linen.scan, hand-made stacks) adaptive clipping is not the published
# one: small layers are no longer protected from large gradients.
#> alone:   layer of size 1: 0.01    layer of size 0.001: 1e-05
#> stacked: layer of size 1: 0.00707    layer of size 0.001: 0.00707
#> vmapped: layer of size 1: 0.01    layer of size 0.001: 1e-05
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

clip = optax.adaptive_grad_clip(0.01)
stack = jnp.stack([jnp.full((4, 3), 1.0), jnp.full((4, 3), 1e-3)])


def clipped(parameters):
    return clip.update(jnp.ones_like(parameters), clip.init(parameters), parameters)[0]


updates = {
    "alone:  ": [clipped(kernel) for kernel in stack],
    "stacked:": clipped(stack),
    "vmapped:": jax.vmap(clipped)(stack),
}
for name, (large, small) in updates.items():
    print(f"{name} layer of size 1: {large[0, 0]:.3g}    layer of size 0.001: {small[0, 0]:.3g}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
