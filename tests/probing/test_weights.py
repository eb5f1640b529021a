"""A weight made of parameters and of data or randomness: the product that takes it has its row."""

import jax
import jax.numpy as jnp
import pytest

from vanishing.probing import probe
from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(6, 4)
BASE = jnp.linspace(1, 2, 16).reshape(4, 4)
KEY = jax.random.key(0)
PARAMS = {
    **{name: jnp.linspace(-1, 1, 16).reshape(4, 4) + i for i, name in enumerate("wvo")},
    **{"a": jnp.ones((4, 2)), "b": jnp.ones((2, 4)), "shift": jnp.ones((6, 4))},
    **{"scale": jnp.ones(4), "gains": jnp.ones((3, 4)), "make": jnp.ones((4, 16))},
}


def head(p, h):
    return jnp.tanh(h) @ p["o"]


def low_rank(p, x):
    return head(p, x @ (BASE + 0.5 * (p["a"] @ p["b"])))


def low_rank_of_an_argument(p, x, base=BASE):
    return head(p, jax.jit(lambda w: x @ w)(base + p["a"] @ p["b"]))


def low_rank_in_a_scan(p, x):
    bases = jnp.stack([BASE, BASE]) + (p["a"] @ p["b"])[None]
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, bases)[0] @ p["o"]


def spectral_norm(p, x):
    u = jax.lax.stop_gradient(p["w"] @ BASE[0])
    v = jax.lax.stop_gradient(u @ p["w"])
    return head(p, x @ (p["w"] / (u @ p["w"] @ v)))


def noise(p, x):
    return head(p, x @ (p["w"] + 0.1 * jax.random.normal(KEY, (4, 4))) + p["scale"][None])


def variational(p, x):
    noise = jax.random.normal(jax.random.wrap_key_data(X[0, :2].astype("uint32")), (4, 4))
    return head(p, x @ (p["w"] + jax.nn.softplus(p["w"]) * noise))


def masked(p, x):
    return head(p, x @ jnp.where(BASE > 1.5, p["w"], 0))


def chosen_by_each_example(p, x):
    def per_example(x):
        return jax.lax.cond(x[0] > 0, lambda: x @ p["w"], lambda: x @ p["v"])

    return head(p, jax.vmap(per_example)(x))


def experts(p, x):
    kernels = jnp.stack([p["w"], p["v"]])
    return head(p, jnp.einsum("nd,ndk->nk", x, kernels[jnp.argmax(x[:, :2] @ p["b"], -1) % 2]))


def hypernetwork(p, x):
    return head(p, x @ (BASE[0] @ p["make"]).reshape(4, 4))


def attention(p, x):
    q, k, v = (x @ p[name] for name in "wvo")
    return jax.nn.softmax(q @ k.T) @ v


def shifted_input(p, x):
    h = x + p["shift"]
    return head(p, h + jnp.tanh(h @ p["w"]))


def no_product(p, x):
    for gain in p["gains"]:
        x = jax.nn.sigmoid(gain[None] * x)
    return x


def no_data(p, x):
    return jnp.tanh(p["shift"][jnp.arange(3)] + p["scale"][None]) ** 2


KINDS = {"matmul": "matmul", "nonlinearity": "function", "residual": "sum", "other": "op"}
HEAD = ["function", "o matmul"]
FORMS = {  # loss: the parameter and kind of each row
    low_rank: ["a matmul", *HEAD],
    low_rank_of_an_argument: ["a matmul", *HEAD],
    low_rank_in_a_scan: ["a matmul", "function", "o matmul"],
    spectral_norm: ["w matmul", *HEAD],
    noise: ["w matmul", *HEAD],
    variational: ["w matmul", *HEAD],
    masked: ["w matmul", *HEAD],
    chosen_by_each_example: ["v matmul", "w matmul", *HEAD],
    experts: ["v|w matmul", *HEAD],
    hypernetwork: ["make matmul", "matmul", *HEAD],
    attention: ["w matmul", "v matmul", "o matmul", "function"],
    shifted_input: ["shift op", "w matmul", "function", "sum", "function", "o matmul"],
    no_product: ["gains op", "function"] * 3,
    no_data: ["shift op"],
}


def rows(loss, *args):
    layout = make_plan(lambda *args: jnp.mean(loss(*args) ** 2), args, {}).layout
    return [f"{site.param} {KINDS[site.kind]}".strip() for site in layout.sites]


