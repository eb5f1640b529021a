"""Every remedy is proven: the diagnosis gives it to a network that it mends."""

import functools
import re

import numpy as np
import pytest

from tests.remedies import blocks, depth, numbers, over_time, steps, stops
from tests.remedies.proof import diagnosed, found, learns, learns_nothing, trained
from vanishing.diagnosis import REMEDIES, Remedy, remedies

CASES = {
    **depth.CASES,
    **over_time.CASES,
    **blocks.CASES,
    **stops.CASES,
    **numbers.CASES,
    **steps.CASES,
}
PROOFS = [(name, remedy) for name, case in CASES.items() for remedy in case.mended]
FAST = {"a softmax over one unit", "both factors of an adapter are 0"}


def described(value):
    return value.action if isinstance(value, Remedy) else value


def cases(names):
    """Cases of which the fastest few run always."""
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name)
        for name in names
    ]


@functools.cache
def sick(name):
    """The finding of a sick network that has one such, and its scores after training."""
    case = CASES[name]
    (finding,) = found(diagnosed(case.sick, case), case)
    return finding, trained(case.sick, case)


def factor_of(remedy):
    """The number that the action of a remedy names."""
    return float(re.search(r"(?:about|by) (\S+)", remedy.action).group(1))


def is_given(remedy, finding):
    """Is it among the finding's, by itself or with a number for the place?"""
    return any(given.action.startswith(remedy.action) for given in finding.remedies)


ALL = {r for r in vars(remedies).values() if isinstance(r, Remedy)}.union(*REMEDIES.values())


# With a gain of 0 a network learns too, after a first step in which the layers behind stand still.
UNPROVEN = {remedies.UNIT_GAIN}


@pytest.mark.parametrize("remedy", sorted(ALL - UNPROVEN), ids=described)
def test_every_remedy_has_a_proof(remedy):
    assert any(remedy == proven for _, proven in PROOFS)


@pytest.mark.parametrize(
    ("kind", "remedy"), [(k, r) for k in REMEDIES for r in REMEDIES[k]], ids=described
)
def test_every_remedy_of_a_kind_has_a_proof_for_that_kind(kind, remedy):
    assert any(CASES[name].kind == kind and remedy == proven for name, proven in PROOFS)


@pytest.mark.parametrize("name", cases(CASES))
def test_the_sick_network_learns_nothing_and_is_given_its_remedies(name):
    finding, scores = sick(name)
    assert learns_nothing(scores), scores
    assert all(is_given(remedy, finding) for remedy in CASES[name].mended), finding


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        pytest.param(name, remedy, marks=() if name in FAST else pytest.mark.slow)
        for name, remedy in PROOFS
    ],
    ids=described,
)
def test_the_mended_network_learns_and_is_found_healthy(name, remedy):
    case = CASES[name]
    scores = trained(case.mended[remedy], case)
    assert learns(scores), scores
    assert remedy in case.remains or not found(diagnosed(case.mended[remedy], case), case)


@pytest.mark.slow
@pytest.mark.parametrize("name", depth.FACTORS)
def test_weights_times_the_factor_that_is_named_train_as_those_of_the_critical_scale(name):
    remedy, scaled = depth.FACTORS[name]
    case = CASES[name]
    (named,) = (r for r in sick(name)[0].remedies if r.action.startswith(remedy.action))
    mended = scaled(factor_of(named))
    critical, by_factor = trained(case.mended[remedy], case), trained(mended, case)
    assert learns(by_factor), by_factor
    best = [scores.max(1).argmin() for scores in (critical, by_factor)]
    assert abs(np.subtract(*best)) <= 1, "its best learning rate is another one"
    assert not found(diagnosed(mended, case), case)
