#!/usr/bin/env bash
# Where a probability is 0, log_prob's gradient is 0, inf or nan, by the library and by the distribution's name.
#
# Guess: log 0 = -inf with slope inf in NumPyro, Distrax and TensorFlow Probability, for Bernoulli and Categorical
# alike.
# In fact NumPyro's Bernoulli clamps (a finite -87.3, slope 0), its Categorical clamps the gradient alone (-inf,
# slope 0), Distrax's Categorical normalizes the probabilities, whose slope is then 0 times inf (nan). A probability
# of 1e-30 has slope 1e30 in all six.
# Versions: numpyro 0.22.0, distrax 0.1.9, tfp-nightly 0.26.0.dev20261027, jax 0.10.2, CPU. Tolerance: one digit.
# Source: numpyro/distributions/util.py, `clamp_probs` (a clip to the smallest normal number);
# distrax/_src/distributions/categorical.py, `math.normalize`. Not documented.
# Meaning: a model that has reached probability 0 for what it sees never leaves it in NumPyro (finite loss, gradient
# 0), explodes in TFP and is nan in Distrax. Ask for `logits` instead.
#> NumPyro Bernoulli      value -87.3  slope 0.0  (at 1e-30: 1e+30)
#> NumPyro Categorical    value -inf  slope 0.0  (at 1e-30: 1e+30)
#> Distrax Bernoulli      value -inf  slope inf  (at 1e-30: 1e+30)
#> Distrax Categorical    value -inf  slope nan  (at 1e-30: 1e+30)
#> TFP Bernoulli          value -inf  slope inf  (at 1e-30: 1e+30)
#> TFP Categorical        value -inf  slope inf  (at 1e-30: 1e+30)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
  jax==0.10.2 jaxlib==0.10.2 numpyro==0.22.0 distrax==0.1.9 tfp-nightly==0.26.0.dev20261027
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import distrax
import jax
import jax.numpy as jnp
import numpyro.distributions as numpyro
from tensorflow_probability.substrates.jax import distributions as tfp


def pair(p):
    return jnp.stack([p, 1 - p])


log_probs = {
    "NumPyro Bernoulli": lambda p: numpyro.Bernoulli(probs=p).log_prob(1.0),
    "NumPyro Categorical": lambda p: numpyro.Categorical(probs=pair(p)).log_prob(0),
    "Distrax Bernoulli": lambda p: distrax.Bernoulli(probs=p).log_prob(1),
    "Distrax Categorical": lambda p: distrax.Categorical(probs=pair(p)).log_prob(0),
    "TFP Bernoulli": lambda p: tfp.Bernoulli(probs=p).log_prob(1.0),
    "TFP Categorical": lambda p: tfp.Categorical(probs=pair(p)).log_prob(0),
}
for name, log_prob in log_probs.items():
    value, slope = jax.value_and_grad(log_prob)(jnp.float32(0.0))
    beside = jax.grad(log_prob)(jnp.float32(1e-30))
    print(f"{name:22} value {value:.1f}  slope {slope:.1f}  (at 1e-30: {beside:.0e})")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
