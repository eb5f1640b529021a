#!/usr/bin/env bash
# One nan as the first metric makes flax's EarlyStopping stop a run that improves at every later step.
#
# Guess: a nan never counts as an improvement, and the first finite metric after it does.
# In fact the nan becomes the best metric, since the initial inf is replaced by anything; no number is less than
# nan, so nothing is an improvement from then on and the patience runs out.
# Versions: flax 0.12.8, jax 0.10.2.
# Source: flax/training/early_stopping.py, `update` (`if math.isinf(self.best_metric) or self.best_metric - metric >
# self.min_delta`). Not documented.
# Meaning: a run whose first evaluation overflows, and which then recovers, is stopped as if it did not learn; a nan
# later on is only a step without improvement.
#> nan first: best nan, stopped at metric 1.0
#> nan later: best 0.5, stopped at metric None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
from flax.training.early_stopping import EarlyStopping

nan = float("nan")
for name, metrics in {"nan first": (nan, 3.0, 2.0, 1.0, 0.5), "nan later": (3.0, nan, 2.0, 1.0, 0.5)}.items():
    stopping, stopped = EarlyStopping(patience=2), None
    for metric in metrics:
        stopping = stopping.update(metric)
        if stopping.should_stop and stopped is None:
            stopped = metric
    print(f"{name}: best {stopping.best_metric}, stopped at metric {stopped}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
