"""What JAX hides behind a hi-primitive is read as the equation that it stands for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from tests.helpers import slow
from vanishing.probing import equations, probe
from vanishing.probing.plan import make_plan

PARAMS = {"w": jnp.linspace(-1, 1, 16).reshape(4, 4), "v": jnp.linspace(1, 2, 16).reshape(4, 4)}
X = jnp.linspace(-1, 1, 8).reshape(2, 4)
FLAGS = [
    flag
    for flag in ("jax_remat3", "jax_custom_vjp3", "jax_custom_jvp3")
    if flag in jax.config.values  # the last is new in JAX 0.12
]


@pytest.fixture
def hidden():
    """JAX as it is announced: checkpoints and derivatives of one's own are hi-primitives."""
    before = {flag: jax.config.values[flag] for flag in FLAGS}
    for flag in FLAGS:
        jax.config.update(flag, True)
    yield
    for flag, value in before.items():
        jax.config.update(flag, value)


def layer(x, w):
    return jnp.tanh(x @ w)


def checkpointed(p, x):
    return jax.checkpoint(layer)(x, p["w"]) @ p["v"]


def with_a_policy(p, x):
    saved = jax.checkpoint_policies.save_only_these_names("saved")
    block = lambda x: jnp.sin(checkpoint_name(layer(x, p["w"]), "saved") @ p["v"])  # noqa: E731
    return jax.checkpoint(block, policy=saved)(x)


def checkpointed_in_a_scan(p, x):
    step = jax.checkpoint(lambda h, _: (layer(h, p["w"]), None))
    return jax.lax.scan(step, x, length=3)[0] @ p["v"]


def checkpointed_under_vmap(p, x):
    return jax.vmap(jax.checkpoint(layer), (0, None))(x, p["w"]) @ p["v"]


def gradient_of_a_checkpoint(p, x):
    return jax.grad(lambda x: jnp.sum(checkpointed(p, x)))(x)


@jax.custom_vjp
def doubling(x, w):
    return layer(x, w)


doubling.defvjp(
    lambda x, w: jax.vjp(layer, x, w), lambda back, ct: jax.tree.map(lambda g: 2 * g, back(ct))
)


@jax.custom_vjp
def straight_through(x):
    return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), None), lambda _, ct: (ct,))


@jax.custom_jvp
def tripling(x):
    return jnp.tanh(x)


tripling.defjvps(lambda dx, y, x: 3 * dx * (1 - y**2))


def rules_of_its_own(p, x):
    return tripling(straight_through(doubling(x, p["w"])) @ p["v"]) @ p["w"]


def activations(p, x):
    return jax.nn.relu(jax.nn.softplus(x @ p["w"]) @ p["v"]) @ p["w"]


LOSSES = [
    checkpointed,
    with_a_policy,
    checkpointed_in_a_scan,
    checkpointed_under_vmap,
    gradient_of_a_checkpoint,
    rules_of_its_own,
    activations,
]
plain = {}  # the rows of each loss as JAX is today


def rows(network):
    layout = make_plan(lambda p, x: jnp.mean(network(p, x) ** 2), (PARAMS, X), {}).layout
    return [(site.op, site.kind, site.param) for site in layout.sites], layout.notes


@pytest.fixture(scope="module", autouse=True)
def rows_of_today():
    plain.update({network: rows(network) for network in LOSSES})


@pytest.mark.parametrize("network", LOSSES, ids=lambda network: network.__name__)
def test_a_hidden_program_has_the_same_rows(network, hidden):
    assert rows(network) == plain[network]


@pytest.mark.parametrize("network", [rules_of_its_own, *slow(with_a_policy)])
def test_a_hidden_program_keeps_its_rules(network, hidden):
    def loss(p, x):
        return jnp.mean(network(p, x) ** 2)

    probed = probe(loss)(PARAMS, X)
    value, grads = jax.value_and_grad(loss)(PARAMS, X)
    np.testing.assert_allclose(probed.value, value, rtol=1e-6)
    chex.assert_trees_all_close(probed.grads, grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["everything_saveable", "nothing_saveable"])
def test_what_a_policy_saves_stays_saved(policy, hidden):
    """No product is computed again that plain JAX does not compute again."""

    def loss(p, x):
        block = jax.checkpoint(
            lambda x: layer(layer(x, p["w"]), p["v"]),
            policy=getattr(jax.checkpoint_policies, policy),
        )
        return jnp.sum(block(x))

    def products(function):
        return str(jax.make_jaxpr(function)(PARAMS, X)).count("dot_general")

    assert products(lambda p, x: probe(loss)(p, x).grads) == products(jax.grad(loss))


def test_a_hi_primitive_bears_the_name_of_what_it_does():
    def root(p, x):
        solve = lambda f, start: start - f(start)  # noqa: E731
        f = lambda y: y - x @ p["w"]  # noqa: E731
        return jax.lax.custom_root(f, jnp.zeros_like(x), solve, lambda g, y: g(y))

    eqns = jax.make_jaxpr(root)(PARAMS, X).eqns
    assert [equations.name_of(eqn) for eqn in eqns][-1] == "custom_root"


def test_a_barrier_hands_every_value_on_by_itself():
    def network(p, x):
        p, x = jax.lax.optimization_barrier((p, x))
        return layer(x, p["w"]) @ p["v"]

    assert [param for _, _, param in rows(network)[0]] == ["w", "", "v"]
