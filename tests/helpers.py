"""Assertions and tools that several test files share."""

import inspect
import os
import re
from pathlib import Path

import chex
import jax
import numpy as np
import pytest


def slow(*cases):
    """Cases of a parametrized test that only `scripts/test --slow` runs.

    Those that stay beside them show the same on every run of `scripts/test`.
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for case in cases
    ]


def unchecked(function):
    """The function without the shape checks that the tests put around it, as users call it."""
    return inspect.unwrap(function)


def assert_gradient(loss, params, rtol):
    """The gradient of a loss is that of finite differences, within a relative tolerance."""
    expected = gradient_by_differences(loss, params)
    chex.assert_trees_all_close(jax.jit(jax.grad(loss))(params), expected, rtol=rtol)


def assert_refuses(call, *fragments):
    """The call raises a ValueError of one line that holds every fragment."""
    with pytest.raises(ValueError, match=re.escape(fragments[0])) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(fragment in message for fragment in fragments), message


def central_difference(f, x, step=1e-6):
    """Derivative of an elementwise function by finite differences, in float64."""
    return (f(x + step) - f(x - step)) / (2 * step)


def gradient_by_differences(f, tree, step=1e-6):
    """Gradient of a scalar function of a tree of float64 arrays, element by element."""
    f, (leaves, structure) = jax.jit(f), jax.tree.flatten(tree)
    gradients = []
    for i, leaf in enumerate(leaves):
        gradient = np.zeros(leaf.shape)
        for index in np.ndindex(leaf.shape):
            values = []
            for sign in (1, -1):
                neighbour = np.array(leaf)
                neighbour[index] += sign * step
                values.append(
                    float(f(structure.unflatten([*leaves[:i], neighbour, *leaves[i + 1 :]])))
                )
            gradient[index] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return structure.unflatten(gradients)


def real_data(*parts):
    """A path below $VANISHING_DATA_DIR; the test is skipped where the files are not at hand."""
    folder = os.environ.get("VANISHING_DATA_DIR")
    path = Path(folder or "absent", *parts)
    if not path.exists():
        pytest.skip(f"needs the published files: set VANISHING_DATA_DIR ({Path(*parts)})")
    return path
