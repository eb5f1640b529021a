import pytest

from vanishing.diagnosis import REMEDIES


@pytest.mark.parametrize("kind", REMEDIES)
def test_every_kind_has_remedies_with_a_reason_and_a_source(kind):
    assert REMEDIES[kind]
    for remedy in REMEDIES[kind]:
        assert remedy.action
        assert remedy.reason
        assert remedy.source
    assert len(set(REMEDIES[kind])) == len(REMEDIES[kind])
