import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table, module
from vanishing.facts import KERNELS, drawn_as, kernels
from vanishing.facts.kernels import Drawn

IN, OUT = 384, 128
KEY = jax.random.key(0)


def parameters(row):
    """Kernel and bias of a layer, and its fan_in and fan_out."""
    is_conv = "Conv" in row.layer
    fans = (9 * 32, 9 * 64) if is_conv else (IN, OUT)
    sizes = (32, 64) if is_conv else (IN, OUT)
    return *MAKERS[row.framework](row.layer, is_conv, *sizes), *fans


def by_jax(name, is_conv, features_in, features_out):
    initializer = getattr(jax.nn.initializers, name)()
    return initializer(KEY, (features_in, features_out)), None


def by_flax(name, is_conv, features_in, features_out):
    flax = module(f"flax.{name.partition('.')[0]}")
    make, window = getattr(flax, name.partition(".")[2]), ((3, 3),) if is_conv else ()
    if name.startswith("nnx"):
        layer = make(features_in, features_out, *window, rngs=flax.Rngs(0))
        return layer.kernel[...], layer.bias[...]
    x = jnp.ones((1, 8, 8, features_in) if is_conv else (1, features_in))
    params = make(features_out, *window).init(KEY, x)["params"]
    return params["kernel"], params["bias"]


def by_equinox(name, is_conv, features_in, features_out):
    nn = module("equinox").nn
    layer = getattr(nn, name[3:])(features_in, features_out, *([3] * is_conv), key=KEY)
    return layer.weight, layer.bias


def by_haiku(name, is_conv, features_in, features_out):
    haiku = module("haiku")
    x = jnp.ones((1, 8, 8, features_in) if is_conv else (1, features_in))
    made = haiku.transform(lambda x: getattr(haiku, name)(features_out, *([3] * is_conv))(x))
    (params,) = made.init(jax.random.PRNGKey(0), x).values()
    return params["w"], params["b"]


def by_keras(name, is_conv, features_in, features_out):
    layer = getattr(module("keras").layers, name[7:])(features_out, *([3] * is_conv))
    layer.build((1, 8, 8, features_in) if is_conv else (1, features_in))
    return tuple(map(np.asarray, layer.weights))


def by_torch(name, is_conv, features_in, features_out):
    layer = getattr(module("torch").nn, name[3:])(features_in, features_out, *([3] * is_conv))
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


MAKERS = {
    "JAX": by_jax,
    "Flax": by_flax,
    "Equinox": by_equinox,
    "Haiku": by_haiku,
    "Keras": by_keras,
    "PyTorch": by_torch,
}
# Largest over standard deviation: sqrt(3) of a uniform law, 2 / 0.8796 of one that is cut at 2.
PEAKS = {"uniform": 3**0.5, "half uniform": 12**0.5, "truncated normal": 2 / 0.8796}


def measured(row):
    kernel, bias, fan_in, fan_out = parameters(row)
    kernel = np.asarray(kernel, np.float64)
    std = kernel.std()
    yield row.relative(fan_in, fan_out), std * math.sqrt(fan_in)
    yield PEAKS.get(row.law, math.inf), np.abs(kernel).max() / std if row.law in PEAKS else math.inf
    if bias is not None:
        drawn = np.asarray(bias).std() > 0
        yield {"zero": 0, "as the kernel": 1}[row.bias], drawn


def drawn_of(kernel):
    fan_in, fan_out = kernel.shape
    rms = float(np.sqrt(np.mean(np.square(kernel))))
    return Drawn(rms * fan_in**0.5, fan_in, fan_out, float(np.abs(kernel).max()) / rms)


def test_the_table_is_plain_data():
    assert_table(KERNELS, lambda row: (row.framework, row.layer))
    assert_plain(kernels)


@pytest.mark.parametrize("name", ["lecun_normal", "glorot_uniform", "he_normal", "orthogonal"])
def test_jax_s_initialisers_draw_as_stated(name):
    (row,) = (row for row in KERNELS if row.layer == name)
    stated, size = next(measured(row))
    # Four standard errors of a standard deviation over n numbers, normal at most.
    assert size == pytest.approx(stated, rel=4 / (2 * IN * OUT) ** 0.5)


@pytest.mark.parametrize("shape", [(256, 256), (512, 64), (64, 512)], ids=str)
@pytest.mark.parametrize("name", ["lecun_normal", "lecun_uniform", "he_uniform", "glorot_uniform"])
def test_what_an_initialiser_draws_is_known_as_its_own(name, shape):
    draws = [getattr(jax.nn.initializers, name)()(key, shape) for key in jax.random.split(KEY, 3)]
    names = {row.layer for row in drawn_as([drawn_of(np.asarray(draw)) for draw in draws])}
    assert name in names
    assert not any("he_" in other for other in names) or name.startswith("he_")


def test_laws_of_one_size_are_told_apart():
    """Of a square kernel lecun_normal and glorot_uniform have one size."""
    normal, uniform = (
        drawn_of(np.asarray(getattr(jax.nn.initializers, name)()(KEY, (128, 128))))
        for name in ("lecun_normal", "glorot_uniform")
    )
    assert {row.framework for row in drawn_as([normal])} == {"Flax", "JAX"}
    assert {row.framework for row in drawn_as([uniform])} == {"Keras", "JAX"}


def test_what_no_default_draws_has_no_row():
    assert drawn_as([Drawn(0.7, 256, 256)]) == ()
    assert drawn_as([]) == ()
    assert drawn_as([Drawn(1.0, 256, 256), Drawn(0.577, 256, 256)]) == ()


@pytest.mark.slow
def test_every_kernel_is_drawn_as_stated():
    # Over 18,432 numbers four standard errors are 2 %.
    assert_as_stated(KERNELS, measured, rtol=0.03)