@pytest.mark.parametrize("loss", FORMS, ids=lambda loss: loss.__name__)
def test_the_rows_of(loss):
    assert rows(loss, PARAMS, X) == FORMS[loss]


@pytest.mark.parametrize("loss", FORMS, ids=lambda loss: loss.__name__)
def test_data_that_the_loss_closes_over_are_data(loss):
    assert rows(lambda p: loss(p, X), PARAMS) == FORMS[loss]


def matrix_first(p, x):
    return head(p, jax.vmap(lambda x: p["w"] @ x)(x))


def low_rank_of_an_input(p, x):
    return head(p, x @ (BASE + p["a"] @ p["b"]))


def masked_by_data(p, x):
    return head(p, (x @ p["w"]) * (X > 0))


INPUTS = {  # loss of an input that is differentiated as well: the rows after the input's own
    lambda p, x: head(p, x @ p["w"]): ["p.w matmul", "function", "p.o matmul"],
    matrix_first: ["p.w matmul", "function", "p.o matmul"],
    low_rank_of_an_input: ["p matmul", "function", "p.o matmul"],
    masked_by_data: ["p.w matmul", "function", "p.o matmul"],
}


@pytest.mark.parametrize("loss", INPUTS)
def test_an_input_that_is_differentiated_is_a_row_and_no_weight(loss):
    def total_loss(p, x):
        return jnp.mean((loss(p, x) - BASE[:1]) ** 2)

    def in_one_tree(p):
        return total_loss(p, p["latent"])

    def named(layout):
        return [f"{site.param} {KINDS[site.kind]}".strip() for site in layout.sites]

    pair_layout = make_plan(total_loss, (PARAMS, X), {}, argnums=(0, 1)).layout
    assert pair_layout.sites[0].op == "input"
    assert named(pair_layout) == ["x op", *INPUTS[loss]]
    latent = make_plan(in_one_tree, ({**PARAMS, "latent": X},), {}).layout
    assert named(latent) == [
        "latent op",
        *(row.removeprefix("p.").replace("p ", "a ") for row in INPUTS[loss]),
    ]


def test_an_input_that_is_differentiated_has_exact_numbers():
    probed = probe(lambda p, x: jnp.mean(head(p, x @ p["w"]) ** 2), argnums=(0, 1))
    assert probed.check(PARAMS, X, rows=0).worst < 1e-5
    layout = probed(PARAMS, X).trace.layout
    assert [row.parents for row in layout.instances] == [(), (0,), (1,), (2,)]


def learned_positions(p, x):
    return head(p, x @ p["v"] + jnp.tanh(p["shift"] @ p["w"]) @ p["square"])


def learned_style(p, x):
    style = jax.nn.sigmoid(p["scale"] @ p["w"])
    return head(p, (x @ p["v"]) * (style @ p["square"])[None])


def embedding(p, x):
    rows = jnp.take(p["shift"], jnp.arange(6), axis=0)
    return head(p, x + jnp.tanh(rows @ p["w"]) @ p["v"])


def norm_of_a_product(p, x):
    u = p["scale"] @ p["w"]
    v = p["w"] @ (u / jnp.linalg.norm(u))
    return head(p, x @ (p["w"] / (u @ p["w"] @ (v / jnp.linalg.norm(v)))))


def activated_low_rank(p, x):
    return head(p, x @ (BASE + jnp.tanh(p["a"]) @ p["b"]))


NETWORKS = {  # loss: names of the products' rows
    learned_positions: ["w", "square", "o"],  # of one module, as of a recurrent cell
    learned_style: ["w", "v", "square", "o"],
    embedding: ["w", "v", "o"],
    norm_of_a_product: ["w", "o"],
    activated_low_rank: ["a", "o"],
}


@pytest.mark.parametrize("loss", NETWORKS, ids=lambda loss: loss.__name__)
def test_a_network_of_parameters_alone_has_rows_and_a_weight_made_of_them_has_none(loss):
    params = {**PARAMS, "square": BASE}
    layout = make_plan(lambda p: jnp.mean(loss(p, X) ** 2), (params,), {}).layout
    assert [site.param for site in layout.sites if site.kind == "matmul"] == NETWORKS[loss]
