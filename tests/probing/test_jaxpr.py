import inspect

import jax
import jax.numpy as jnp
import numpy as np

from vanishing import comparison, networks
from vanishing.probing import jaxpr
from vanishing.probing.replay import Callbacks, replay


def read(function, *args):
    program, _ = jaxpr.read(function, *args)
    return program


def nodes(frame):
    for node in frame.nodes:
        yield node
        for inner in node.frames:
            yield from nodes(inner)


def test_a_node_knows_its_own_line_also_where_a_jitted_function_was_traced_before():
    x = jnp.ones(3)
    jax.nn.silu(x)  # traced first from here
    jax.make_jaxpr(jax.nn.silu)(x)
    line = inspect.currentframe().f_lineno + 1
    function = lambda x: jax.nn.silu(x)  # noqa: E731
    for node in nodes(read(function, x).frame):
        file, line_number = node.source
        assert file == __file__
        assert line_number == line


def test_what_the_library_makes_has_no_line_of_another_library_that_is_around_it():
    net = networks.mlp(2, depth=2, width=4)  # the tests put checks of types around each function
    x = jnp.ones((2, 4))
    trace = comparison.measure(net, net.init(jax.random.key(0), x), x, jax.random.key(1))
    assert {site.source for site in trace.sites} == {""}


def test_a_split_is_replayed_as_slices(x64):
    def function(x):
        a, b, c = jnp.split(x, [1, 3], axis=1)
        return a.sum() + 2 * b.sum() + 3 * c.sum()

    x = jnp.arange(12.0).reshape(2, 6)
    program, no_callbacks = read(function, x), Callbacks(lambda *args: args[1:3], {})
    replica = lambda x: replay(program.frame, [x], no_callbacks, {})[0][0]  # noqa: E731
    np.testing.assert_array_equal(replica(x), function(x))
    np.testing.assert_array_equal(jax.grad(replica)(x), jax.grad(function)(x))
