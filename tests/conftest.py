import jax
import pytest

# The tests compile much and run little: without LLVM's dear passes they take a third less time.
jax.config.update("jax_disable_most_optimizations", True)


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
