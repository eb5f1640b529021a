"""Models of all frameworks and styles, and the names that their authors would give to the rows.

In the names `a{b,c}` stands for `ab ac`, so that a block is written once.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from vanishing import layers, networks

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 32).reshape(4, 8)
TOKENS = jnp.arange(6).reshape(2, 3)
IMAGES = jnp.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)
TIMES = X.reshape(2, 2, 8)


class Named(NamedTuple):
    """A loss, what it is called with, and the names of its rows."""

    loss: Callable
    args: tuple[Any, ...]
    names: str

    @property
    def expected(self) -> tuple[str, ...]:
        return tuple(itertools.chain.from_iterable(map(_spread, self.names.split())))


def _spread(text: str) -> list[str]:
    """The texts that one with braces stands for."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    before, after = text[: match.start()], text[match.end() :]
    return [t for part in match[1].split(",") for t in _spread(before + part + after)]


def linen(module: nn.Module, x, names: str, keep=("params",)) -> Named:
    variables = module.init(KEY, x)
    rest = {name: tree for name, tree in variables.items() if name not in keep}

    def loss(params, x):
        return jnp.mean(module.apply({"params": params, **rest}, x, mutable=list(rest))[0] ** 2)

    return Named(loss, (variables["params"], x), names)


def of_nnx(module, x, names: str) -> Named:
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def loss(params, x):
        return jnp.mean(nnx.merge(graph, params, rest, copy=True)(x) ** 2)

    return Named(loss, (params, x), names)


def equinox(module, x, names: str, call=jax.vmap) -> Named:
    params, rest = eqx.partition(module, eqx.is_inexact_array)

    def loss(params, x):
        return jnp.mean(call(eqx.combine(params, rest))(x) ** 2)

    return Named(loss, (params, x), names)


def bare(function: Callable, params, names: str, x=X) -> Named:
    return Named(lambda params, x: jnp.mean(function(params, x) ** 2), (params, x), names)


def library(net: layers.Layer, x, names: str) -> Named:
    params, state = net.init(KEY, x)
    return bare(lambda params, x: net.apply(params, state, x).output, params, names, x)


def linen_loop():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.relu(nn.Dense(8)(x))
            return nn.Dense(2)(x)

    return linen(Model(), X, "Dense_0{,/relu} Dense_1{,/relu} Dense_2{,/relu} Dense_3")


def linen_variables():
    model = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(8), nn.gelu, nn.Dense(2)])
    variables = model.init(KEY, X)
    names = "params.layers_0{,/tanh} params.layers_2{,/gelu} params.layers_4"
    return bare(lambda variables, x: model.apply(variables, x), variables, names)


def linen_blocks():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(16, name="up")(nn.LayerNorm(name="norm")(x))
            return x + nn.Dense(8, name="down")(nn.gelu(h))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, name="embed")(x)
            for i in range(2):
                x = Block(name=f"block{i}")(x)
            return nn.Dense(2, name="head")(x)

    names = "embed block{0,1}{.norm,.up,.up/gelu,.down,/add} head"
    return linen(Model(), X, names)


def linen_attention():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x)
            h = nn.Dense(16, name="up")(nn.LayerNorm(name="norm")(x))
            return nn.Dense(2, name="head")(x + nn.Dense(8, name="down")(nn.silu(h)))

    names = "attention.{query,key,value,key/attention,out} norm up up/silu down down/add head"
    return linen(Model(), TIMES, names)


def linen_scan():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(8)(nn.relu(nn.LayerNorm()(x))), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, name="first")(x)
            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            blocks = nn.scan(nn.remat(Block), length=3, **options)(name="blocks")
            return nn.Dense(2, name="head")(nn.tanh(blocks(x, None)[0]))

    block = "blocks.LayerNorm_0[{0}]{{,/relu}} blocks.Dense_0[{0}] blocks[{0}]/add "
    names = "".join(block.format(i) for i in range(3))
    return linen(Model(), X, f"first {names} blocks[2]/tanh head")


def linen_lstm():
    gates = "cell{,/sigmoid}[t=T] cell#2{,/sigmoid}[t=T] cell#3{,/tanh}[t=T] "
    gates += "cell#4{,/sigmoid}[t=T] cell#3/add[t=T] cell#3/tanh#2[t=T] "
    names = gates.replace("T", "0") + gates.replace("T", "1")
    return linen(nn.RNN(nn.LSTMCell(5)), TIMES, names)


