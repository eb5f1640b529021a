import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.diagnosis import diagnose, remedies
from vanishing.diagnosis.branches import NO_SHARE

WIDTH = 32
X = jax.random.normal(jax.random.key(1), (16, WIDTH))
ORTHOGONAL = list(jax.random.orthogonal(jax.random.key(0), WIDTH, (10,)))


def found(loss, params, *args):
    return {f.kind: f for f in diagnose(loss)(params, *args).findings}


def test_a_skip_connection_with_a_factor_is_the_cause():
    def loss(params, x):
        for up, down in params:
            x = 0.3 * x + jax.nn.relu(x @ up) @ down
        return jnp.mean(x @ jnp.ones((WIDTH, 1)))

    pairs = [(w, 0.05 * v) for w, v in zip(ORTHOGONAL, ORTHOGONAL[::-1], strict=True)]
    finding = found(loss, pairs, X)["vanishing"]
    assert (finding.cause, finding.remedies[0]) == ("residual_scale", remedies.UNSCALED)


def branched(params, x):
    """A network with one branch, which a factor multiplies."""
    h = x @ params["embed"]
    h = h + params["factor"] * (jnp.sin(h @ params["up"]) @ params["down"])
    return jnp.mean((h @ params["head"]) ** 2)


def kernels(factor):
    keys = jax.random.split(jax.random.key(2), 4)
    names = ("embed", "up", "down", "head")
    drawn = (jax.random.normal(key, (WIDTH, WIDTH)) / WIDTH**0.5 for key in keys)
    return dict(zip(names, drawn, strict=True)) | {"factor": jnp.float32(factor)}


def test_a_branch_of_whose_gradient_nothing_is_left_is_found_before_its_factor():
    params = kernels(0.01 * NO_SHARE)
    finding = found(branched, params, X)["vanishing"]
    assert finding.where == "up/sin"
    assert finding.remedies == (remedies.WAKE,)
    # The gradient is multiplied by the factor, and by a matrix that keeps its size.
    share = finding.evidence["share_of_what_follows"]
    np.testing.assert_allclose(share, 0.01 * NO_SHARE, rtol=0.2)


@pytest.mark.parametrize("factor", [1.0, 1e-6, 0.0])
def test_a_branch_that_begins_small_or_at_0_is_healthy(factor):
    assert found(branched, kernels(factor), X) == {}
