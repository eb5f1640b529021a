import jax
import numpy as np

from tests.train.test_labelled import recognisable_history
from vanishing import train
from vanishing.probing import Trace


def test_a_run_that_was_infinite_or_nan_once_has_diverged():
    history = recognisable_history()
    history.loss[1, 0], history.loss[4, 2] = np.inf, np.nan
    outcomes = train.outcome(history)
    assert outcomes.dtype == np.int8
    assert [train.Outcome(o).name for o in outcomes[:3]] == ["FINITE", "DIVERGED", "FINITE"]
    assert np.flatnonzero(outcomes == train.Outcome.DIVERGED).tolist() == [1, 4]


def test_a_record_of_a_run_is_found_by_its_index():
    history = recognisable_history()
    record = history.at(2, -1)
    assert record.loss == history.loss[2, -1]
    assert isinstance(record.trace, Trace)
    np.testing.assert_array_equal(record.trace.forward.rms, history.trace.forward.rms[2, -1])
    assert len(str(record.trace).splitlines()) == 2 + len(record.trace.sites)
    assert jax.tree.leaves(history.at(2))[0].shape == history.step.shape[1:]
