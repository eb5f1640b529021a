import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing import dependence, jaxpr
from vanishing.probing.dependence import Dependence, Kind


def origins_of_the_slices(function, *params):
    """The origins of what a scan in a function of parameters takes slices of."""
    program, _ = jaxpr.read(function, *params)
    inputs = [Dependence(Kind.PARAM, True, frozenset({i})) for i in range(len(params))]
    dependences = dependence.gather(program, inputs, program.frame.outputs[:1])
    (loop,) = (node for node in program.frame.nodes if node.loop)
    return dependences.origins.of(loop.slices[0])


def scanned(weights):
    return jax.lax.scan(lambda h, w: (jnp.sin(h * w), None), jnp.ones(2), weights)[0].sum()


def test_each_leaf_stands_where_a_join_put_it():
    def loss(a, b):
        return scanned(jnp.concatenate([a[::-1], b[None]]))

    a, b = sorted(origins_of_the_slices(loss, jnp.ones((2, 2)), jnp.ones(2)))
    assert a.here.tolist() == [True, True, False]
    assert b.here.tolist() == [False, False, True]
    assert a.indices[0].numbers[:2].tolist() == [1, 0]
    assert b.indices == ()
    assert a.levels == b.levels == {0}


def test_a_weight_of_many_parts_is_of_all_its_leaves():
    def loss(a, b):
        for shift in range(1, 9):
            a = a + jnp.roll(a, 3**shift, 0) + jnp.where(jnp.ones((701, 1)) > 0, b, a)
        return scanned(a)

    origins = origins_of_the_slices(loss, jnp.ones((701, 1)), jnp.ones((701, 1)))
    assert {origin.leaf for origin in origins} == {0, 1}
    assert all(np.all(origin.here) for origin in origins)
