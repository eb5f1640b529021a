import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest

import vanishing
from tests.helpers import slow
from vanishing import diagnosis
from vanishing.diagnosis import document

SCHEMA = json.loads((Path(diagnosis.__file__).parent / "schema.json").read_text())


def layers(params, x):
    for w in params["layers"]:
        x = jax.nn.sigmoid(x @ w)
    return jnp.mean(x) * params["gain"]


def scanned(w, x):
    return jnp.mean(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0] ** 2)


def not_a_number(w, x):
    return jnp.sum(jnp.log(x @ w - 100))


def nothing(w, x):
    return 1.0


CASES = {
    "vanishing": (layers, {"layers": [jnp.eye(8)] * 12, "gain": jnp.float32(2)}),
    "scan": (scanned, jnp.ones((3, 8, 8))),
    "nan": (not_a_number, jnp.eye(8)),
    "infinite": (lambda w, x: jnp.sum(jnp.exp(x @ w * 200)), jnp.eye(8)),
    "bfloat16": (lambda w, x: jnp.sum(jnp.tanh(x @ w)), jnp.eye(8, dtype=jnp.bfloat16)),
    "nothing": (nothing, jnp.eye(8)),
}


FEW = ("vanishing", "nan", "nothing")


@pytest.mark.parametrize("name", [*FEW, *slow(*(name for name in CASES if name not in FEW))])
def test_the_document_is_of_its_schema_and_holds_the_numbers(name):
    loss, params = CASES[name]
    x = jnp.ones((4, 8), jax.tree.leaves(params)[0].dtype)
    result = vanishing.diagnose(loss)(params, x)
    text = result.to_json()
    read = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    jsonschema.validate(read, SCHEMA)
    assert read == json.loads(result.to_json(indent=2))
    trace = result.trace
    assert [row["name"] for row in read["rows"]] == list(trace.names)
    assert [p["name"] for p in read["parameters"]] == list(trace.layout.param_names)
    back = [float(row["backward"]["rms"] or "nan") for row in read["rows"]]
    np.testing.assert_array_equal(back, np.asarray(trace.single().backward.rms))
    assert [f["kind"] for f in read["findings"]] == [f.kind for f in result.findings]
    for charge, expected in zip(read["budget"]["charges"], trace.budget().charges, strict=True):
        assert charge == {"row": expected.name, "decades": document.plain(expected.gain)}


def test_the_schema_knows_every_kind_entry_and_word():
    finding = SCHEMA["properties"]["findings"]["items"]["properties"]
    assert set(finding["kind"]["enum"]) == set(diagnosis.REMEDIES) == set(diagnosis.KINDS)
    assert set(finding) == set(diagnosis.Finding._fields)
    row = SCHEMA["properties"]["rows"]["items"]["properties"]
    for way, summary in (
        ("forward", vanishing.probing.ForwardSummary),
        ("backward", vanishing.probing.BackwardSummary),
    ):
        assert set(row[way]["required"]) == set(summary._fields)
    assert set(row["kind"]["enum"]) == {kind.value for kind in vanishing.SiteKind}


def test_a_stack_of_traces_has_its_medians():
    traces = jax.vmap(lambda w: vanishing.probe(scanned)(w, jnp.ones((4, 8))).trace)(
        jnp.stack([jnp.ones((3, 8, 8)) * scale for scale in (0.1, 0.2, 0.4)])
    )
    result = vanishing.diagnose(traces)
    read = json.loads(result.to_json())
    jsonschema.validate(read, SCHEMA)
    middle = vanishing.probe(scanned)(jnp.ones((3, 8, 8)) * 0.2, jnp.ones((4, 8))).trace
    assert read["loss"] == pytest.approx(float(middle.value), rel=1e-5)


def test_a_diagnosis_without_a_trace_has_a_document():
    read = json.loads(diagnosis.Diagnosis(()).to_json())
    jsonschema.validate(read, SCHEMA)
    assert read["budget"] is None
    assert read["rows"] == []
