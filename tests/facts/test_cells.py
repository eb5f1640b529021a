import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table, module
from vanishing.facts import CELLS, cells, forget_bias

UNITS = 128
KEY = jax.random.key(0)


def started(row):
    """The forget gate's biases as parameters, and one gate's recurrent matrix."""
    name = row.cell.partition(".")[2] or row.cell
    one = slice(UNITS, 2 * UNITS)
    if row.cell.startswith("nnx"):
        nnx = module("flax.nnx")
        cell = getattr(nnx, name)(UNITS, UNITS, rngs=nnx.Rngs(0))
        if name == "LSTMCell":
            return cell.hf.bias[...], cell.hf.kernel[...]
        return cell.dense_h.bias[one], cell.dense_h.kernel[:, one]
    if row.cell.startswith("linen"):
        cell, x = getattr(module("flax.linen"), name)(UNITS), jnp.ones((1, UNITS))
        params = cell.init(KEY, cell.initialize_carry(KEY, x.shape), x)["params"]
        return params["hf"]["bias"], params["hf"]["kernel"]
    if row.framework == "Equinox":
        cell = module("equinox").nn.LSTMCell(UNITS, UNITS, key=KEY)
        return cell.bias[one], cell.weight_hh[one]
    if row.framework == "Haiku":
        haiku = module("haiku")
        made = haiku.transform(lambda x: haiku.LSTM(UNITS)(x, haiku.LSTM(UNITS).initial_state(1)))
        (params,) = made.init(jax.random.PRNGKey(0), jnp.ones((1, UNITS))).values()
        return params["b"][2 * UNITS : 3 * UNITS], params["w"][UNITS:, one]
    if row.framework == "Keras":
        cell = module("keras").layers.LSTM(UNITS)
        cell.build((1, 4, UNITS))
        _, recurrent, bias = (np.asarray(weight) for weight in cell.weights)
        return bias[one], recurrent[:, one]
    cell = module("torch").nn.LSTM(UNITS, UNITS)
    bias = cell.bias_ih_l0 + cell.bias_hh_l0
    return bias.detach().numpy()[one], cell.weight_hh_l0.detach().numpy()[one]


def measured(row):
    bias, recurrent = (np.asarray(x, np.float64) for x in started(row))
    root = UNITS**0.5
    # Of 128 numbers of standard deviation `spread / root` the mean is within four of its errors.
    near_mean = abs(bias.mean() - row.bias) <= 4 * row.spread / UNITS
    yield True, near_mean
    yield row.spread, pytest.approx(bias.std() * root, rel=4 * (0.2 / UNITS) ** 0.5 * 1.6)
    yield row.recurrent, pytest.approx(recurrent.std() * root, rel=0.03)


def as_stated(row):
    return [(1.0, float(stated == found)) for stated, found in measured(row)]


def test_the_table_is_plain_data():
    assert_table(CELLS, lambda row: (row.framework, row.cell))
    assert_plain(cells)


def test_the_two_cells_of_nnx_do_not_begin_alike():
    for row in CELLS[1:2]:  # the other takes several seconds to draw
        assert all(stated == found for stated, found in measured(row)), row
    assert CELLS[0].recurrent == 2 * CELLS[1].recurrent


def test_haiku_s_lstm_adds_what_its_parameter_does_not_show():
    (row,) = (row for row in CELLS if row.framework == "Haiku")
    assert row.bias == 0
    assert forget_bias("Haiku") == forget_bias("Keras") == 1


@pytest.mark.slow
def test_every_cell_begins_as_stated():
    assert_as_stated(CELLS, as_stated, rtol=0)


@pytest.mark.slow
def test_the_forget_gate_of_haiku_is_that_of_one_with_a_bias_of_1():
    """A state of 1 and inputs of 0: what is left of it is the forget gate's value."""
    haiku = pytest.importorskip("haiku")

    def step(x):
        state = haiku.LSTMState(jnp.zeros((1, 4)), jnp.ones((1, 4)))
        return haiku.LSTM(4)(x, state)[1].cell

    made = haiku.without_apply_rng(haiku.transform(step))
    params = made.init(jax.random.PRNGKey(0), jnp.zeros((1, 4)))
    left = made.apply(params, jnp.zeros((1, 4)))
    np.testing.assert_allclose(left, jax.nn.sigmoid(float(forget_bias("Haiku"))), rtol=1e-6)
