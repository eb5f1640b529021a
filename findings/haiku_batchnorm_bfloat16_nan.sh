#!/usr/bin/env bash
# haiku.BatchNorm with decay_rate=0.999 on bfloat16 inputs gives nan for ever in evaluation, while training looks
# healthy.
#
# Guess: the running averages are kept in float32, or at worst are a little coarse.
# In fact the decay is cast to the dtype of the input, where 0.999 is 1: nothing is ever added to the average, and
# the zero-debiasing divides 0 by 1 - 1. With decay_rate=0.99 (0.988 in bfloat16) it works.
# Versions: dm-haiku 0.0.17, jax 0.10.2, CPU.
# Source: haiku/_src/moving_averages.py (`decay = jax.lax.convert_element_type(self.decay, value.dtype)`). Haiku
# issue 396 reports nan from batch norm in bfloat16 without finding a cause. Not documented.
# Meaning: the loss and the gradients of training stay finite (they use the batch's own statistics), so that nothing
# in the backward pass shows it; the state has the nan. Check the state, not the gradients.
#> float32 decay 0.999: training finite True, evaluation finite True
#> bfloat16 decay 0.99: training finite True, evaluation finite True
#> bfloat16 decay 0.999: training finite True, evaluation finite False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import haiku as hk
import jax
import jax.numpy as jnp

x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 3))


def outputs(dtype, decay):
    norm = hk.transform_with_state(lambda x, training: hk.BatchNorm(True, True, decay)(x, is_training=training))
    batch = x.astype(dtype)
    parameters, state = norm.init(None, batch, True)
    for _ in range(3):
        y, state = norm.apply(parameters, state, None, batch, True)
    return y, norm.apply(parameters, state, None, batch, False)[0]


for dtype, decay in (("float32", 0.999), ("bfloat16", 0.99), ("bfloat16", 0.999)):
    training, evaluation = (bool(jnp.isfinite(y).all()) for y in outputs(dtype, decay))
    print(f"{dtype} decay {decay}: training finite {training}, evaluation finite {evaluation}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
