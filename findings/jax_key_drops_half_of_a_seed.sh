#!/usr/bin/env bash
# jax.random.key throws the upper 32 bits of a seed away without a word; fold_in refuses the same number.
#
# Guess: a seed that JAX's 32-bit integers cannot hold is refused, as jnp.asarray(2**32 + 5) and fold_in refuse it, or
# kept, as the docstring's "a 64- or 32-bit integer" and a key of two 32-bit words suggest.
# In fact, unless jax_enable_x64 is set, seeds that differ by a multiple of 2**32 give one key. With it they differ, and
# a negative seed gives another key than without.
# Versions: jax 0.10.2, CPU; the same for the implementations threefry2x32 and rbg.
# Source: jax.random.key.__doc__; jax.random.fold_in.
# Meaning: runs that were seeded from a time in nanoseconds or from a 64-bit hash can be the same run under two labels.
#> key(5)            x64 off: [0, 5]           x64 on: [0, 5]
#> key(2**32 + 5)    x64 off: [0, 5]           x64 on: [1, 5]
#> key(5 - 2**32)    x64 off: [0, 5]           x64 on: [4294967295, 5]
#> key(-1)           x64 off: [0, 4294967295]  x64 on: [4294967295, 4294967295]
#> fold_in(key(0), 2**32 + 5): OverflowError
#> jnp.asarray(2**32 + 5): OverflowError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W error - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp


def words(seed, x64):
    with jax.enable_x64(x64):
        return str(jax.random.key_data(jax.random.key(seed)).tolist())


for text in ("5", "2**32 + 5", "5 - 2**32", "-1"):
    off, on = words(eval(text), False), words(eval(text), True)
    print(f"{f'key({text})':17} x64 off: {off:15}  x64 on: {on}")
for name, function in {
    "fold_in(key(0), 2**32 + 5)": lambda: jax.random.fold_in(jax.random.key(0), 2**32 + 5),
    "jnp.asarray(2**32 + 5)": lambda: jnp.asarray(2**32 + 5),
}.items():
    try:
        print(f"{name}: {function()}")
    except OverflowError as error:
        print(f"{name}: {type(error).__name__}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
