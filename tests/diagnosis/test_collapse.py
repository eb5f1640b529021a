import jax
import jax.numpy as jnp
import pytest

from vanishing.diagnosis import diagnose
from vanishing.probing import SUMMARIES, probe

WIDTH, EXAMPLES = 16, 12
X = jax.random.normal(jax.random.key(0), (EXAMPLES, WIDTH))
SAME = jnp.ones((EXAMPLES, WIDTH))


def kernels(count, *zero, seed=1):
    """Random square matrices; those of the numbers in `zero` are 0."""
    drawn = jax.random.normal(jax.random.key(seed), (count, WIDTH, WIDTH)) / WIDTH**0.5
    return [jnp.zeros((WIDTH, WIDTH)) if i in zero else w for i, w in enumerate(drawn)]


def plain(params, x):
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return jnp.mean((x @ params[-1][0]) ** 2)


def residual(params, x):
    x = x @ params["embed"]
    for up, down in params["blocks"]:
        x = x + jax.nn.relu(x @ up) @ down
    return jnp.mean((x @ params["head"]) ** 2)


def biased(weights):
    biases = jax.random.normal(jax.random.key(2), (len(weights), 1, WIDTH))
    return list(zip(weights, biases, strict=True))


def blocks(embed=1.0, down=1.0):
    first, head, *others = kernels(8)
    pairs = [(up, down * w) for up, w in zip(others[::2], others[1::2], strict=True)]
    return {"embed": embed * first, "blocks": pairs, "head": head}


def places(loss, params, x=X, kinds=("rank_collapse", "dead_units"), **settings):
    trace = probe(loss, **({"summaries": SUMMARIES} | settings))(params, x).trace
    return [(f.kind, f.where) for f in diagnose(trace).findings if f.kind in kinds]


@pytest.mark.parametrize(
    ("loss", "params", "where"),
    [
        (plain, [(w, 0.0) for w in kernels(4, 2)], "[2]"),  # whose gradient is 0 as well
    ],
)
def test_a_layer_that_multiplies_by_0_makes_the_output_the_same_for_every_input(
    loss, params, where
):
    assert places(loss, params) == [("rank_collapse", where)]


@pytest.mark.parametrize(
    ("loss", "params", "x"),
    [
        (plain, biased(kernels(4)), X),
        (plain, biased(kernels(4, 0)), X),  # for one step: it has a gradient
        (residual, blocks(embed=0.0), X),
        (plain, biased(kernels(4, 3)), X),  # a last layer of zeros
        (residual, blocks(down=0.0), X),  # the branches add nothing yet
        (residual, blocks(down=0.0), SAME),
        (plain, biased(kernels(4)), SAME),
        (plain, biased(kernels(4)), X[:1]),
    ],
)
def test_what_is_no_fault_of_a_layer_is_none(loss, params, x):
    assert places(loss, params, x) == []


def test_a_signal_that_becomes_one_on_its_way_is_found_where_it_does():
    biases = [jnp.zeros((1, WIDTH)), 1e4 * jnp.ones((1, WIDTH)), jnp.zeros((1, WIDTH))]
    params = list(zip(kernels(3), biases, strict=True))
    assert places(plain, params) == [("rank_collapse", "[1]")]


def test_outputs_of_one_unit_have_a_common_direction_and_are_no_collapse():
    loss = lambda w, x: jnp.mean(jnp.exp(x @ w["a"]) @ w["b"])  # noqa: E731
    assert places(loss, {"a": kernels(1)[0], "b": jnp.ones((WIDTH, 1))}) == []


def test_units_that_are_off_for_different_examples_are_dead():
    loss = lambda p, x: jnp.mean(jax.nn.relu(x @ p[0] - 20.0) @ p[1])  # noqa: E731
    assert ("dead_units", "[0]/relu") in places(loss, kernels(2))


def attending(params, x, skip):
    for q, k, v in params["layers"]:
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", x @ q, x @ k) / WIDTH**0.5)
        x = skip * x + scores @ (x @ v)
    return jnp.mean((x @ params["head"]) ** 2)


def test_tokens_that_attention_without_skips_makes_the_same_are_found():
    drawn = kernels(25)
    layers = [tuple(drawn[i : i + 3]) for i in range(0, 24, 3)]
    params = {"layers": layers, "head": drawn[24]}
    x = jax.random.normal(jax.random.key(5), (4, EXAMPLES, WIDTH))
    (finding,) = diagnose(attending)(params, x, 0.0).findings
    assert (finding.kind, finding.cause) == ("rank_collapse", "same_examples")
    assert diagnose(attending)(params, x, 1.0).findings == ()


def test_a_sigmoid_at_its_lower_end_is_saturated_and_not_dead():
    x = jax.random.normal(jax.random.key(5), (16, 8))
    params = {"w": jax.random.normal(jax.random.key(6), (8, 8)), "b": jnp.full((1, 8), -150.0)}

    def loss(p):
        return jnp.mean((x @ p["w"] + jax.nn.sigmoid(x @ p["w"] + p["b"]) @ p["w"] - 1) ** 2)

    kinds = {finding.kind for finding in diagnose(loss)(params).findings}
    assert kinds == {"saturated"}
