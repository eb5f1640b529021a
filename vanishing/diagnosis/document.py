"""A diagnosis as a document of JSON, for programs; `schema.json` says what is in it."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vanishing.probing import Trace

if TYPE_CHECKING:
    from vanishing.diagnosis.findings import Diagnosis

VERSION = 1
"""Of the form: it grows when a field is taken out or gets another meaning."""


def document(diagnosis: "Diagnosis") -> dict[str, Any]:
    """The findings, and the trace and the budget that they were made from.

    Args:
      diagnosis: of a trace; of a stack of traces the medians are given.

    Returns:
      Dictionaries, lists, texts and finite numbers. What was not measured, and nan, is None;
      infinite numbers are "inf" and "-inf".
    """
    trace = diagnosis.trace
    return {
        "version": VERSION,
        **(_WITHOUT_TRACE if trace is None else _measured(trace.single())),
        "findings": [
            plain(finding._asdict() | {"remedies": [r._asdict() for r in finding.remedies]})
            for finding in diagnosis.findings
        ],
        "notes": list(diagnosis.notes),
        "remarks": list(diagnosis.remarks),
        "unjudged": list(diagnosis.unjudged),
    }


def to_json(diagnosis: "Diagnosis", indent: int | None) -> str:
    """The document as text."""
    return json.dumps(document(diagnosis), indent=indent, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value as JSON has it.

    >>> plain({"share": np.float32(0.5), "gain": -math.inf, "rms": math.nan, "kinds": ("a",)})
    {'share': 0.5, 'gain': '-inf', 'rms': None, 'kinds': ['a']}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, bool | int | float | None) else str(value)


_WITHOUT_TRACE = {"loss": None, "rows": [], "parameters": [], "budget": None}


def _measured(trace: Trace) -> dict[str, Any]:
    return {
        "loss": plain(trace.value),
        "rows": list(_rows(trace)),
        "parameters": list(_parameters(trace)),
        "budget": _budget(trace),
    }


def _rows(trace: Trace) -> Iterator[dict[str, Any]]:
    for row, (name, instance) in enumerate(zip(trace.names, trace.layout.instances, strict=True)):
        site = trace.sites[row]
        yield plain(
            {
                "name": name,
                "op": site.op,
                "kind": site.kind.value,
                "parameter": site.param,
                "scope": site.scope,
                "at": site.at,
                "shape": site.shape,
                "dtype": site.dtype,
                "indices": instance.indices,
                "after": [trace.names[parent] for parent in instance.parents],
                "forward": {key: x[row] for key, x in trace.forward._asdict().items()},
                "backward": {key: x[row] for key, x in trace.backward._asdict().items()},
            }
        )


def _parameters(trace: Trace) -> Iterator[dict[str, Any]]:
    for place, name in enumerate(trace.layout.param_names):
        norms = {key: x[place] for key, x in trace.params._asdict().items()}
        yield plain({"name": name, **norms})


def _budget(trace: Trace) -> dict[str, Any]:
    budget = trace.budget()
    return plain(
        {
            "first": budget.first,
            "last": budget.last,
            "decades": budget.total,
            "sentence": budget.sentence(),
            "charges": [{"row": c.name, "decades": c.gain} for c in budget.charges],
        }
    )
