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
    rows = sites(pattern.example)
    assert tuple(site.op for site in rows) == pattern.ops
    assert tuple(site.kind for site in rows) == pattern.kinds


def test_every_role_has_one_pattern():
    assert [pattern.role for pattern in patterns.PATTERNS] == list(patterns.Role)
