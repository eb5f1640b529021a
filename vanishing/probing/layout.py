"""The layout of a trace: where its rows are, everything about them but the numbers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing.axes import Index
from vanishing.probing.lineage import Flow, Instance, unroll
from vanishing.probing.sites import Site

USED, STOPPED, UNUSED = "used", "without a gradient", "unused"


class LeafPlace(NamedTuple):
    """A parameter leaf: its path, its axes of depth, and whether it reaches the loss."""

    label: str  # its path; "{0}" stands for the index along the first axis of depth
    lengths: tuple[int, ...]  # of its axes of depth
    reach: str  # USED, STOPPED or UNUSED


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the rows of a trace are: everything about them but the numbers."""

    sites: tuple[Site, ...]
    flow: Flow
    leaves: tuple[LeafPlace, ...]
    notes: tuple[str, ...]  # what could not be recorded, and why
    stops: tuple[str, ...] = ()  # "file:line" of each stop_gradient on the way to the loss
    # Does the mark of `summary.unmeasured` stand inside of `jit` for what a trace shows as nan?
    marked: bool = dataclasses.field(default=False, compare=False)

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

    @functools.cached_property
    def param_names(self) -> tuple[str, ...]:
        """The name of each leaf, and of each layer of a leaf with axes of depth."""
        return tuple(
            leaf.label.format(*index) for leaf in self.leaves for index in np.ndindex(leaf.lengths)
        )
