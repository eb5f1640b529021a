import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table, module
from vanishing.facts import EMBEDDINGS, embedding_std, embeddings

ROWS, FEATURES = 512, 128
KEY = jax.random.key(0)


def drawn(row):
    if row.framework == "Flax" and row.layer.startswith("nnx"):
        nnx = module("flax.nnx")
        return nnx.Embed(ROWS, FEATURES, rngs=nnx.Rngs(0)).embedding[...]
    if row.framework == "Flax":
        layer = module("flax.linen").Embed(ROWS, FEATURES)
        return layer.init(KEY, jnp.zeros(1, int))["params"]["embedding"]
    if row.framework == "Equinox":
        return module("equinox").nn.Embedding(ROWS, FEATURES, key=KEY).weight
    if row.framework == "Haiku":
        haiku = module("haiku")
        made = haiku.transform(lambda x: haiku.Embed(ROWS, FEATURES)(x))
        return made.init(jax.random.PRNGKey(0), jnp.zeros(1, int))["embed"]["embeddings"]
    if row.framework == "Keras":
        layer = module("keras").layers.Embedding(ROWS, FEATURES)
        layer.build((1,))
        return layer.weights[0]
    return module("torch").nn.Embedding(ROWS, FEATURES).weight.detach().numpy()


def measured(row):
    std = float(np.std(np.asarray(drawn(row), np.float64)))
    return [(row.std / (1 if row.per == "1" else FEATURES**0.5), std)]


def test_the_table_is_plain_data():
    assert_table(EMBEDDINGS, lambda row: (row.framework, row.layer))
    assert_plain(embeddings)


def test_an_embedding_of_flax_is_drawn_as_stated():
    row = EMBEDDINGS[0]
    (_, std) = measured(row)[0]
    assert std == pytest.approx(
        embedding_std("Flax", FEATURES), rel=4 / (2 * ROWS * FEATURES) ** 0.5
    )


def test_they_spread_more_than_thirtyfold():
    sizes = [embedding_std(row.framework, FEATURES) for row in EMBEDDINGS]
    assert 30 < max(sizes) / min(sizes) < 40


@pytest.mark.slow
def test_every_embedding_is_drawn_as_stated():
    assert_as_stated(EMBEDDINGS, measured, rtol=0.02)
