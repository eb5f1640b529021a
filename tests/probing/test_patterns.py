import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import patterns
from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(4, 6)
W = jnp.linspace(-1, 1, 36).reshape(6, 6)
PARAMS = {"w": W, "v": W + 1, "b": jnp.ones(6), "scale": jnp.ones(6)}


def sites(network):
    """The sites that a network in front of a mean gets; nothing is run."""
    return make_plan(lambda p, x: jnp.mean(network(p, x)), (PARAMS, X), {}).layout.sites


@pytest.mark.parametrize("pattern", patterns.PATTERNS, ids=lambda pattern: pattern.role.name)
def test_the_example_of_a_pattern_gives_its_rows(pattern):
    found = sites(pattern.example)
    assert tuple(site.op for site in found) == pattern.ops
    assert tuple(site.kind for site in found) == pattern.kinds


def test_every_role_has_one_pattern():
    assert [pattern.role for pattern in patterns.PATTERNS] == list(patterns.Role)


@pytest.mark.parametrize("primitive", patterns.SIGNATURES)
def test_an_activation_is_known_by_a_primitive_and_named_by_it(primitive):
    function = patterns.SIGNATURES[primitive]
    _, activation, _ = sites(lambda p, x: function(x @ p["w"]) @ p["v"])
    assert activation.op == primitive
    assert activation.kind == "nonlinearity"
    assert len(sites(lambda p, x: function(x @ p["w"]))) == 2, "also at the end"


@pytest.mark.parametrize("name", patterns.LOSS_FUNCTIONS)
def test_a_function_of_losses_is_an_activation_only_before_a_layer(name):
    function = patterns.LOSS_FUNCTIONS[name]
    assert [site.op for site in sites(lambda p, x: function(x @ p["w"]))] == ["dot_general"]
    _, activation, _ = sites(lambda p, x: function(x @ p["w"]) @ p["v"])
    assert activation.op in patterns.LOSS_FUNCTIONS
    assert activation.kind == "nonlinearity"


@pytest.mark.parametrize("name", sorted(patterns.LOSS_PRIMITIVES))
def test_what_begins_a_loss_after_an_activation_adds_no_row(name):
    function = {"integer_pow": lambda h: h**3}.get(name) or getattr(jnp, name)
    found = sites(lambda p, x: function(jax.nn.sigmoid(x @ p["w"])))
    assert [site.op for site in found] == ["dot_general", "logistic"]
