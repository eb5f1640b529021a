"""Grids: the axes of a sweep, what is done in each cell, and the cells put together again."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep.parallel import Task

with needs("sweeps"):
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Grid:
    """The axes of a sweep, by name; the order is that of the dataset's dimensions.

    Raises:
      ValueError: an axis is empty, or both kinds have one of the same name.
    """

    structural: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    numeric: Mapping[str, Sequence | np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in (*self.structural.items(), *self.numeric.items()):
            if not len(values):
                raise ValueError(f"axis {name} is empty; it takes at least one value.")
        both = set(self.structural) & set(self.numeric)
        if both:
            raise ValueError(f"axis {min(both)} is both structural and numeric; name it once.")

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the structural axes."""
        combinations = itertools.product(*self.structural.values())
        return [dict(zip(self.structural, values, strict=True)) for values in combinations]

    def points(self) -> dict[str, np.ndarray]:
        """Every combination of the numeric axes, as an array for each; the last varies fastest."""
        axes = [np.asarray(values) for values in self.numeric.values()]
        axes = [axis.astype(jax.dtypes.canonicalize_dtype(axis.dtype)) for axis in axes]
        meshes = np.meshgrid(*axes, indexing="ij") if axes else []
        points = {name: mesh.ravel() for name, mesh in zip(self.numeric, meshes, strict=True)}
        return points or {"point": np.zeros(1, np.int32)}


class Cell(NamedTuple):
    """What is done in one cell of a grid.

    `label(output)` maps the outputs at some points, the points being the first axis and the chunks
    joined along the next, to a dataset with the dimension `point`; `inspect(output)` looks at those
    of each chunk, and may end the cell with a FloatingPointError that says why.
    """

    task: Task
    label: Callable[[Any], xr.Dataset]
    inspect: Callable[[Any], None] = lambda output: None


def once(function: Callable[[Any, Any], PyTree], label: Callable[[Any], xr.Dataset]) -> Cell:
    """A cell that calls `function(point, shared)` once at every point."""
    return Cell(
        Task(lambda point, shared: (), lambda s, p, shared: (s, function(p, shared))), label
    )


def assembled(grid: Grid, found: Sequence[xr.Dataset | None], reasons: Sequence[str]) -> xr.Dataset:
    """The cells' datasets as one, with nothing but nan where one is missing."""
    whole = [None if cell is None else spread(cell, grid.numeric) for cell in found]
    some = next(cell for cell in whole if cell is not None)
    missing = xr.merge(
        some[[name]].where(False, "" if some[name].dtype == object else np.nan) for name in some
    )
    dataset = _along(list(grid.structural.items()), [missing if c is None else c for c in whole])
    if any(reasons):
        sizes = [len(values) for values in grid.structural.values()]
        table = np.array(reasons, dtype=object).reshape(sizes)
        dataset["failure"] = (tuple(grid.structural), table, {"long_name": "why the cell failed"})
    return dataset


def _along(axes: Sequence[tuple[str, Sequence]], cells: Sequence[xr.Dataset]) -> xr.Dataset:
    if not axes:
        return cells[0]
    (name, values), *inner = axes
    each = len(cells) // len(values)
    rows = [_along(inner, cells[i : i + each]) for i in range(0, len(cells), each)]
    return xr.concat(rows, xr.Variable(name, list(values)), join="outer")


def spread(dataset: xr.Dataset, axes: Mapping[str, Sequence | np.ndarray]) -> xr.Dataset:
    """A dataset whose dimension `point` is replaced by the axes that the points are the product of.

    Args:
      dataset: what is known of every point.
      axes: name and coordinates of each axis, the last one varying fastest.

    Raises:
      ValueError: the axes do not multiply up to the number of points.
    """
    sizes = {name: len(values) for name, values in axes.items()}
    if math.prod(sizes.values()) != dataset.sizes["point"]:
        raise ValueError(f"axes {sizes} for {dataset.sizes['point']} points.")

    def variable(found: xr.Variable) -> xr.Variable:
        if "point" not in found.dims:
            return found
        found = found.transpose("point", ...)
        values = found.values.reshape((*sizes.values(), *found.shape[1:]))
        return xr.Variable((*sizes, *found.dims[1:]), values, found.attrs)

    variables = {name: variable(found) for name, found in dataset.variables.items()}
    variables |= {name: (name, list(values), {"units": "1"}) for name, values in axes.items()}
    return xr.Dataset(variables, attrs=dataset.attrs).set_coords([*dataset.coords, *axes])
