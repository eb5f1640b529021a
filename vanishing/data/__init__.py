"""Small data sets as arrays."""

from vanishing.data.datasets import DATASETS, Dataset, Split, load, standardize, synthetic
from vanishing.data.download import fetch
from vanishing.data.readers import (
    DataError,
    read_cifar_binary,
    read_cifar_pickle,
    read_idx,
)

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Split",
    "fetch",
    "load",
    "read_cifar_binary",
    "read_cifar_pickle",
    "read_idx",
    "standardize",
    "synthetic",
]