def linen_resnet():
    class Block(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            y = x
            for i in range(2):
                y = nn.Conv(self.features, (3, 3), name=f"conv{i}")(y)
                y = nn.BatchNorm(use_running_average=False, name=f"norm{i}")(y)
                y = nn.relu(y) if i == 0 else y
            if x.shape != y.shape:
                x = nn.Conv(self.features, (1, 1), name="shortcut")(x)
            return nn.relu(x + y)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="stem")(x)
            for i, features in enumerate((4, 8)):
                x = Block(features, name=f"block{i}")(x)
            return nn.Dense(2, name="head")(x.mean((1, 2)))

    inside = "block0{.conv0,.norm0,.norm0/relu,.conv1,.norm1,/add,/relu}"
    outside = "block1{.conv0,.norm0,.norm0/relu,.conv1,.norm1,.shortcut,/add,/relu}"
    return linen(Model(), IMAGES, f"stem {inside} {outside} head")


def linen_repeated_scopes():
    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            gate = nn.silu(nn.Dense(8, name="gate")(x))
            return nn.Dense(8, name="out")(gate * nn.Dense(8, name="in")(x))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            mixer = Mixer(name="mixer")
            return mixer(mixer(x))

    once = "mixer.gate mixer.gate/silu mixer.in mixer.out "
    return linen(Model(), X, once + "mixer.gate#2 mixer.gate#2/silu mixer.in#2 mixer.out#2")


def nnx_loop():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
            self.out = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            for layer in self.hidden:
                x = nnx.sigmoid(layer(x))
            return self.out(x)

    return of_nnx(Model(nnx.Rngs(0)), X, "hidden[{0,1,2}]{,/sigmoid} out")


def nnx_sequential():
    rngs = nnx.Rngs(0)
    hidden = [f for _ in range(3) for f in (nnx.Linear(8, 8, rngs=rngs), nnx.elu)]
    return of_nnx(nnx.Sequential(*hidden), X, "layers[{0,2,4}]{,/elu}")


def nnx_cnn():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.conv2 = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm(self.conv1(x))), (2, 2))
            return self.head(nnx.relu(self.conv2(x)).mean((1, 2)))

    names = "conv1 norm norm/relu conv2 conv2/relu head"
    return of_nnx(Model(nnx.Rngs(0)), IMAGES, names)


