"""Names of predicted rows, in the grammar of `vanishing.probing.row_names`."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from vanishing._types import DEPTH
from vanishing.meanfield import PredictedRow
from vanishing.probing import leaf_names, row_names, word_of

_word = functools.lru_cache(maxsize=256)(word_of)


class _Before(NamedTuple):
    """A layer or a sum that a row may follow."""

    name: str  # a template
    path: tuple[str, ...]
    lengths: tuple[int, ...]  # along the axes of depth in its path


def labels(rows: Sequence[PredictedRow]) -> list[str]:
    """A template of each row's name: "{0}" stands for the index along its first axis of depth.

    They are the names that the probe gives the rows: see there which layer an activation follows.
    """
    layers = [_template(row.path) for row in rows if row.has_parameters]
    model = row_names.shared(layers) if len(layers) > 1 else ""
    taken: set[str] = set()
    result, before = [], _Before("", (), ())
    for row in rows:
        own = _template(row.path)
        base = own
        if not row.has_parameters:
            is_sum = row.op == "add"
            if not (is_sum and own):
                own = _followed(row, before, rows, model)
            base = row_names.following(own, _op(row))
        result.append(row_names.unique(base, row.log_q.shape, taken))
        if row.has_parameters or row.op == "add":
            name = result[-1] if row.has_parameters else own
            before = _Before(name, row.path, row.log_q.shape)
    return result


def _template(path: tuple[str, ...]) -> str:
    steps = [name if name.startswith("[") else f".{name}" for name in path]
    return leaf_names.indexed(
        "".join(steps).removeprefix("."), [f"{{{axis}}}" for axis in range(path.count(DEPTH))]
    )


def _op(row: PredictedRow) -> str:
    if callable(row.op):
        return _word(row.op)
    return row.op or (row.path[-1] if row.path else "output")


def _followed(row: PredictedRow, before: _Before, rows: Sequence[PredictedRow], model: str) -> str:
    """The layer that a row follows; at the beginning of a block, what the block's layers share."""
    block = _block(row.path)
    if before.path[: len(block)] != block:
        inside = [r for r in rows if r.has_parameters and r.path[: len(block)] == block]
        return row_names.branch([_template(r.path) for r in inside], model) if inside else ""
    name = before.name
    for level in range(block.count(DEPTH), len(before.lengths)):  # it follows the last of them
        name = name.replace(f"[{{{level}}}]", f"[{before.lengths[level] - 1}]")
    return name


def _block(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path as far as its last axis of depth."""
    last = max((i for i, name in enumerate(path) if name == DEPTH), default=-1)
    return path[: last + 1]
