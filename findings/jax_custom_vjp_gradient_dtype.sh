#!/usr/bin/env bash
# jax.grad of a float32 function can return a bfloat16 gradient: custom_vjp does not check the dtype that its rule
# returns.
#
# Guess: a backward rule that returns a cotangent of another dtype than its argument raises an error, as one of
# another shape does; or it is cast.
# In fact any inexact dtype passes the check: the gradient of a float32 argument is a bfloat16 array, with
# bfloat16's digits. Only if a product stands below the rule is there an error, raised there and not naming the
# rule.
# Versions: jax 0.10.2, CPU.
# Source: jax/_src/custom_derivatives.py, `_temporary_dtype_exception`, by name a stopgap; not documented.
# Meaning: a hand-written rule next to the parameters quietly rounds their gradients; only `grad.dtype` tells.
#> argument float32, value float32, gradient bfloat16
#> gradient 0.33398438 where 0.33333334 was meant
#> through x + x below the rule: gradient bfloat16
#> through tanh below the rule: TypeError
#> a wrong shape: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp


def third(backward):
    function = jax.custom_vjp(lambda x: x / 3)
    function.defvjp(lambda x: (x / 3, None), backward)
    return function


rounded = third(lambda _, cotangent: ((cotangent / 3).astype(jnp.bfloat16),))
x = jnp.float32(1.0)
value, gradient = jax.value_and_grad(rounded)(x)
print(f"argument {x.dtype}, value {value.dtype}, gradient {gradient.dtype}")
print(f"gradient {float(gradient):.8f} where {1 / jnp.float32(3):.8f} was meant")
print(f"through x + x below the rule: gradient {jax.grad(lambda x: rounded(x + x))(x).dtype}")
wrong_shape = third(lambda _, cotangent: (jnp.ones(2),))
functions = {"through tanh below the rule": lambda x: rounded(jnp.tanh(x)), "a wrong shape": wrong_shape}
for name, function in functions.items():
    try:
        jax.grad(function)(x)
    except (TypeError, ValueError) as error:
        print(f"{name}: {type(error).__name__}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
