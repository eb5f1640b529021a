import jax
import jax.numpy as jnp
import pytest

from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(6, 4)
PARAMS = {"make": jnp.linspace(-1, 1, 64).reshape(4, 16), "bias": jnp.ones(16), "o": jnp.eye(4)}


def generate(p, vector):
    return (jnp.tanh(vector @ p["make"]) + p["bias"]).reshape(4, 4)


def matrix(p, x):
    return x @ generate(p, x[0])


def kernel(p, x):
    image = x.reshape(1, 1, 6, 4)
    weight = generate(p, x[0]).reshape(1, 1, 4, 4)
    return jax.lax.conv_general_dilated(
        image, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def a_matrix_for_each_example(p, x):
    return jax.vmap(lambda x: x @ generate(p, x))(x)


def attention(p, x):
    q, k = x @ p["o"], (x @ p["make"])[:, :4]
    return jax.nn.softmax(q @ k.T) @ x


@pytest.mark.parametrize(
    ("loss", "ops"),
    [(matrix, ["", "o"]), (kernel, ["", "o"]), (a_matrix_for_each_example, ["o"])],
)
def test_a_product_with_a_matrix_that_was_made_has_its_row(loss, ops):
    layout = make_plan(lambda p, x: jnp.mean((loss(p, x) @ p["o"]) ** 2), (PARAMS, X), {}).layout
    products = [site.param for site in layout.sites if site.kind == "matmul"]
    assert products == ["make", *ops]


def test_attention_has_rows_for_its_parameters_alone():
    layout = make_plan(lambda p, x: jnp.mean(attention(p, x) ** 2), (PARAMS, X), {}).layout
    assert [site.param for site in layout.sites if site.kind == "matmul"] == ["o", "make"]
