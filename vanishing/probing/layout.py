"""The layout of a trace: where its rows are, everything about them but the numbers."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vanishing import _text
from vanishing.probing.axes import Index
from vanishing.probing.lineage import Flow, Instance, unroll
from vanishing.probing.sites import Site

USED, STOPPED, UNUSED = "used", "without a gradient", "unused"


class LeafPlace(NamedTuple):
    """A parameter leaf: where it is, what it holds, and whether it reaches the loss."""

    label: str  # its path; "{0}" stands for the index along the first axis of depth
    lengths: tuple[int, ...]  # of its axes of depth
    reach: str  # USED, STOPPED or UNUSED
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Without the axes of depth: the shape of one layer."""
        return self.shape[len(self.lengths) :]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the rows of a trace are: everything about them but the numbers."""

    sites: tuple[Site, ...]
    flow: Flow
    leaves: tuple[LeafPlace, ...]
    notes: tuple[str, ...]  # what could not be recorded, and why
    stops: tuple[str, ...] = ()  # "file:line" of each stop_gradient that cuts a parameter off
    steps: tuple[str, ...] = ()  # "op at file:line" of what has no slope and does the same
    kernels: tuple[str, ...] = ()  # by site: the one parameter that its signal is multiplied with
    suspects: tuple[tuple[str, ...], ...] = ()  # by site, and of the loss: see `between_rows`
    level: str = "layer"  # see `vanishing.probe`
    measured: tuple[str, ...] = ()  # the summaries that were asked for, and "params"
    # Does the mark of `summary.unmeasured` stand inside of `jit` for what a trace shows as nan?
    marked: bool = dataclasses.field(default=False, compare=False)

    def __repr__(self) -> str:
        return f"Layout({_text.count(len(self.names), 'row')})"

    @functools.cached_property
    def instances(self) -> tuple[Instance, ...]:
        """The rows in forward order."""
        return unroll(self.flow)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each row."""
        return tuple(
            self.sites[i.site].label.format(*map(Index, i.indices)) for i in self.instances
        )

    def order(self, starts: Sequence[int]) -> np.ndarray:
        """The place of each row among the rows of all sites, given where each site's rows start."""
        lengths = [site.lengths for site in self.sites]
        return np.array(
            [
                starts[i.site]
                + (np.ravel_multi_index(i.indices, lengths[i.site]) if i.indices else 0)
                for i in self.instances
            ],
            dtype=int,
        )

    def has_measured(self, name: str) -> bool:
        """Was a summary of this name, or "params", asked for?"""
        return name in self.measured or not self.measured

    def kernel(self, row: int) -> str:
        """The name of the one parameter that a row's signal is multiplied with, or ""."""
        instance = self.instances[row]
        kernel = self.kernels[instance.site] if self.kernels else ""
        return kernel.format(*map(Index, instance.indices))

    @functools.cached_property
    def param_leaves(self) -> tuple[int, ...]:
        """The number of the leaf that each parameter is, or is a layer of."""
        lengths = (math.prod(leaf.lengths) for leaf in self.leaves)
        return tuple(leaf for leaf, count in enumerate(lengths) for _ in range(count))

    @functools.cached_property
    def param_names(self) -> tuple[str, ...]:
        """The name of each leaf, and of each layer of a leaf with axes of depth."""
        return tuple(
            leaf.label.format(*index) for leaf in self.leaves for index in np.ndindex(leaf.lengths)
        )
