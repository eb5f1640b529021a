import gzip
import pickle
import shutil

import numpy as np
import pytest

from tests.helpers import assert_refuses, real_data
from vanishing import data

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.tobytes()


def write_idx(folder, train, test, size=28, compress=True):
    """Files named as MNIST's, with the given number of examples of each class."""
    folder.mkdir(exist_ok=True)
    for prefix, per_class in (("train", train), ("t10k", test)):
        labels = np.repeat(np.arange(len(per_class), dtype=np.uint8), per_class)
        images = np.zeros((len(labels), size, size), np.uint8)
        images[:, 0, 0] = labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{prefix}-{kind}-ubyte" + ".gz" * compress
            content = gzip.compress(idx(array), 1) if compress else idx(array)
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def mnist_like(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("like"), MNIST_TRAIN, MNIST_TEST)


def refuses(name, folder, *fragments, **more):
    assert_refuses(lambda: data.load(name, folder, **more), *fragments)


def test_digits_are_scikit_learns(key):
    digits = data.load("digits")
    assert np.bincount(np.concatenate([digits.train.y, digits.test.y])).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # the counts on the data set's page at UCI
    assert digits.train.x.dtype == np.float32
    assert digits.train.y.dtype == np.int32
    assert (digits.train.x.min(), digits.train.x.max()) == (0, 1)


def test_digits_are_split_without_overlap():
    digits = data.load("digits")
    images = np.concatenate([digits.train.x, digits.test.x]).reshape(1797, -1)
    assert len(np.unique(images, axis=0)) == 1797
    again = data.load("digits")
    np.testing.assert_array_equal(digits.test.x, again.test.x)


@pytest.mark.parametrize("place", ["in the folder", "in a folder of its name"])
def test_mnist_is_found(mnist_like, tmp_path, place):
    folder = mnist_like
    if place == "in a folder of its name":
        (tmp_path / "mnist").symlink_to(mnist_like)
        folder = tmp_path
    mnist = data.load("mnist", folder)
    assert mnist.train.x.shape == (60_000, 28, 28, 1)
    assert np.bincount(mnist.test.y).tolist() == MNIST_TEST
    # each image belongs to its label
    np.testing.assert_allclose(mnist.train.x[:, 0, 0, 0] * 255, mnist.train.y, rtol=1e-6)


def test_the_environment_names_the_folder(mnist_like, monkeypatch):
    monkeypatch.setenv("VANISHING_DATA_DIR", str(mnist_like))
    assert len(data.load("mnist").train.y) == 60_000


def test_uncompressed_files_and_subsets(tmp_path):
    folder = write_idx(tmp_path / "small", [3] * 10, [2] * 10, compress=False)
    refuses(
        "mnist", folder, "train-labels-idx1-ubyte holds 30 records", "published 60000", "--subset"
    )
    small = data.load("mnist", folder, subset=True)
    assert (len(small.train.y), len(small.test.y)) == (30, 20)


def test_one_data_set_is_not_taken_for_another(mnist_like):
    refuses(
        "fashion_mnist", mnist_like, "holds 5923 records of class 0, but the published file 6000"
    )


def test_wrong_files_are_refused(tmp_path, mnist_like):
    folder = tmp_path / "copy"
    shutil.copytree(mnist_like, folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    refuses(
        "mnist",
        folder,
        "t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte is missing",
        str(folder),
    )
    shutil.copy(folder / "train-labels-idx1-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    refuses("mnist", folder, "holds 60000 labels, but", "10000 images")
    shutil.copy(folder / "train-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    refuses("mnist", folder, "is it another file?")


def test_wrong_images_and_labels_are_refused(tmp_path):
    eleven = write_idx(tmp_path / "eleven", [1] * 11, [1] * 10)
    refuses("mnist", eleven, "holds the label 10; expected 0 to 9", subset=True)
    small = write_idx(tmp_path / "small", [1] * 10, [1] * 10, size=27)
    refuses("mnist", small, "images of (27, 27) pixels; expected (28, 28)", subset=True)
    empty = write_idx(tmp_path / "empty", [0] * 10, [1] * 10)
    refuses("mnist", empty, "holds 0 records", subset=True)


def write_cifar(folder, per_batch, kind="binary"):
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i + 1}" for i in range(len(per_batch) - 1)] + ["test_batch"]
    for name, count in zip(names, per_batch, strict=True):
        labels = np.arange(count) % 10
        pixels = rng.integers(256, size=(count, 3072), dtype=np.uint8)
        if kind == "binary":
            records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            batch = {b"data": pixels, b"labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, 2))
    return folder


def test_both_versions_of_cifar10_are_the_same_data(tmp_path):
    binary, python = (
        data.load("cifar10", write_cifar(tmp_path / kind, [40, 30, 20], kind), subset=True)
        for kind in ("binary", "python")
    )
    assert binary.train.x.shape == (70, 32, 32, 3)
    for binary_split, python_split in zip(binary[:2], python[:2], strict=True):
        np.testing.assert_array_equal(binary_split.x, python_split.x)
        np.testing.assert_array_equal(binary_split.y, python_split.y)


def test_cifar10_must_be_whole_unless_a_subset_is_asked_for(tmp_path):
    folder = write_cifar(tmp_path / "part", [40, 30, 20])
    refuses("cifar10", folder, "data_batch_3.bin is missing")
    short = write_cifar(tmp_path / "short", [10, 10, 10, 10, 10, 10])
    refuses("cifar10", short, "holds 50 records; expected the published 50000")
    (tmp_path / "empty").mkdir()
    refuses("cifar10", tmp_path / "empty", "data_batch_1 is missing", subset=True)


def test_standardize_gives_mean_0_and_variance_1():
    digits = data.load("digits")
    standard = data.standardize(digits)
    assert standard.train.x.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert standard.train.x.var(dtype=np.float64) == pytest.approx(1, rel=1e-6)
    # the test pixels are moved by the training pixels' numbers, not their own
    mean, std = digits.train.x.mean(), digits.train.x.std()
    np.testing.assert_allclose(standard.test.x * std + mean, digits.test.x, atol=1e-6)


def test_synthetic_inputs_have_the_mean_square_asked_for():
    dataset = data.synthetic(2000, 50, classes=4, q=2.5, seed=1)
    assert dataset.train.x.shape == (2000, 1, 1, 50)
    n = dataset.train.x.size
    assert abs(np.mean(dataset.train.x**2) / 2.5 - 1) < 5 * (2 / n) ** 0.5  # five standard errors
    assert set(dataset.train.y) == {0, 1, 2, 3}
    assert not np.array_equal(dataset.train.x, dataset.test.x)
    np.testing.assert_array_equal(dataset.train.x, data.synthetic(2000, 50, 4, 2.5, 1).train.x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load("minst"), "data is 'minst'; it must be one of digits, mnist"),
        (lambda: data.load("mnist", "/no/such"), "data_dir /no/such is no folder"),
        (lambda: data.synthetic(0, 3), "examples is 0; it must be at least 1"),
        (lambda: data.synthetic(1, 3, q=-1.0), "q is -1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_published_files_load():
    folder = real_data()
    mnist = data.load("mnist", folder)
    assert np.bincount(mnist.train.y).tolist() == MNIST_TRAIN
    assert np.bincount(mnist.test.y).tolist() == MNIST_TEST
    refuses("fashion_mnist", folder, "train-images-idx3-ubyte.gz or", "is missing")
    refuses("cifar10", folder, "data_batch_2.bin is missing")
    cifar = data.load("cifar10", folder, subset=True)
    assert (len(cifar.train.y), len(cifar.test.y)) == (9_980, 3_000)
