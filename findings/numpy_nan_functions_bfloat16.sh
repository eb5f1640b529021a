#!/usr/bin/env bash
# NumPy's nan-functions skip a bfloat16 nan in nanmax and nanmin, but not in nanmean, nansum, nanstd or nan_to_num.
#
# Guess: `np.isnan` knows bfloat16, so all nan-functions skip its nan, and xarray's reductions, which skip nan, do
# too.
# In fact nanmean and its kin look for nan only if the dtype is a subclass of `np.inexact`, and bfloat16 (kind "V")
# is not: they answer nan. nanmax is right because it uses `fmax`. xarray raises TypeError in `isnull`, `mean` and
# `max`.
# Versions: numpy 2.4.6, ml_dtypes 0.6.0, xarray 2026.9.0.
# Source: numpy/lib/_nanfunctions_impl.py, `_replace_nan`; ml_dtypes issue 346 (nan_to_num), xarray issue 9568
# (isnull, max), both open.
# Meaning: statistics over arrays of gradients in bfloat16, where a nan stands for "not measured" or "exploded",
# differ with the function asked: cast to float32 before any of them.
#> float32: nanmax 3, nanmin 1, nanmean 2, nansum 4, nanstd 1, nan_to_num sums to 4
#> float32: xarray isnull counts 1, mean 2, max 3
#> bfloat16: nanmax 3, nanmin 1, nanmean nan, nansum nan, nanstd nan, nan_to_num sums to nan
#> bfloat16: xarray isnull counts TypeError, mean TypeError, max TypeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 ml_dtypes==0.6.0 xarray==2026.9.0
"$folder/venv/bin/python" -W ignore - > "$folder/printed" <<'PYTHON'
import ml_dtypes
import numpy as np
import xarray as xr

reductions = ("nanmax", "nanmin", "nanmean", "nansum", "nanstd")


def attempt(function):
    try:
        return f"{float(function()):g}"
    except TypeError:
        return "TypeError"


for dtype in (np.float32, ml_dtypes.bfloat16):
    values = np.array([1, np.nan, 3], dtype)
    array = xr.DataArray(values, dims="step")
    answers = ", ".join(f"{name} {float(getattr(np, name)(values)):g}" for name in reductions)
    print(f"{dtype.__name__}: {answers}, nan_to_num sums to {float(np.nan_to_num(values).sum()):g}")
    answers = attempt(lambda: array.isnull().sum()), attempt(array.mean), attempt(array.max)
    print("{}: xarray isnull counts {}, mean {}, max {}".format(dtype.__name__, *answers))
PYTHON
cat "$folder/printed"
grep '^#> ' "$0" | cut -c4- | diff - "$folder/printed" ||
  { echo "$(basename "$0"): the behaviour differs from what the head states" >&2; exit 1; }
