import jax
import pytest


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
