"""Grids: the axes of a sweep, the computation of each cell, and the dataset of all cells."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing import _arguments, _held
from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep.parallel import Task

with needs("sweeps"):
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Grid:
    """The axes of a sweep, by name; the order is that of the dataset's dimensions.

    The values of a structural axis are texts, numbers or bools. Numeric axes must come through
    JAX's precision, which is float32 and int32 unless `jax_enable_x64` is on.

    Raises:
      ValueError: an axis is empty, or both kinds have one of the same name; two values are, read or
        become the same; a number is not what JAX makes of it.

    >>> Grid({"width": (1, "1")})
    Traceback (most recent call last):
    ValueError: axis width has 1 and '1', which are the same as text; leave one of them out.
    """

    structural: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    numeric: Mapping[str, Sequence | np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in (*self.structural.items(), *self.numeric.items()):
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise ValueError(f"axis {name} is {values!r}; it must be a sequence of values.")
            if not len(values):
                raise ValueError(f"axis {name} is empty; it takes at least one value.")
        repeated = set(self.structural) & set(self.numeric)
        if repeated:
            raise ValueError(f"axis {min(repeated)} is both structural and numeric; name it once.")
        for name, values in self.structural.items():
            _check_structural(f"axis {name}", values)
        self._numbers()

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the structural axes."""
        combinations = itertools.product(*self.structural.values())
        return [dict(zip(self.structural, values, strict=True)) for values in combinations]

    def points(self) -> dict[str, np.ndarray]:
        """Every combination of the numeric axes, as an array for each; the last varies fastest."""
        axes = self._numbers()
        meshes = np.meshgrid(*axes, indexing="ij") if axes else []
        points = {name: mesh.ravel() for name, mesh in zip(self.numeric, meshes, strict=True)}
        return points or {"point": np.zeros(1, np.int32)}

    def _numbers(self) -> list[np.ndarray]:
        """The values of the numeric axes as JAX holds them."""
        axes = []
        for name, values in self.numeric.items():
            axis = _held.held(f"axis {name}", values)
            if axis.ndim != 1:
                raise ValueError(f"axis {name} has shape {axis.shape}; it must be a sequence.")
            _held.distinct(f"axis {name}", values, axis, f"in {axis.dtype}")
            axes.append(axis)
        return axes


def _check_structural(name: str, values: Sequence) -> None:
    """Refuse values that cannot label a dataset, or of which two have the same label."""
    for value in values:
        if not isinstance(value, str | bool | int | float | np.bool_ | np.number):
            raise ValueError(
                f"{name} has {_arguments.described(value)}; it must be a text, a number or a bool: "
                "give it a name, by which the cell finds it."
            )
    labels = np.array(list(values))
    if labels.dtype == object:
        raise ValueError(f"{name} has an integer beyond 64 bits; name it by a text.")
    _held.distinct(name, values, np.array([str(value) for value in values]), "as text")
    _held.distinct(name, values, labels, "as labels")


class Cell(NamedTuple):
    """The computation of one cell of a grid.

    `label(output)` maps the outputs at a batch of points, with the points as first axis and the
    chunks concatenated along the second, to a dataset with the dimension `point`; `inspect(output)`
    is called with the outputs of each chunk, and may end the cell with a FloatingPointError whose
    message is the reason.
    """

    task: Task
    label: Callable[[Any], xr.Dataset]
    inspect: Callable[[Any], None] = lambda output: None


def once(function: Callable[[Any, Any], PyTree], label: Callable[[Any], xr.Dataset]) -> Cell:
    """A cell that calls `function(point, shared)` once at every point.

    Args:
      function: a pure function of the point's values, by name, and the tree that all points share.
      label: as for `Cell`.
    """

    def init(point, shared):
        del point, shared  # all of the work is the only chunk
        return ()

    def advance(state, point, shared):
        return state, function(point, shared)

    return Cell(Task(init, advance), label)


def assemble(grid: Grid, cells: Sequence[xr.Dataset | None], failures: Sequence[str]) -> xr.Dataset:
    """The dataset of a whole grid, from those of its cells.

    Args:
      grid: the axes.
      cells: the dataset of each cell, in the order of `grid.cells()`; None for one that failed.
      failures: the reason why each cell failed; "" where it did not.

    Returns:
      A dataset with the grid's axes in front; nan where a cell failed, and then with the variable
      `failure`.

    Raises:
      ValueError: no cell has a dataset.
    """
    layout = next((cell for cell in cells if cell is not None), None)
    if layout is None:
        raise ValueError("cells holds no dataset; at least one cell must have succeeded.")
    empty = _empty(spread(layout, grid.numeric))
    datasets = [empty if cell is None else spread(cell, grid.numeric) for cell in cells]
    dataset = _stack(list(grid.structural.items()), datasets)
    if any(failures):
        sizes = [len(values) for values in grid.structural.values()]
        table = np.array(failures, dtype=object).reshape(sizes)
        dataset["failure"] = (tuple(grid.structural), table, {"long_name": "why the cell failed"})
    return dataset


def _empty(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset of the same shape with nan for every number and "" for every text."""
    return xr.merge(
        dataset[[name]].where(False, "" if dataset[name].dtype == object else np.nan)
        for name in dataset
    )


def _stack(axes: Sequence[tuple[str, Sequence]], cells: Sequence[xr.Dataset]) -> xr.Dataset:
    """Datasets along new axes, of which the last one varies fastest."""
    if not axes:
        return cells[0]
    (name, values), *inner = axes
    size = len(cells) // len(values)
    rows = [_stack(inner, cells[i : i + size]) for i in range(0, len(cells), size)]
    return xr.concat(rows, xr.Variable(name, list(values)), join="outer")


def spread(dataset: xr.Dataset, axes: Mapping[str, Sequence | np.ndarray]) -> xr.Dataset:
    """A dataset whose dimension `point` is replaced by the axes that the points are the product of.

    Args:
      dataset: variables with or without the dimension `point`.
      axes: name and coordinates of each axis, the last one varying fastest.

    Raises:
      ValueError: the axes do not multiply up to the number of points.

    >>> dataset = xr.Dataset({"y": ("point", [1, 2, 3, 4, 5, 6])})
    >>> spread(dataset, {"rate": [0.1, 0.2], "seed": range(3)}).y.values
    array([[1, 2, 3],
           [4, 5, 6]])
    """
    sizes = {name: len(values) for name, values in axes.items()}
    if math.prod(sizes.values()) != dataset.sizes["point"]:
        raise ValueError(f"axes {sizes} for {dataset.sizes['point']} points.")

    def reshaped(variable: xr.Variable) -> xr.Variable:
        if "point" not in variable.dims:
            return variable
        variable = variable.transpose("point", ...)
        values = variable.values.reshape((*sizes.values(), *variable.shape[1:]))
        return xr.Variable((*sizes, *variable.dims[1:]), values, variable.attrs)

    variables = {name: reshaped(variable) for name, variable in dataset.variables.items()}
    variables |= {name: (name, list(values), {"units": "1"}) for name, values in axes.items()}
    return xr.Dataset(variables, attrs=dataset.attrs).set_coords([*dataset.coords, *axes])