def nnx_transformer():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.ln1 = nnx.LayerNorm(8, rngs=rngs)
            self.attn = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
            self.ln2 = nnx.RMSNorm(8, rngs=rngs)
            self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)

        def __call__(self, x):
            x = x + self.attn(self.ln1(x))
            return x + self.down(nnx.gelu(self.up(self.ln2(x))))

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(10, 8, rngs=rngs)
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])
            self.head = nnx.Linear(8, 10, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    attention = ".ln1,.attn.query,.attn.key,.attn.value,.attn.key/attention,.attn.out,/add"
    block = f"blocks[{{0,1}}]{{{attention},.ln2,.up,.up/gelu,.down,/add#2}}"
    return of_nnx(Model(nnx.Rngs(0)), TOKENS, f"embed {block} head")


def nnx_rnn():
    model = nnx.RNN(nnx.SimpleCell(8, 5, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    return of_nnx(model, TIMES, "cell[t=0] cell/tanh[t=0] cell[t=1] cell/tanh[t=1]")


def equinox_mlp():
    model = eqx.nn.MLP(8, 2, 8, 2, activation=jax.nn.gelu, key=KEY)
    return equinox(model, X, "layers[{0,1}]{,/gelu} layers[2]")


def equinox_sequential():
    parts = [eqx.nn.Linear(8, 8, key=KEY), eqx.nn.Lambda(jax.nn.tanh), eqx.nn.LayerNorm(8)]
    model = eqx.nn.Sequential([*parts, eqx.nn.Linear(8, 2, key=KEY)])
    return equinox(model, X, "layers[0]{,/tanh} layers[{2,3}]")


def equinox_conv():
    convs = [eqx.nn.Conv2d(1, 4, 3, key=KEY), eqx.nn.Conv2d(4, 4, 3, key=KEY)]
    parts = [f for conv in convs for f in (conv, eqx.nn.Lambda(jax.nn.relu))]
    head = [eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(64, 2, key=KEY)]
    model = eqx.nn.Sequential([*parts, *head])
    return equinox(model, IMAGES.reshape(4, 1, 8, 8), "layers[{0,2}]{,/relu} layers[5]")


def equinox_attention():
    model = eqx.nn.MultiheadAttention(2, 8, key=KEY)
    names = "query_proj key_proj value_proj key_proj/attention output_proj"
    return equinox(model, TIMES, names, lambda model: jax.vmap(lambda x: model(x, x, x)))


def equinox_rnn():
    class Model(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def __call__(self, xs):
            h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(5), xs)
            return self.head(h)

    model = Model(eqx.nn.GRUCell(8, 5, key=KEY), eqx.nn.Linear(5, 2, key=KEY))
    step = "cell[t=T] cell.weight_hh[t=T] cell/add[t=T] cell/sigmoid[t=T]"
    step += " cell/add#2[t=T] cell/sigmoid#2[t=T] cell.bias_n[t=T] cell/add#3[t=T]"
    step += " cell/tanh[t=T] cell/add#4[t=T] "
    return equinox(model, TIMES, step.replace("T", "0") + step.replace("T", "1") + "head")


def haiku():
    params = {f"mlp/~/linear_{i}": {"w": jnp.ones((8, 8)), "b": jnp.ones((1, 8))} for i in range(3)}

    def net(params, x):
        for i, layer in enumerate(params.values()):
            x = x @ layer["w"] + layer["b"]
            x = jax.nn.relu(x) if i < 2 else x
        return x

    return bare(net, params, "mlp.linear_{0,1}{,/relu} mlp.linear_2")


def list_of_arrays():
    def net(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return x

    return bare(net, [jnp.ones((8, 8))] * 3, "[{0,1,2}]{,/tanh}")


def flat_dict():
    params = {f"{n}{i}": jnp.ones((8, 8) if n == "w" else (1, 8)) for n in "wb" for i in (1, 2)}

    def net(p, x):
        x = jnp.tanh(x @ p["w1"] + p["b1"])
        return x + jax.nn.celu(x @ p["w2"] + p["b2"])

    return bare(jax.jit(net), params, "w1 w1/tanh w2 w2/celu w2/add")


def list_of_pairs():
    def net(params, x):
        (w1, b1), (w2, b2), (w3, b3) = params
        return jax.nn.mish(jax.nn.mish(x @ w1 + b1) @ w2 + b2) @ w3 + b3

    pairs = [(jnp.ones((8, 8)), jnp.ones((1, 8)))] * 3
    return bare(net, pairs, "[{0,1}]{,/mish} [2]")


class Weights(NamedTuple):
    first: Any
    blocks: tuple[dict[str, Any], ...]


def named_tuple():
    blocks = ({"scale": jnp.ones((1, 8)), "kernel": jnp.ones((8, 8))},) * 2

    def net(params, x):
        x = x @ params.first
        for block in params.blocks:
            x = x + jax.nn.silu(block["scale"] * jax.nn.standardize(x)) @ block["kernel"]
        return x

    names = "first blocks[{0,1}]{.scale,.scale/silu,.kernel,/add}"
    return bare(net, Weights(jnp.ones((8, 8)), blocks), names)


def scanned_dict():
    blocks = {"up": jnp.ones((3, 8, 16)), "down": jnp.ones((3, 16, 8))}

    def net(params, x):
        def block(h, p):
            return h + jax.nn.gelu(jax.nn.standardize(h) @ p["up"]) @ p["down"], None

        return jnp.tanh(jax.lax.scan(block, x, params["blocks"])[0]) @ params["head"]

    block = "blocks.up[{0}] blocks.up[{0}]/gelu blocks.down[{0}] blocks[{0}]/add "
    first, *rest = (block.format(i) for i in range(3))
    norm = "blocks[{}]/layer_norm {}"
    names = norm.format(0, first) + norm.format(1, rest[0]) + norm.format(2, rest[1])
    return bare(net, {"blocks": blocks, "head": jnp.ones((8, 2))}, f"{names} blocks[2]/tanh head")


def called_twice():
    def net(params, x):
        critic = lambda x: jax.nn.leaky_relu(x @ params["fc1"]) @ params["fc2"]  # noqa: E731
        return critic(x) - critic(x + 1)

    params = {"fc1": jnp.ones((8, 8)), "fc2": jnp.ones((8, 1))}
    names = "fc1 fc1/leaky_relu fc2 fc1#2 fc1#2/leaky_relu fc2#2 fc2/add"
    return bare(net, params, names.removesuffix(" fc2/add"))


def library_mlp():
    net = networks.mlp(3, depth=4, width=8, activation="selu", wrap=layers.residual)
    names = "first.dense first.dense/selu hidden[{0,1,2}]{.dense,.dense/selu,/add} output.dense"
    return library(net, X, names)


def library_lstm():
    net = layers.serial(rnn=layers.lstm(5), head=layers.dense(2))
    step = "rnn{,/sigmoid,/sigmoid#2,/tanh,/sigmoid#3,/add,/tanh#2}[t=T] "
    return library(net, TIMES, step.replace("T", "0") + step.replace("T", "1") + "head")


MODELS: dict[str, Callable[[], Named]] = {
    make.__name__: make
    for make in (
        linen_loop,
        linen_variables,
        linen_blocks,
        linen_attention,
        linen_scan,
        linen_lstm,
        linen_resnet,
        linen_repeated_scopes,
        nnx_loop,
        nnx_sequential,
        nnx_cnn,
        nnx_transformer,
        nnx_rnn,
        equinox_mlp,
        equinox_sequential,
        equinox_conv,
        equinox_attention,
        equinox_rnn,
        haiku,
        list_of_arrays,
        flat_dict,
        list_of_pairs,
        named_tuple,
        scanned_dict,
        called_twice,
        library_mlp,
        library_lstm,
    )
}
