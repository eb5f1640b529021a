import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import check, kept, probe

PARAMS = {"w": jnp.linspace(-1, 1, 9).reshape(3, 3)}
X = jnp.linspace(-1, 1, 6).reshape(2, 3)


def loss(params, x):
    return jnp.mean(jnp.tanh(jnp.tanh(x @ params["w"]) @ params["w"]))


def test_a_right_trace_passes_and_says_how_far_it_is_off():
    check = probe(loss).check(PARAMS, X, rows=3)
    assert check.worst < 1e-5
    assert len(check.numbers) == 3 * 7 + 2 * 2, "and the zeros of two nonlinearities"
    assert "worst relative error" in str(check)


@pytest.mark.parametrize("part", ["forward", "backward", "grads"])
def test_a_wrong_trace_is_caught(monkeypatch, part):
    """Statistics wrong by 1 % under some wrapper are what the check exists for."""
    right = kept.Program.__call__

    def wrong(self, leaves):
        probed = right(self, leaves)
        if part == "grads":
            return probed._replace(grads={"w": 1.01 * probed.grads["w"]})
        group = getattr(probed.trace, part)
        group = group._replace(rms=group.rms.at[-1].multiply(1.01))
        return probed._replace(trace=dataclasses.replace(probed.trace, **{part: group}))

    monkeypatch.setattr(kept.Program, "__call__", wrong)
    assert probe(loss).check(PARAMS, X).worst == pytest.approx(0.01, rel=0.01)


def test_relative_errors_have_no_absolute_tolerance():
    assert check.relative_error(0.0, 1e-30, 1e-30) == 1
    assert check.relative_error(1e-30, 0.0, 0.0) == np.inf
    assert check.relative_error(np.nan, np.nan, np.nan) == 0
    assert check.relative_error(np.inf, 1.0, 1.0) == np.inf
