import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import probe
from vanishing.probing import rows
from vanishing.probing.patterns import SiteKind

SUMMARIES = ("mean", "rms", "largest", "zeros", "non_finite", "saturated", "dead_units")
W = jax.random.normal(jax.random.key(0), (4, 6, 6)) / 2
X = jax.random.normal(jax.random.key(1), (5, 6))


def loss(w, x):
    """Rows of two sizes and two kinds, in the outermost frame and in a loop."""
    h = jax.nn.relu(x @ w[0])
    h = jnp.tanh(h @ w[1])
    h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), h, w[2:])
    return jnp.mean((h @ w[0, :, :2]) ** 2)


def signals(w, x):
    """The rows of `loss` in forward order, by hand."""
    row = [x @ w[0]]
    row.append(np.maximum(row[-1], 0))
    row.append(row[-1] @ w[1])
    row.append(np.tanh(row[-1]))
    for weight in w[2:]:
        row.append(row[-1] @ weight)
        row.append(np.maximum(row[-1], 0))
    return [*row, row[-1] @ w[0, :, :2]]


@pytest.mark.parametrize("small", [0, 2**20], ids=["each its own", "all of a size together"])
def test_every_row_has_its_own_numbers(small, monkeypatch):
    monkeypatch.setattr(rows, "SMALL", small)
    trace = probe(loss, summaries=SUMMARIES)(W, X).trace
    expected = signals(np.asarray(W, float), np.asarray(X, float))
    assert len(trace) == len(expected)
    forward = trace.forward
    for i, (site, x) in enumerate(zip(trace.sites, expected, strict=True)):
        nonlinear = site.kind == SiteKind.NONLINEARITY
        zeros = np.mean(x == 0) if nonlinear else np.nan
        saturated = np.nan
        if site.op == "relu":
            saturated = np.mean(expected[i - 1] <= 0)
        elif site.op == "tanh":
            saturated = np.mean(1 - x**2 < 0.01)
        numbers = {
            "mean": x.mean(),
            "rms": np.sqrt(np.mean(x**2)),
            "largest": np.abs(x).max(),
            "zeros": zeros,
            "non_finite": 0,
            "saturated": saturated,
            "dead_units": np.mean((x == 0).all(0)),
        }
        for name, number in numbers.items():
            np.testing.assert_allclose(
                getattr(forward, name)[i], number, rtol=1e-5, atol=1e-6, err_msg=f"{name} of {site}"
            )
        assert np.isnan(trace.backward.zeros[i]) == (not nonlinear)


def test_only_what_is_wanted_is_there():
    trace = probe(loss, summaries=("dead_units",))(W, X).trace
    assert np.isfinite(trace.forward.dead_units).all()
    assert np.isnan(trace.forward.rms).all()
    assert np.isnan(trace.backward.rms).all()


def test_a_cotangent_that_the_compiler_knows_to_be_zeros_is_zeros(monkeypatch):
    """XLA of jaxlib 0.10.2 squares the inverse of their bounded largest before it multiplies."""
    monkeypatch.setattr(rows, "SMALL", 0)
    monkeypatch.setattr(rows, "LIMIT", 1)  # no row is in a stack, where XLA cannot tell

    def last(w, x):
        """Two signals side by side, as the last step of an associative scan has them."""
        odd, even = jnp.tanh(x[:3] @ w[0]), jnp.tanh(x[:4] @ w[1])
        pad = lambda x, low, high: jax.lax.pad(x, 0.0, ((low, high, 1), (0, 0, 0)))  # noqa: E731
        return jnp.mean(((pad(even, 0, 1)[:7] + pad(odd, 1, 1))[-1] @ w[2]) ** 2)

    trace = probe(last)(W, X).trace
    assert trace.backward.rms[:2].tolist() == [0, 0], "of the first signal the last uses nothing"
    assert np.isfinite(trace.backward.rms).all()
