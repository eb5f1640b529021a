import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vanishing import diagnosis
from vanishing.diagnosis import CAUSES, KINDS, REMEDIES, diagnose
from vanishing.diagnosis.findings import finding
from vanishing.diagnosis.settings import Setting

FOLDER = Path(diagnosis.__file__).parent
W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (8, 4))


def strings(value):
    """The texts that an expression may be."""
    if isinstance(value, ast.Constant):
        return {value.value} if isinstance(value.value, str) else set()
    if isinstance(value, ast.IfExp):
        return strings(value.body) | strings(value.orelse)
    return set()


def parts(value, i):
    """The texts that an element of a tuple may be."""
    if isinstance(value, ast.IfExp):
        return parts(value.body, i) | parts(value.orelse, i)
    return strings(value.elts[i]) if isinstance(value, ast.Tuple) else set()


def assigned(target, value):
    """The texts that an assignment gives to the name `cause`."""
    if isinstance(target, ast.Tuple):
        names = [getattr(element, "id", "") for element in target.elts]
        return parts(value, names.index("cause")) if "cause" in names else set()
    return strings(value) if getattr(target, "id", "") == "cause" else set()


def given(tree):
    """The causes that a module gives to findings, as far as they are written in it."""
    found, places = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [arg.arg for arg in node.args.args]
            places |= {node.name: names.index("cause")} if "cause" in names else {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in places:
            for value in node.args[places[node.func.id] :][:1]:
                found |= strings(value)
        elif isinstance(node, ast.keyword) and node.arg == "cause":
            found |= strings(node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found |= assigned(target, node.value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            if not node.value.elts:
                continue
            kind, *rest = node.value.elts  # of a kind, its cause, and what follows
            if strings(kind) & set(KINDS) and len(rest) > 1:
                found |= strings(rest[0])
    return found


ROLES = ("activation", "rectifier", "attention", "normalization", "sum", "")
SETTINGS = [Setting(recurrent=recurrent, culprit=c) for c in ROLES for recurrent in (False, True)]
GIVEN = {setting.cause for setting in SETTINGS}.union(
    *(given(ast.parse(file.read_text())) for file in FOLDER.glob("*.py"))
)


def test_the_causes_that_are_given_are_read_from_the_code():
    assert {"mask", "learning_rate", "softmax_twice", "one_unit", "recurrence"} <= GIVEN


def test_every_cause_that_is_given_has_words():
    assert sorted(GIVEN - set(CAUSES)) == []


def test_every_cause_with_words_is_given():
    assert sorted(set(CAUSES) - GIVEN) == []


def test_every_kind_has_a_rule_remedies_and_a_place_in_the_schema():
    schema = json.loads((FOLDER / "schema.json").read_text())
    (kinds,) = (
        enum
        for enum in _enums(schema)
        if "dead_gradient" in enum  # the kinds of findings, not those of rows
    )
    assert set(kinds) == set(KINDS) == set(REMEDIES)
    assert all(REMEDIES.values())


def _enums(tree):
    if isinstance(tree, dict):
        if isinstance(tree.get("enum"), list):
            yield tree["enum"]
        for value in tree.values():
            yield from _enums(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _enums(value)


def test_every_finding_is_of_a_kind_that_there_is():
    """Of those that are written where they are made."""
    kinds = set()
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "finding":
                kinds |= strings(node.args[0])
    assert len(kinds) > 8
    assert kinds <= set(KINDS)


@pytest.mark.parametrize("text", [*KINDS.values(), *(words for words in CAUSES.values() if words)])
def test_words_are_sentences(text):
    assert text[0].isupper() or text.startswith(("argmax", "stop_gradient", "r squared"))
    assert text.endswith(".")
    assert "  " not in text


def test_a_finding_explains_itself_by_rule_cause_and_numbers():
    told = finding(
        "dead_gradient", "w", True, "nothing moves", cause="no_input", share=0.123456, rows=3
    )
    assert told.explain().splitlines() == [
        "dead gradient at w (high): nothing moves",
        f"  Rule: {KINDS['dead_gradient']}",
        f"  Cause, no input: {CAUSES['no_input']}",
        "  share: 0.123",
        "  rows: 3",
    ]


def test_a_finding_without_a_cause_has_no_line_for_it():
    lines = finding("vanishing", "w", True, "it is small").explain().splitlines()
    assert lines == ["vanishing at w (high): it is small", f"  Rule: {KINDS['vanishing']}"]


FAULTS = {
    "non_finite": (lambda w, x: jnp.mean(jnp.log(x @ w)), "singular_value"),
    "dead_gradient": (lambda w, x: jnp.mean(jax.lax.stop_gradient(x @ w)), "stopped"),
    "double_softmax": (
        lambda w, x: -jnp.mean(jax.nn.log_softmax(jax.nn.softmax(x @ w))[:, 0]),
        "softmax_twice",
    ),
    "exploding": (lambda w, x: 1e38 * jnp.mean((1e3 * x @ w) ** 2), "growth"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_diagnosis_finds_explains_itself(kind):
    loss, cause = FAULTS[kind]
    told = next(f for f in diagnose(loss)(W, X).findings if f.kind == kind)
    assert told.cause == cause
    first, rule, why, *numbers = told.explain().splitlines()
    assert first == str(told).splitlines()[0]
    assert rule == f"  Rule: {KINDS[kind]}"
    assert why == f"  Cause, {cause.replace('_', ' ')}: {CAUSES[cause]}"
    names = [line.strip().partition(":")[0] for line in numbers]
    assert names == [name.replace("_", " ") for name in told.evidence]
