import jax
import jax.numpy as jnp

from vanishing.diagnosis import diagnose
from vanishing.diagnosis.findings import finding
from vanishing.diagnosis.settings import Setting
from vanishing.probing import SUMMARIES, probe


def test_a_finding_prints_what_it_says_and_its_remedies():
    result = finding("exploding", "w", True, "it grows", Setting(recurrent=True), factor=2.0)
    lines = str(result).splitlines()
    assert lines[0] == "exploding at w (high): it grows"
    assert lines[1].startswith("  - draw the recurrent matrix orthogonal")
    assert len(lines) == 1 + len(result.remedies)
    assert repr(result) == "Finding(exploding at w, high)"


def test_what_could_not_be_judged_is_said_in_one_line_with_what_to_ask_for():
    loss = lambda w, x: jnp.mean(jax.nn.relu(x @ w))  # noqa: E731

    def diagnosis(rows=8, **settings):
        return diagnose(probe(loss, **settings)(jnp.eye(3), jnp.ones((rows, 3))).trace)

    usual = diagnosis()
    assert str(usual).splitlines()[-1] == (
        "Not judged: dead units and rank collapse; "
        "they need probe(..., summaries=vanishing.probing.SUMMARIES)."
    )
    assert diagnosis(summaries=SUMMARIES).unjudged == ()
    assert diagnosis(rows=1).unjudged == ()  # nor could they be with all summaries
    assert repr(usual) == "Diagnosis(no findings)"
