"""Scores the diagnosis on transformers that an operator made faulty, or changed without harm."""

import os
import re

import jax
import pytest

from tests.blocks.operators import OPERATORS
from vanishing.diagnosis import diagnose

SCORE_ALL = os.environ.get("SCORE_ALL")  # takes a quarter of an hour
ALL = OPERATORS.values() if isinstance(OPERATORS, dict) else OPERATORS


def test_half_as_many_variants_are_harmless_as_faulty():
    faulty = [operator for operator in ALL if operator.kinds]
    assert len(faulty) >= 20
    assert 2 * (len(ALL) - len(faulty)) >= len(faulty)


@pytest.mark.slow
@pytest.mark.skipif(not SCORE_ALL, reason="SCORE_ALL=1 scores all operators, for 15 minutes")
def test_detection_and_place():
    """F1 of detection as DEFault++ (2026) counts it, a variant being faulty or not."""
    found = false = missed = placed = asked = 0
    told = []
    for operator in ALL:
        with jax.numpy_rank_promotion("allow"):
            loss, params, args = operator.make()
            findings = diagnose(loss)(params, *args).findings
        found += bool(operator.kinds and findings)
        missed += bool(operator.kinds and not findings)
        false += bool(findings and not operator.kinds)
        if operator.kinds and findings and operator.where:
            text = " ".join(" ".join((f.where, f.at, *f.also, f.says)) for f in findings)
            asked += 1
            placed += bool(re.search(operator.where, text))
        if bool(findings) != bool(operator.kinds):
            told.append((operator.name, [(f.kind, f.where) for f in findings]))
        jax.clear_caches()
    f1 = 2 * found / (2 * found + false + missed)
    print(f1, placed, asked, told)
    assert f1 >= LEAST_F1, told
    assert placed / asked >= LEAST_PLACE


LEAST_F1, LEAST_PLACE = 0.8, 0.6
