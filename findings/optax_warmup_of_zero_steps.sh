#!/usr/bin/env bash
# A warm-up of 0 steps switches training off for ever in two Optax schedules, and means "no warm-up" in the others.
#
# Guess: with 0 warm-up steps the rate is the peak from the first step on, in every schedule.
# In fact linear_schedule, polynomial_schedule and warmup_constant_schedule stay at init_value, which is 0 where one
# warms up; the warmup_*_decay_schedules begin at the peak. contrib.schedule_free_adamw(warmup_steps=0) uses the
# first kind and never moves. Only an INFO line, invisible by default, says so.
# Versions: optax 0.2.8, jax 0.10.2, CPU.
# Source: optax/schedules/_schedule.py; the docstring of polynomial_schedule says that the value is then held at
# init_value, those of linear_schedule and warmup_constant_schedule do not.
# Meaning: updates of exactly 0 with healthy gradients: a search over the length of the warm-up that includes 0
# finds a "vanishing" run.
#> schedule                            step 0  step 5
#> linear_schedule                     0.00    0.00
#> polynomial_schedule                 0.00    0.00
#> warmup_constant_schedule            0.00    0.00
#> warmup_cosine_decay_schedule        1.00    0.50
#> warmup_exponential_decay_schedule   1.00    0.50
#> schedule_free_adamw(1.0, warmup_steps=0): first updates 0.0 0.0 0.0
#> schedule_free_adamw(1.0, warmup_steps=None): first updates -1.0 -0.5 -0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax.numpy as jnp
import optax

schedules = {
    "linear_schedule": optax.linear_schedule(0.0, 1.0, transition_steps=0),
    "polynomial_schedule": optax.polynomial_schedule(0.0, 1.0, power=2, transition_steps=0),
    "warmup_constant_schedule": optax.warmup_constant_schedule(0.0, 1.0, warmup_steps=0),
    "warmup_cosine_decay_schedule": optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=0, decay_steps=10),
    "warmup_exponential_decay_schedule": optax.warmup_exponential_decay_schedule(
        0.0, 1.0, warmup_steps=0, transition_steps=5, decay_rate=0.5
    ),
}
print(f"{'schedule':35} step 0  step 5")
for name, schedule in schedules.items():
    print(f"{name:35} {float(schedule(0)):.2f}    {float(schedule(5)):.2f}")
for steps in (0, None):
    optimizer = optax.contrib.schedule_free_adamw(1.0, warmup_steps=steps)
    parameters, updates = jnp.ones(()), []
    state = optimizer.init(parameters)
    for _ in range(3):
        update, state = optimizer.update(jnp.ones(()), state, parameters)
        parameters, updates = optax.apply_updates(parameters, update), [*updates, f"{update + 0.0:.1f}"]
    print(f"schedule_free_adamw(1.0, warmup_steps={steps}): first updates", *updates)
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
