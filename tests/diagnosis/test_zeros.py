import jax
import jax.numpy as jnp
import pytest

from tests.helpers import slow
from vanishing.diagnosis import diagnose, remedies
from vanishing.probing import probe

X = jax.random.normal(jax.random.key(0), (8, 4))
A, B, C, D = jax.random.normal(jax.random.key(1), (4, 4, 4)) / 2
ZERO = jnp.zeros((4, 4))


def places(loss, params, kind="dead_gradient", **settings):
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
    assert places(loss, params) == [where]


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
    assert places(loss, params) == []


def test_a_clean_bill_is_given_only_to_what_was_measured():
    def loss(p):
        h = X
        for w in p:
            h = jax.nn.sigmoid(h @ w)
        return cost(h)

    largest, nothing = (
        str(diagnose(probe(loss, summaries=names)([A, B]).trace)) for names in (("largest",), ())
    )
    assert largest.startswith("Nothing found in 4 rows and 2 parameters of what was recorded.")
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

    assert places(entropy, {"a": A, "b": B}, "vanishing") == []


def gate_of_two_layers(p):
    h = jnp.tanh(X @ p["a"])
    return cost((h + jnp.tanh(jax.nn.relu(h @ p["b"]) @ p["c"]) * h) @ p["o"])


STUCK = {
    "two factors": (lambda p: cost(jnp.tanh(X @ p["a"] @ p["b"]) + X), {"a": ZERO, "b": ZERO}, 0),
    "a gate of two layers": (gate_of_two_layers, {"a": A, "b": ZERO, "c": ZERO, "o": D}, 0),
    "a tied layer": (lambda p: cost(X @ p["a"] @ p["b"] @ p["b"] + X), {"a": A, "b": ZERO}, 1),
    "behind a stuck branch": (
        lambda p: cost(X + jnp.tanh(jnp.tanh(X @ p["d"]) @ p["b"]) @ p["c"]),
        {"d": A, "b": ZERO, "c": ZERO},
        1,
    ),
}


@pytest.mark.parametrize("name", ["a gate of two layers", "a tied layer", *slow(*list(STUCK)[::3])])
def test_parameters_that_keep_one_another_at_zero_are_named_and_never_move(name):
    loss, params, behind = STUCK[name]
    (finding,) = diagnose(loss)(params).findings
    empty = [key for key, value in params.items() if not value.any()]
    assert (finding.kind, finding.where) == ("dead_gradient", ", ".join(empty))
    assert finding.evidence["zero_parameters"] == tuple(empty)
    assert finding.evidence["behind"] == behind
    assert finding.remedies == (remedies.ALL_BUT_ONE,)
    step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p)))
    trained = params
    for _ in range(5):
        trained = step(trained)
    assert not any(trained[key].any() for key in empty)
    last = empty[-1]
    drawn = params | {key: B for key in empty[:-1] or empty}  # as the remedy says
    for _ in range(2):
        drawn = step(drawn)
    assert jnp.abs(drawn[last]).max() > 0


def constant(h):
    """What a norm over one number, and a softmax over one unit, make of it."""
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)


def before(function):
    return lambda p: cost(function(jnp.tanh(X @ p["a"]) @ p["b"]) @ p["c"] + p["d"])


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        (constant, "norm", "a single number less its mean is 0"),
        (jax.nn.softmax, "dead_gradient", "a softmax over one unit is always 1"),
    ],
)
def test_what_is_taken_over_one_number_is_named_with_what_mends_it(function, kind, says):
    params = {"a": A, "b": B[:, :1], "c": C[:1], "d": D[:1]}
    (finding,) = [f for f in diagnose(before(function))(params).findings if "b/" in f.where]
    assert finding.kind == kind
    assert says in str(finding)
    params |= {"b": B, "c": C}
    assert places(before(function), params, kind) == []


def test_a_deep_residual_network_whose_signal_is_0_is_gone_through_once():
    """Its rows have two ways back each, so that their number of ways doubles with every layer."""

    def loss(p):
        h = (X @ p["first"]) * 1.0
        for w in p["layers"]:
            h = h + jnp.tanh(h @ w)
        return cost(jnp.tanh(h @ p["b"]) @ p["c"])

    params = {"first": ZERO, "layers": [A] * 40, "b": B, "c": C}
    assert diagnose(loss)(params).rows > 80


def test_where_all_that_reaches_the_loss_cancels_that_is_said():
    def nothing(p):
        h = X @ p["a"] @ p["b"]
        return jnp.mean(h - 1.0 * h) + 1

    def one(p):
        h = jnp.tanh(X @ p["a"]) @ p["b"]
        return jnp.mean(h / h)

    for loss in (nothing, one):
        (told,) = diagnose(loss)({"a": A, "b": B}).findings
        assert (told.kind, told.cause, told.where) == ("dead_gradient", "cancellation", "a, b")
        assert told.remedies == (remedies.UNCANCEL,)


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (lambda h: jnp.clip(h, -1, 1), remedies.SCALE),
        (lambda h: jnp.minimum(jnp.maximum(h, -1), 1), remedies.SCALE),
        (lambda h: jnp.heaviside(h, 0.5), remedies.SLOPE),
    ],
)
def test_a_slope_that_is_0_between_two_others_is_no_matter_of_the_scale(function, remedy):
    (told,) = diagnose(lambda p: cost(function(1e5 * X @ p["a"]) @ p["b"]))(
        {"a": A, "b": B}
    ).findings
    assert (told.cause, told.remedies) == ("flat", (remedy,))


def test_products_that_come_under_float16_are_told_though_what_follows_is_not_tiny():
    """The gradient after the layer is 1e-4, and times a kernel of 1e-4 it is 0 in float16."""
    small = {"a": A, "b": 1e-4 * B}

    def loss(p, scale):
        a, b = p["a"].astype(jnp.float16), p["b"].astype(jnp.float16)
        h = jnp.tanh(X.astype(jnp.float16) @ a) @ b
        return scale * jnp.mean(h.astype(jnp.float32) - 1)

    (told,) = diagnose(loss)(small, 3e-3).findings
    assert (told.kind, told.cause, told.where) == ("precision", "underflow", "a")
    assert told.remedies[0] == remedies.LOSS_SCALE
    scaled = jax.grad(loss)(small, 3.0)
    assert jnp.abs(scaled["a"]).max() > 0


def test_a_softmax_over_one_unit_is_found_behind_the_clip_of_its_probabilities():
    def loss(p):
        q = jnp.clip(jax.nn.softmax(jnp.tanh(X @ p["a"]) @ p["b"][:, :1])[:, 0], 1e-7, 1 - 1e-7)
        y = jnp.arange(8) % 2
        return -jnp.mean(y * jnp.log(q) + (1 - y) * jnp.log(1 - q))

    (told,) = diagnose(loss)({"a": A, "b": B}).findings
    assert (told.kind, told.cause, told.where) == ("dead_gradient", "one_unit", "b/softmax")
    assert told.remedies == (remedies.TWO_UNITS,)
