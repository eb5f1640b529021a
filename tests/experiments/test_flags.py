"""No experiment has a flag that it ignores."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import sys

import jax
import numpy as np
import pytest

from experiments.common import catalog, launch, machine
from experiments.common.options import option
from tests.helpers import slow

SMALL = {  # sizes at which an experiment is read in no time, of those that it has
    "width": 4,
    "batch_size": 4,
    "steps": 10,
    "record_every": 10,
    "seeds": 2,
    "examples": 100,
    "precision": "float32",
    "optimizers": ("momentum",),  # gradient descent takes all examples, whatever the batch size
}
LAUNCHED = (launch.OutputOptions, launch.SweepOptions, machine.MachineOptions)


class Enough(Exception):
    """Raised once a grid has been read; what follows needs results."""


def read_grid(grid, cell, shared=None, name=""):
    """Build the first cell of a grid and trace its task, in place of running it."""
    first_cell = cell(**{axis: values[0] for axis, values in grid.structural.items()})
    point = {axis: jax.numpy.asarray(values[0]) for axis, values in grid.numeric.items()}
    state = jax.eval_shape(first_cell.task.init, point, shared)
    _, output = jax.eval_shape(first_cell.task.advance, state, point, shared)
    if first_cell.inspect:
        first_cell.inspect(jax.tree.map(lambda of: np.zeros((1, *of.shape)), output))
    raise Enough


def own_reads(module):
    """The attributes of `config` or `self` that an experiment's own file reads."""
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("config", "self")
    }


def unread(module, config, monkeypatch):
    """The fields of a configuration that nothing reads."""
    names = {field.name for field in dataclasses.fields(config)}
    reads = own_reads(module) & names
    for runner in (launch, machine):  # what every experiment does with these
        source = inspect.getsource(runner)
        reads |= {
            field.name
            for group in LAUNCHED
            for field in dataclasses.fields(group)
            if f"config.{field.name}" in source
            or f"options.{field.name}" in source
            or f"self.{field.name}" in source
        }

    def record(self, name):
        if sys._getframe(1).f_code.co_name not in CHECKS:
            reads.add(name)
        return object.__getattribute__(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(launch.OutputOptions, "__getattribute__", record, raising=False)
        with contextlib.suppress(Enough):
            module.measure(config, read_grid)
    return names - reads


CHECKS = ("__post_init__", "complete", "<dictcomp>")  # which look at every field, or only check


FEW = ("activation", "backprop", "clipping", "depth", "mean_field", "phase_diagram", "surrogate")


@pytest.mark.parametrize(
    "name", [*FEW, *slow(*sorted(name for name in catalog.questions() if name not in FEW))]
)
def test_every_flag_is_read(name, monkeypatch):
    module = importlib.import_module(f"experiments.{name}")
    config = module.Config()
    small = {n: v for n, v in SMALL.items() if hasattr(config, n)}
    config = dataclasses.replace(config, **small)
    assert not unread(module, config, monkeypatch)


def test_a_flag_that_nothing_reads_is_found(monkeypatch):
    module = importlib.import_module("experiments.activation")

    @dataclasses.dataclass(frozen=True)
    class Config(module.Config):
        colour: str = option("red", "Read by nobody.")

    config = Config(width=4, batch_size=4, steps=10, record_every=10)
    assert unread(module, config, monkeypatch) == {"colour"}


def test_a_flag_that_is_compared_is_refused_beside_its_comparison(monkeypatch):
    """`--optimizer=adam` of an experiment that compares all optimisers would be ignored."""
    from experiments import optimizer
    from experiments.common import groups

    @dataclasses.dataclass(frozen=True)
    class Config(groups.OptimizerOptions, optimizer.Config):
        pass

    config = Config(width=4, batch_size=4, steps=10, record_every=10)
    with pytest.raises(TypeError, match="optimizer"):
        unread(optimizer, config, monkeypatch)
