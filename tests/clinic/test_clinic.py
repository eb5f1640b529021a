"""Scores the diagnosis on networks whose illness is known.

The thresholds of `vanishing.diagnose` come from the literature that their docstrings name. What was
changed while looking at patients was changed on the first half (even positions); the second half
is the score.
"""

import jax
import pytest

from tests.clinic.patients import PATIENTS
from tests.helpers import slow
from vanishing.diagnosis import diagnose
from vanishing.diagnosis.remedies import REMEDIES
from vanishing.probing import SUMMARIES, probe

FINDINGS: dict[str, tuple] = {}


@pytest.fixture
def examine():
    """The findings of a patient, found once."""

    def findings(name):
        if name not in FINDINGS:
            with jax.numpy_rank_promotion("allow"):
                patient = PATIENTS[name]()
                if patient.updates:
                    probed = probe(patient.loss, summaries=SUMMARIES)(patient.params, *patient.args)
                    diagnosis = diagnose(probed.trace.with_updates(patient.updates(probed.grads)))
                else:
                    diagnosis = diagnose(patient.loss)(patient.params, *patient.args)
            FINDINGS[name] = (patient, diagnosis.findings)
        return FINDINGS[name]

    return findings


def test_half_of_the_patients_are_healthy_and_every_illness_is_there():
    names = list(PATIENTS)
    assert len(names) >= 40
    sick = names[names.index("sigmoid, 12 layers") :]
    assert 0.4 <= len(sick) / len(names) <= 0.6


# One patient for each kind, and a healthy one for each way of writing a network.
FEW = {
    "vanishing": "sigmoid, 12 layers",
    "exploding": "relu, 20 layers, too large",
    "forward_drift": "growing biases",
    "saturated": "tanh, N(0, 1) at width 512",
    "dead_units": "dead relus by their bias",
    "rank_collapse": "attention without skips",
    "dead_gradient": "an unused head",
    "non_finite": "a nan born in a log",
    "norm": "a norm of one number",
    "symmetry": "constant kernels",
    "double_softmax": "a softmax of a softmax",
    "precision": "steps that bfloat16 rounds away",
    "update_ratio": "a step that replaces the weights",
    "": "relu, 20 layers, He",
    "healthy, Linen": "linen batch norm, 3 layers",
    "healthy, NNX": "nnx elu, 5 layers",
    "healthy, Equinox": "equinox tanh, 2 layers",
}


# The other kinds have fast tests of their own in tests/diagnosis.
FIRST = ("forward_drift", "saturated", "update_ratio", "healthy, Linen")


@pytest.mark.parametrize("kind", [*FIRST, *slow(*(kind for kind in FEW if kind not in FIRST))])
def test_each_kind_is_found_in_one_patient_and_nothing_in_a_healthy_one(examine, kind):
    patient, findings = examine(FEW[kind])
    kind = "" if kind.startswith("healthy") else kind
    places = [place for f in findings if f.kind == kind for place in (f.where, *f.also)]
    assert {f.kind for f in findings} <= {patient.kind} | patient.also
    assert patient.kind == kind or kind in patient.also
    assert bool(places) == bool(kind), findings
    if patient.kind == kind:
        assert not kind or any(patient.where in where for where in places)


def test_the_few_patients_have_every_kind():
    assert {kind for kind in FEW if kind and not kind.startswith("healthy")} == set(REMEDIES)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["looked at", "scored"])
def test_precision_and_recall(examine, half):
    names = list(PATIENTS)[half == "scored" :: 2]
    false_positives, false_negatives, true_positives, positives = [], [], 0, 0
    kinds = set()
    for name in names:
        patient, findings = examine(name)
        right = [
            f
            for f in findings
            if f.kind == patient.kind and any(patient.where in w for w in (f.where, *f.also))
        ]
        extra_kinds = {f.kind for f in findings} - {patient.kind} - patient.also
        false_positives += [(name, kind) for kind in extra_kinds]
        if patient.kind:
            kinds.add(patient.kind)
            positives += 1
            true_positives += bool(right)
            if not right:
                false_negatives.append((name, patient.kind, [(f.kind, f.where) for f in findings]))
    precision = true_positives / (true_positives + len(false_positives))
    recall = true_positives / positives
    assert precision >= 0.95, false_positives
    assert recall >= 0.95, false_negatives
    assert len(kinds) >= 5


@pytest.mark.slow
def test_every_kind_has_a_patient_and_a_remedy(examine):
    kinds = {patient.kind or None for patient, _ in map(examine, PATIENTS)} - {None}
    other_kinds = {kind for patient, _ in map(examine, PATIENTS) for kind in patient.also}
    assert kinds | other_kinds >= set(REMEDIES)
    kinds_of_findings = {finding.kind for name in PATIENTS for finding in examine(name)[1]}
    assert kinds_of_findings == set(REMEDIES), "every kind is found in some patient"
