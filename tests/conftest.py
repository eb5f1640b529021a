import gc
import os

import jax
import jaxtyping
import pytest

# The tests compile much and run little. Without LLVM's dear passes, and with the kernels of XLA's
# plain loop emitter in place of those that go through MLIR, they take less than half the time.
# CI's run on the newest JAX, which these flags leave alone, has the kernels that users have.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):
    cheap = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cheap}"

# One thread each for the two processes of pytest, which keep two cores busy.
os.environ.setdefault("NPROC", "1")

# JAX traces into many small objects that stay: looking through them for garbage as often as Python
# does by default takes a twentieth of the time.
gc.set_threshold(100_000, 20, 100)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the long evidence, and nothing else")


def pytest_configure(config):
    markers = "slow" if config.getoption("--slow") else "not slow"
    config.option.markexpr = config.option.markexpr or markers


@pytest.fixture(autouse=True, scope="module")
def _keep_what_is_traced():
    """Garbage is looked for in what the module itself has made."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _strict():
    """A shape that broadcasts by accident is an error in every test."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_users_call_it():
    """The tests' own checks of types are off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
