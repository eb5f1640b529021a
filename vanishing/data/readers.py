"""Readers of the published files of image data sets: IDX, and CIFAR-10's two versions.

A damaged or wrong file raises a `DataError` of one line that names the file, its content and the
expected one. No reader returns an array that the file does not hold.
"""

import gzip
import io
import math
import os
import pickle
import pickletools
import stat
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vanishing import _arguments

_PART = 1 << 20  # bytes that are read at once: memory grows with what is there
_MOST_IMAGES = 50_000  # in one file of CIFAR-10, five times as many as there are
_MOST_PICKLED = _MOST_IMAGES * 4_000  # bytes: an image, and its label, file name and opcodes
_CIFAR_SHAPE = (3, 32, 32)  # red, green and blue planes, row by row
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a label byte first


class DataError(ValueError):
    """A data file is missing, truncated or not what it should be."""


def read_bytes(path: Path, most: int) -> bytes:
    """The first bytes of a file, decompressed if its name ends in `.gz`.

    No more of it is read, whatever the file holds; a caller that must know whether there is more
    asks for one byte more than it expects.

    Args:
      path: the file, or a link to it.
      most: how many bytes to read at most.

    Raises:
      DataError: it cannot be read or is no regular file, such as a pipe, which would be waited for;
        or the gzip stream is damaged or cut short.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # of what a link leads to
            raise DataError(f"{path} cannot be read: it is no regular file.")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            parts, left = [], most
            while left and (part := file.read(min(left, _PART))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
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
    header = 4 + 4 * axes
    content = read_bytes(path, header)
    expected_magic = bytes([0, 0, 0x08, axes])  # 0x08: unsigned bytes
    if content[:4] != expected_magic:
        raise DataError(
            f"{path} begins with bytes {content[:4].hex(' ') or 'none'}, but an IDX file of uint8 "
            f"with {axes} axes begins with {expected_magic.hex(' ')}; is it another file?"
        )
    if len(content) < header:
        raise DataError(f"{path} ends within its header: {len(content)} of {header} bytes.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    expected = math.prod(shape)
    if expected > _arguments.MOST:
        raise DataError(
            f"{path} has a header of the shape {shape}, which takes {expected} bytes; no published "
            f"file has over {_arguments.MOST}: it is damaged."
        )
    body = read_bytes(path, header + expected + 1)[header:]
    if len(body) != expected:
        found = f"{len(body)} bytes" if len(body) < expected else "more bytes"
        raise DataError(
            f"{path} holds {found} after its header, but its shape {shape} takes {expected}; it is "
            "truncated or damaged."
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
    most = _MOST_IMAGES * _CIFAR_RECORD
    content = read_bytes(path, most + 1)
    if len(content) > most:
        raise DataError(f"{path} holds over {_MOST_IMAGES} records; it is no file of CIFAR-10.")
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

    A pickle is a program; this reader runs none but the calls that rebuild an array of unsigned
    bytes, from data that the file holds, and refuses a file that asks for any other.

    Raises:
      DataError: the file cannot be read, asks for another call, or is no CIFAR-10 batch.
    """
    content = read_bytes(path, _MOST_PICKLED + 1)
    if len(content) > _MOST_PICKLED:
        raise DataError(f"{path} holds over {_MOST_PICKLED} bytes; it is no CIFAR-10 batch.")
    try:
        _require_plain(content)
        batch = _ArrayUnpickler(content).load()
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can fail in any of the calls it makes
        raise DataError(f"{path} is truncated or no pickle ({error}).") from None

    batch = batch if isinstance(batch, dict) else {}
    images, labels = batch.get(b"data"), batch.get(b"labels")
    images = images.array if isinstance(images, _Bytes) else None
    pixels = _CIFAR_RECORD - 1
    if (
        images is None
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


def _require_plain(content: bytes) -> None:
    """Refuse what takes memory by a number in the file, not by what the file holds."""
    for opcode, argument, _ in pickletools.genops(content):
        far = "PUT" in opcode.name and int(argument or 0) > len(content)
        if far or opcode.name == "BYTEARRAY8":
            asked = f"{opcode.name} {argument!r:.20}"
            raise DataError(f"is not loaded: no batch of images needs {asked}.")


class _Bytes:
    """Stands for an array of unsigned bytes while it is read; NumPy's own class is never called.

    NumPy's would take memory for any shape and dtype that a file names, with or without data.
    """

    array: np.ndarray | None = None  # None until the file has given the data

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, is_fortran, data = state
        is_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if version != 1 or not is_shape or not isinstance(dtype, _ByteType):
            raise DataError("is not loaded: it holds an array that is not one of unsigned bytes.")
        if not isinstance(data, bytes) or len(data) != math.prod(shape):
            raise DataError(
                f"is not loaded: it holds an array of shape {shape} without as many bytes of data."
            )
        order = "F" if is_fortran else "C"
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order=order)


class _ByteType:
    """Stands for the dtype of unsigned bytes."""

    def __setstate__(self, state: tuple) -> None:
        """Its byte order and the like say nothing of bytes."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Bytes:
    """In the place of the function that makes NumPy's arrays, before they get their data."""
    del shape, code  # both stand in the state, too
    if kind is not _Bytes:
        raise DataError("is not loaded: it asks for a kind of array other than numpy.ndarray.")
    return _Bytes()


def _dtype(name: Any, *flags: Any) -> _ByteType:
    """In the place of `numpy.dtype`."""
    del flags  # whether to align and copy it
    if name not in ("u1", b"u1", "|u1", b"|u1"):
        raise DataError(f"is not loaded: it holds an array of {name!r:.20}, not of unsigned bytes.")
    return _ByteType()


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays of unsigned bytes and nothing else that can be called."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"): _Bytes,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        for package in ("numpy.core", "numpy._core"):  # NumPy 1's and NumPy 2's
            allowed[f"{package}.multiarray", "_reconstruct"] = _reconstruct
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
