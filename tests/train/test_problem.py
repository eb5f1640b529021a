import jax
import jax.numpy as jnp
import numpy as np

from tests.train.setting import problem
from vanishing import train


def test_a_problem_has_no_penalty_and_scores_by_accuracy_unless_told_otherwise():
    of_defaults = problem({"learning_rate": 0.1})
    assert of_defaults.penalty({"kernel": jnp.ones(3)}) == 0.0
    outputs = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert of_defaults.score(outputs, jnp.array([1, 0, 0, 0])) == 0.75


def test_data_and_state_are_trees_of_arrays():
    data = train.Data(*(jnp.ones(n) for n in (4, 4, 2, 2)))
    assert [leaf.shape for leaf in jax.tree.leaves(data)] == [(4,), (4,), (2,), (2,)]
    state = train.State({}, {}, (), jax.random.key(0), jnp.zeros((), jnp.int32))
    np.testing.assert_array_equal(jax.jit(lambda s: s._replace(step=s.step + 1))(state).step, 1)
