#!/usr/bin/env bash
# optax.MultiSteps lets a bad batch spoil the parameters at once, in the middle of a group that it only adds up.
#
# Guess: between its steps MultiSteps changes no parameter, so that a gradient with inf in the second of four batches
# is still alone in the accumulator, and can be thrown away before the fourth.
# In fact what the inner optimiser would do is computed at every batch and multiplied by 0, and 0 * inf is nan. Not so
# for a parameter that is a scalar: there XLA turns the product with a truth value into a select, and 0 comes out.
# apply_if_finite inside keeps the parameters, but loses the group; skip_not_finite loses the bad batch alone.
# Versions: optax 0.2.8, jax 0.10.2, CPU.
# Source: optax/transforms/_accumulation.py, MultiSteps.update; its docstring promises that the updates are 0 between.
# Meaning: a check of the parameters at the group's end comes too late; nan in parameters, found at a batch without a
# step, is that batch's.
#> optimiser                            shape  parameter after batches 1 to 5, of which 2 is bad
#> MultiSteps(sgd, 4)                   (2,)   1.0  nan  nan  nan  nan
#> MultiSteps(sgd, 4)                   ()     1.0  1.0  1.0  nan  nan
#> MultiSteps(apply_if_finite(sgd), 4)  (2,)   1.0  1.0  1.0  1.0  1.0
#> MultiSteps(sgd, 4, skip_not_finite)  (2,)   1.0  1.0  1.0  1.0  0.9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax.numpy as jnp
import optax

sgd = optax.sgd(0.1)
plain = optax.MultiSteps(sgd, 4)
optimizers = [
    ("MultiSteps(sgd, 4)", plain, (2,)),
    ("MultiSteps(sgd, 4)", plain, ()),
    ("MultiSteps(apply_if_finite(sgd), 4)", optax.MultiSteps(optax.apply_if_finite(sgd, 10), 4), (2,)),
    ("MultiSteps(sgd, 4, skip_not_finite)", optax.MultiSteps(sgd, 4, should_skip_update_fn=optax.skip_not_finite), (2,)),
]
print(f"{'optimiser':36} shape  parameter after batches 1 to 5, of which 2 is bad")
for name, optimizer, shape in optimizers:
    parameter, seen = jnp.ones(shape), []
    state = optimizer.init(parameter)
    for gradient in (1.0, jnp.inf, 1.0, 1.0, 1.0):
        update, state = optimizer.update(jnp.full(shape, gradient), state, parameter)
        parameter = optax.apply_updates(parameter, update)
        seen.append(f"{parameter.ravel()[0]:.1f}")
    print(f"{name:36} {shape!s:6} {'  '.join(seen)}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
