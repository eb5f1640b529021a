import jax
import jax.numpy as jnp
import pytest

from vanishing.diagnosis import diagnose, remedies
from vanishing.probing import probe

WIDTH = 16
X = jax.random.normal(jax.random.key(1), (8, WIDTH))
ORTHOGONAL = jax.random.orthogonal(jax.random.key(0), WIDTH)


def remedies_of(kind, loss, params, *args):
    findings = diagnose(probe(loss)(params, *args).trace).findings
    (finding,) = [finding for finding in findings if finding.kind == kind]
    return finding.remedies


def over_time(params, xs):
    step = lambda h, x: (x @ params["in"] + h @ params["rec"], None)  # noqa: E731
    return jnp.mean(jax.lax.scan(step, jnp.zeros((8, WIDTH)), xs)[0] @ params["out"])


def over_layers(weights, x):
    for w in weights:
        x = x @ w
    return jnp.mean(x @ jnp.ones((WIDTH, 1)))


def test_a_recurrent_matrix_is_to_be_smaller_and_the_gradient_clipped():
    params = {"in": jnp.eye(WIDTH), "rec": 3 * ORTHOGONAL, "out": jnp.ones((WIDTH, 1))}
    best = remedies_of("exploding", over_time, params, jnp.tile(X, (15, 1, 1)))
    assert best == (remedies.ORTHOGONAL, remedies.CLIP, remedies.GATE)


@pytest.mark.parametrize(("factor", "kind"), [(3.0, "exploding"), (0.3, "vanishing")])
def test_a_plain_network_gets_no_remedy_of_recurrent_ones(factor, kind):
    best = remedies_of(kind, over_layers, [factor * ORTHOGONAL] * 10, X)
    assert remedies.NORMALIZE in best
    assert (remedies.RESIDUAL in best) == (kind == "vanishing")
    assert remedies.SCALE.action in best[0].action
    assert f"about {1 / factor:.2g} times what it is" in best[0].action
    assert not {remedies.ORTHOGONAL, remedies.GATE, remedies.BRANCHES} & set(best)


def test_a_residual_network_is_not_told_to_add_skip_connections():
    def loss(weights, x):
        for w in weights:
            x = x + jax.nn.relu(x) @ w
        return jnp.mean(x)

    best = remedies_of("exploding", loss, [3 * ORTHOGONAL] * 10, X)
    assert remedies.BRANCHES in best
    assert remedies.RESIDUAL not in best


def test_another_activation_is_a_remedy_only_where_the_activation_loses_the_gradient():
    def loss(weights, x):
        for w in weights:
            x = jax.nn.sigmoid(x @ w)
        return jnp.mean(x)

    assert remedies.ACTIVATION in remedies_of("vanishing", loss, [ORTHOGONAL] * 12, X)
    plain = remedies_of("vanishing", over_layers, [0.3 * ORTHOGONAL] * 12, X)
    assert remedies.ACTIVATION not in plain
