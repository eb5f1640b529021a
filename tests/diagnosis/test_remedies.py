import itertools

import pytest

from vanishing.diagnosis import REMEDIES, remedies
from vanishing.diagnosis.settings import Setting, useful

CULPRITS = ("activation", "rectifier", "attention", "normalization", "sum", "")


@pytest.mark.parametrize("kind", REMEDIES)
def test_every_kind_has_remedies_with_a_reason_and_a_source(kind):
    assert REMEDIES[kind]
    for remedy in REMEDIES[kind]:
        assert remedy.action
        assert remedy.reason
        assert remedy.source
    assert len(set(REMEDIES[kind])) == len(REMEDIES[kind])


@pytest.mark.parametrize("kind", REMEDIES)
def test_every_setting_has_a_remedy_and_a_recurrent_one_none_of_layers(kind):
    of_layers = {remedies.RESIDUAL, remedies.NORMALIZE, remedies.OVER_BATCH, remedies.ACTIVATION}
    for *flags, culprit in itertools.product(*4 * [(False, True)], CULPRITS):
        setting = Setting(*flags, culprit)
        assert useful(kind, setting)
        assert not setting.recurrent or not of_layers & set(useful(kind, setting))


@pytest.mark.parametrize(
    ("kind", "setting", "remedy"),
    [
        ("vanishing", Setting(culprit="activation"), remedies.SCALE),
        ("vanishing", Setting(culprit="activation"), remedies.NORMALIZE),
        ("vanishing", Setting(recurrent=True, gated=True), remedies.ORTHOGONAL),
        ("exploding", Setting(), remedies.RESIDUAL),
        ("exploding", Setting(), remedies.CLIP),
        ("exploding", Setting(recurrent=True, gated=True, culprit="sum"), remedies.CLIP),
        ("rank_collapse", Setting(culprit="attention"), remedies.SCALE),
        ("rank_collapse", Setting(), remedies.NORMALIZE),
    ],
)
def test_what_was_tried_and_did_not_help_is_not_given(kind, setting, remedy):
    assert remedy not in useful(kind, setting)
