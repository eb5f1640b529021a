"""Small data sets and sequence tasks as arrays."""

from vanishing.data.datasets import DATASETS, Dataset, Split, load, standardize, synthetic
from vanishing.data.download import fetch
from vanishing.data.readers import DataError, read_cifar_binary, read_cifar_pickle, read_idx
from vanishing.data.sequences import (
    ADDING_MEMORYLESS,
    TEMPORAL_ORDER_MEMORYLESS,
    Sequences,
    adding,
    by_pixel,
    copy_memory,
    copy_memoryless,
    temporal_order,
)

__all__ = [
    "ADDING_MEMORYLESS",
    "DATASETS",
    "TEMPORAL_ORDER_MEMORYLESS",
    "DataError",
    "Dataset",
    "Sequences",
    "Split",
    "adding",
    "by_pixel",
    "copy_memory",
    "copy_memoryless",
    "fetch",
    "load",
    "read_cifar_binary",
    "read_cifar_pickle",
    "read_idx",
    "standardize",
    "synthetic",
    "temporal_order",
]
