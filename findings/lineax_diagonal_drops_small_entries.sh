#!/usr/bin/env bash
# lineax.Diagonal() answers 0 for a small but regular diagonal entry, with gradient 0; so does
# AutoLinearSolver(None).
#
# Guess: dividing 1 by the diagonal (1, 1e-9) gives (1, 1e9) in every solver that solves diagonal systems; only an
# entry of exactly 0 is special.
# In fact Diagonal() is by default a pseudo-inverse (`well_posed=False`) which takes entries below rcond = eps * n
# times the largest for 0. The default solver of `linear_solve`, AutoLinearSolver(well_posed=True), divides plainly.
# Versions: lineax 0.1.1, equinox 0.13.8, jax 0.10.2, CPU.
# Source: lineax/_solver/diagonal.py (`well_posed: bool = False`; the docstring speaks of "diagonal entries with
# value 0").
# Meaning: a preconditioner or an implicit gradient with a steep spectrum loses its stiffest directions without an
# error: result 0 and gradient exactly 0, where the true ones are 1e9 and -1e18.
#> AutoLinearSolver(well_posed=True)   x = 1e+09   dx/da = -1e+18
#> AutoLinearSolver(well_posed=None)   x = 0e+00   dx/da = 0e+00
#> Diagonal()                          x = 0e+00   dx/da = 0e+00
#> Diagonal(well_posed=True)           x = 1e+09   dx/da = -1e+18
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 lineax==0.1.1
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import jax
import jax.numpy as jnp
import lineax as lx


def second(a, solver):
    operator = lx.DiagonalLinearOperator(jnp.stack([jnp.float32(1.0), a]))
    return lx.linear_solve(operator, jnp.ones(2), solver).value[1]


solvers = {
    "AutoLinearSolver(well_posed=True)": lx.AutoLinearSolver(well_posed=True),
    "AutoLinearSolver(well_posed=None)": lx.AutoLinearSolver(well_posed=None),
    "Diagonal()": lx.Diagonal(),
    "Diagonal(well_posed=True)": lx.Diagonal(well_posed=True),
}
for name, solver in solvers.items():
    x, slope = jax.value_and_grad(second)(jnp.float32(1e-9), solver)
    print(f"{name:35} x = {x:.0e}   dx/da = {abs(slope) * jnp.sign(slope) + 0.0:.0e}")
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
