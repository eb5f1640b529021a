"""Rows of the tables against what the installed versions do."""

import importlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads as it is imported

ABSENT = "not measured, for want of the package: "


def module(name):
    """A module of a library that is measured; the row is not where it is absent."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise Absent(name) from None


class Absent(Exception):
    """A library is not installed."""


def assert_as_stated(rows, measure, rtol, atol=0.0):
    """Every row says what is measured; what has changed is named, and what could not be is skipped.

    Args:
      rows: of a table.
      measure: a function of a row that returns pairs of what it states and what is measured.
      rtol: relative tolerance.
      atol: absolute tolerance.
    """
    changed, absent = [], []
    for row in rows:
        label = ", ".join(str(field) for field in row[:2])
        try:
            with jax.numpy_rank_promotion("allow"):  # which libraries rely on
                pairs = list(measure(row))
        except Absent as missing:
            absent.append(f"{label} ({missing})")
            continue
        for stated, measured in pairs:
            if not np.allclose(measured, stated, rtol=rtol, atol=atol):
                changed.append(f"{label}: stated {stated}, measured {measured}")
    assert not changed, "\n".join(changed)
    if absent:
        pytest.skip(ABSENT + "; ".join(absent))


def assert_table(rows, identity):
    """A table's rows are named once each, and have a source and a version."""
    keys = [identity(row) for row in rows]
    assert len(keys) == len(set(keys))
    assert all(row.source and row.version for row in rows)


def assert_plain(module):
    """A table is plain data: its file imports no library that it is about."""
    lines = Path(module.__file__).read_text().splitlines()
    imports = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
    roots = {name.partition(".")[0] for name in imports}
    assert roots <= {"collections", "math", "typing", "vanishing"}
