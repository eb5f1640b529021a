"""Data sets as arrays: digits, MNIST, Fashion-MNIST, CIFAR-10, and synthetic Gaussian inputs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vanishing import _arguments
from vanishing._extras import needs
from vanishing.data.download import fetch
from vanishing.data.readers import DataError, read_cifar_binary, read_cifar_pickle, read_idx

DATA_DIR_VARIABLE = "VANISHING_DATA_DIR"


class Split(NamedTuple):
    """Examples and their labels."""

    x: Float[np.ndarray, "examples height width channels"]  # pixels, 0 to 1 as loaded
    y: Int[np.ndarray, " examples"]  # labels, 0 to classes - 1


class Dataset(NamedTuple):
    """A data set for classification, as host arrays (float32 and int32)."""

    train: Split
    test: Split
    classes: int


class _Published(NamedTuple):
    """Contents of a data set's published files, against which a file is checked."""

    folders: tuple[str, ...]  # where the files may lie below the data folder
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]


# Counted in the published label files; Fashion-MNIST and CIFAR-10 are balanced by construction.
_MNIST = _Published(
    ("mnist", "MNIST/raw", "."),
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
)
_FASHION_MNIST = _Published(("fashion_mnist", "FashionMNIST/raw", "."), (6000,) * 10, (1000,) * 10)
_CIFAR10 = _Published(
    ("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py", "."), (5000,) * 10, (1000,) * 10
)


def digits(data_dir: Path | None = None, subset: bool = False) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn.

    They have no official split: a fixed permutation gives 1,437 examples to train and 360 to test.

    Reference: Alpaydin & Kaynak, Optical recognition of handwritten digits, UCI repository, 1998
    (its test part).
    """
    del data_dir, subset  # nothing to find, and nothing missing
    with needs("experiments"):
        from sklearn.datasets import load_digits

    images, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(labels))
    x = (images[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    y = labels[order].astype(np.int32)
    cut = len(y) * 4 // 5
    return Dataset(Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:]), classes=10)


def mnist(data_dir: Path | None = None, subset: bool = False) -> Dataset:
    """MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels; see `load`."""
    return _idx_dataset("mnist", _MNIST, data_dir, subset)


def fashion_mnist(data_dir: Path | None = None, subset: bool = False) -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes of 28 x 28 pixels; see `load`."""
    return _idx_dataset("fashion_mnist", _FASHION_MNIST, data_dir, subset)


def cifar10(data_dir: Path | None = None, subset: bool = False) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 colour photographs of 32 x 32 pixels; see `load`.

    Both published versions are read: `data_batch_1.bin ...` and the pickled `data_batch_1 ...`.
    """
    folders = _folders("cifar10", _CIFAR10, data_dir)
    binary = any(any(folder.glob("*_batch*.bin")) for folder in folders)
    reader, suffix = (read_cifar_binary, ".bin") if binary else (read_cifar_pickle, "")
    names = [f"data_batch_{i}{suffix}" for i in range(1, 6)]
    if subset:
        names = [name for name in names if _find(folders, name)] or names
    paths = [_require(folders, name) for name in names]
    images, labels = (np.concatenate(arrays) for arrays in zip(*map(reader, paths), strict=True))
    test_path = _require(folders, f"test_batch{suffix}")
    return Dataset(
        _split(images, labels, _CIFAR10.train_per_class, paths[0].parent, subset),
        _split(*reader(test_path), _CIFAR10.test_per_class, test_path, subset),
        classes=10,
    )


# The readers that `load` offers: (folder of the files, accept fewer examples) -> data set.
DATASETS: dict[str, Callable[[Path | None, bool], Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}


@_arguments.checked
def load(name: str, data_dir: str | Path | None = None, subset: bool = False) -> Dataset:
    """A data set by name.

    Args:
      name: one of `DATASETS`.
      data_dir: the folder with the published files (or with a folder of the set's name that holds
        them), compressed or not. None stands for the environment variable VANISHING_DATA_DIR, and
        where that is unset the files are downloaded once, checked, and kept in the user's cache.
      subset: accept files that hold fewer examples than the published ones.

    Returns:
      The data set, with pixels from 0 to 1.

    Raises:
      ValueError: the name is not on offer.
      DataError: a file is missing, damaged, or not the published one, in one line that names it.

    >>> digits = load("digits")
    >>> digits.train.x.shape, digits.test.x.shape, digits.classes
    ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    _arguments.one_of("data", name, DATASETS)
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    return DATASETS[name](Path(folder).expanduser() if folder else None, subset)


