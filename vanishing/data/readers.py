"""Readers of the published files of image data sets: IDX, and CIFAR-10's two versions.

A damaged or wrong file raises a `DataError` of one line that names the file, its content and the
expected one. No reader returns an array that the file does not hold.
"""

import gzip
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vanishing import _arguments

_CIFAR_SHAPE = (3, 32, 32)  # red, green and blue planes, row by row
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a label byte first


class DataError(ValueError):
    """A data file is missing, truncated or not what it should be."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in `.gz`.

    Raises:
      DataError: it cannot be read, or the gzip stream is damaged or cut short.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or no gzip file ({error}); fetch it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


@_arguments.checked
def read_idx(path: Path, axes: int) -> np.ndarray:
    """A uint8 array from an IDX file, compressed or not.

    Args:
      path: the file.
      axes: number of axes that the array must have: 1 for labels, 3 for images.

    Returns:
      The uint8 array, of the shape that the file's header gives.

    Raises:
      DataError: the file cannot be read, is no IDX file of bytes with that many axes, or holds
        more or fewer bytes than its header promises.

    Reference: LeCun, Cortes & Burges, The MNIST database, "the IDX file format".
    """
    content = read_bytes(path)
    expected_magic = bytes([0, 0, 0x08, axes])  # 0x08: unsigned bytes
    if content[:4] != expected_magic:
        raise DataError(
            f"{path} begins with bytes {content[:4].hex(' ') or 'none'}, but an IDX file of uint8 "
            f"with {axes} axes begins with {expected_magic.hex(' ')}; is it another file?"
        )
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{path} ends within its header: {len(content)} of {header} bytes.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    body = content[header:]
    expected = int(np.prod(shape, dtype=object))
    if len(body) != expected:
        raise DataError(
            f"{path} holds {len(body)} bytes after its header, but its shape {shape} takes "
            f"{expected}; it is truncated or damaged."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


@_arguments.checked
def read_cifar_binary(
    path: Path,
) -> tuple[UInt8[np.ndarray, "batch 32 32 3"], UInt8[np.ndarray, " batch"]]:
    """Images and labels of one batch of CIFAR-10's binary version.

    Raises:
      DataError: the file cannot be read, or is not a whole number of 3,073-byte records.

    Reference: Krizhevsky, Learning multiple layers of features from tiny images, 2009; the data
    set's page, "Binary version".
    """
    content = read_bytes(path)
    if not content or len(content) % _CIFAR_RECORD:
        raise DataError(
            f"{path} has {len(content)} bytes, but records of {_CIFAR_RECORD} bytes make a "
            "multiple of that; it is truncated or another file."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    return _channels_last(records[:, 1:]), records[:, 0].copy()


@_arguments.checked
def read_cifar_pickle(
    path: Path,
) -> tuple[UInt8[np.ndarray, "batch 32 32 3"], UInt8[np.ndarray, " batch"]]:
    """Images and labels of one batch of CIFAR-10's python version.

    A pickle is a program; this reader runs none but the few calls that rebuild a NumPy array, and
    refuses a file that asks for any other.

    Raises:
      DataError: the file cannot be read, asks for another call, or is no CIFAR-10 batch.
    """
    content = read_bytes(path)
    try:
        batch = _ArrayUnpickler(content).load()
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can fail in any of the calls it makes
        raise DataError(f"{path} is truncated or no pickle ({error}).") from None

    batch = batch if isinstance(batch, dict) else {}
    images, labels = batch.get(b"data"), batch.get(b"labels")
    pixels = _CIFAR_RECORD - 1
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape[1:] != (pixels,)
        or not isinstance(labels, list)
        or len(labels) != len(images)
        or not all(isinstance(label, int) and 0 <= label < 256 for label in labels)
    ):
        raise DataError(
            f"{path} is no CIFAR-10 batch: expected a dict with b'data', a uint8 array of "
            f"{pixels} columns, and b'labels', a list of as many integers."
        )
    return _channels_last(images), np.array(labels, np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows NumPy arrays and nothing else that can be called."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        for package in ("numpy.core", "numpy._core"):  # NumPy 1's and NumPy 2's
            allowed[f"{package}.multiarray", "_reconstruct"] = np.array(0).__reduce__()[0]
        if (module, name) not in allowed:
            raise DataError(
                f"is not loaded: it asks for {module}.{name}, and a batch of images needs only "
                "NumPy arrays."
            )
        return allowed[module, name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"is not loaded: it asks for the codec {encoding!r}, not latin1.")
    return text.encode("latin1")


def _channels_last(planes: np.ndarray) -> UInt8[np.ndarray, "batch 32 32 3"]:
    return np.ascontiguousarray(planes.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
