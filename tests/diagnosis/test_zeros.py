import jax
import jax.numpy as jnp
import pytest

from vanishing.diagnosis import diagnose
from vanishing.probing import probe

X = jax.random.normal(jax.random.key(0), (8, 4))
A, B, C, D = jax.random.normal(jax.random.key(1), (4, 4, 4)) / 2
ZERO = jnp.zeros((4, 4))


def found(loss, params, kind="dead_gradient", **settings):
    findings = diagnose(probe(loss, **settings)(params).trace).findings
    return [finding.where for finding in findings if finding.kind == kind]


def cost(h):
    return jnp.mean((h - 1) ** 2)


def stopped_in_a_scan(p):
    step = lambda h, w: (jnp.tanh(jax.lax.stop_gradient(h) @ w), None)  # noqa: E731
    return cost(jax.lax.scan(step, X, p["w"])[0])


def left_out_by(choose):
    def loss(p):
        h = jnp.tanh(X @ p["a"])
        return cost(choose(h @ p["b"], h @ p["c"]))

    return loss


ABC = {"a": A, "b": B, "c": C}
DEAD = {
    "a stop in a scan": (stopped_in_a_scan, {"w": jnp.stack([A, B, C])}, "w[0], w[1]"),
    "a choice of one of a stack": (left_out_by(lambda b, c: jnp.stack([b, c])[0]), ABC, "c"),
    "a slice": (left_out_by(lambda b, c: jnp.concatenate([b, c], 1)[:, :4]), ABC, "c"),
    "a condition that is never met": (
        left_out_by(lambda b, c: jnp.where(b > 100, c, b)),
        ABC,
        "c",
    ),
    "a branch without a slope": (
        left_out_by(lambda b, c: jax.nn.relu(b - 100) + c),
        ABC,
        "b/relu",
    ),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_parameter_without_any_gradient_is_named_in_a_live_network(name):
    loss, params, where = DEAD[name]
    assert found(loss, params) == [where]


def gated(p):
    h = X @ p["a"]
    return cost(h + (X[::-1] @ p["gate"]) * (jnp.tanh(h @ p["b"]) @ p["c"]))


def one_step(p):
    h = jnp.zeros((8, 4))
    reset = jax.nn.sigmoid(X @ p["a"] + h @ p["b"])
    return cost(jnp.tanh(X @ p["c"] + reset * (h @ p["o"])))


def not_taken(p):
    h = X @ p["a"]
    return cost(
        jax.lax.cond(X[0, 0] > 99, lambda: jnp.tanh(h @ p["b"]), lambda: jnp.tanh(h @ p["c"]))
    )


HEALTHY = {
    "a head of zeros": (lambda p: cost(jnp.tanh(X @ p["a"]) @ p["o"]), {"a": A, "o": ZERO}),
    "an adapter": (
        lambda p: cost(jnp.tanh(X @ p["a"] + (X @ p["b"]) @ p["o"])),
        {"a": A, "b": B, "o": ZERO},
    ),
    "a gate of zeros": (gated, {"gate": ZERO, **ABC}),
    "a first state of zeros": (one_step, {**ABC, "o": D}),
    "a branch that did not run": (not_taken, ABC),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_only_waits_for_a_weight_or_a_gate_is_healthy(name):
    loss, params = HEALTHY[name]
    assert found(loss, params) == []


def test_a_clean_bill_is_given_only_to_what_was_measured():
    def loss(p):
        h = X
        for w in p:
            h = jax.nn.sigmoid(h @ w)
        return cost(h)

    largest, nothing = (
        str(diagnose(probe(loss, summaries=names)([A, B]).trace)) for names in (("largest",), ())
    )
    assert largest.startswith("Nothing found in what was recorded (rows: 4).")
    assert nothing.startswith("Nothing could be judged")
    for text in (largest, nothing):
        assert 'ask the probe for the summary "rms"' in text
    assert "params=True" in str(diagnose(probe(loss, params=False)([A, B]).trace))


def test_what_rounding_leaves_of_terms_that_cancel_is_no_lost_branch():
    def network(p):
        return jnp.tanh(X @ p["a"]) @ p["b"]

    def entropy(p):
        chances = jax.nn.softmax(network(p)) * jax.nn.log_softmax(network(p))
        return -jnp.mean(jnp.sum(chances, -1))

    assert found(entropy, {"a": A, "b": B}, "vanishing") == []