@_arguments.checked
def standardize(dataset: Dataset) -> Dataset:
    """Shift and scale all pixels so that the training pixels have mean 0 and variance 1.

    Pixels that are all the same become 0.
    """
    mean, std = dataset.train.x.mean(dtype=np.float64), dataset.train.x.std(dtype=np.float64) or 1

    def apply(split: Split) -> Split:
        return split._replace(x=((split.x - mean) / std).astype(np.float32))

    return dataset._replace(train=apply(dataset.train), test=apply(dataset.test))


@_arguments.checked
def synthetic(
    examples: int, features: int, classes: int = 10, q: float = 1.0, seed: int = 0
) -> Dataset:
    """Gaussian inputs of any width with random labels, for theory: there is nothing to learn.

    Args:
      examples: of the training split and of the test split; at least 1.
      features: width of an input; at least 1. `x` has shape (examples, 1, 1, features).
      classes: labels are uniform on 0 to classes - 1; at least 1.
      q: mean square of the inputs; at least 0.
      seed: of NumPy's generator.

    Raises:
      ValueError: an argument is out of range.
    """
    _arguments.fits_in_memory("examples", examples, 8 * features + 8)  # of two splits
    generator = np.random.default_rng(seed)

    def split() -> Split:
        x = generator.standard_normal((examples, 1, 1, features), dtype=np.float32)
        return Split(
            np.float32(np.sqrt(q)) * x, generator.integers(classes, size=examples, dtype=np.int32)
        )

    return Dataset(split(), split(), classes)


def _idx_dataset(name: str, published: _Published, data_dir: Path | None, subset: bool) -> Dataset:
    folders = _folders(name, published, data_dir)

    def split(prefix: str, per_class: tuple[int, ...]) -> Split:
        images_path, labels_path = (
            _require(folders, f"{prefix}-{kind}-ubyte.gz", f"{prefix}-{kind}-ubyte")
            for kind in ("images-idx3", "labels-idx1")
        )
        images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
        if images.shape[1:] != (28, 28):
            raise DataError(
                f"{images_path} holds images of {images.shape[1:]} pixels; expected (28, 28)."
            )
        if len(images) != len(labels):
            raise DataError(
                f"{labels_path} holds {len(labels)} labels, but {images_path} {len(images)} "
                "images; they are not of one set."
            )
        return _split(images[..., None], labels, per_class, labels_path, subset)

    return Dataset(
        split("train", published.train_per_class), split("t10k", published.test_per_class), 10
    )


def _folders(name: str, published: _Published, data_dir: Path | None) -> list[Path]:
    if data_dir is None:
        data_dir = fetch(name)
    if not data_dir.is_dir():
        raise DataError(f"data_dir {data_dir} is no folder; expected one with the {name} files.")
    inside = [data_dir / folder for folder in published.folders]
    return [folder for folder in inside if folder.is_dir()]


def _find(folders: list[Path], *names: str) -> Path | None:
    places = (folder / name for folder in folders for name in names)
    return next((path for path in places if path.exists()), None)


def _require(folders: list[Path], *names: str) -> Path:
    path = _find(folders, *names)
    if path is None:
        places = " or ".join(str(folder) for folder in folders)
        raise DataError(f"{' or '.join(names)} is missing; expected it in {places}.")
    return path


def _split(
    images: UInt8[np.ndarray, "examples height width channels"],
    labels: UInt8[np.ndarray, " examples"],
    per_class: tuple[int, ...],
    path: Path,
    subset: bool,
) -> Split:
    if labels.max(initial=0) >= len(per_class):
        raise DataError(
            f"{path} holds the label {labels.max()}; expected 0 to {len(per_class) - 1}."
        )
    counts, expected = np.bincount(labels, minlength=len(per_class)), np.array(per_class)
    if subset and len(labels) > 0 and np.all(counts <= expected):
        return _as_split(images, labels)
    if len(labels) != expected.sum():
        raise DataError(
            f"{path} holds {len(labels)} records; expected the published {expected.sum()}"
            + ("." if subset else " (--subset accepts fewer).")
        )
    if np.any(counts != expected):
        worst = int(np.argmax(counts != expected))
        raise DataError(
            f"{path} holds {counts[worst]} records of class {worst}, but the published file "
            f"{expected[worst]}; it belongs to another data set."
        )
    return _as_split(images, labels)


def _as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split((images / np.float32(255)).astype(np.float32), labels.astype(np.int32))
