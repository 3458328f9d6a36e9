"""Reads the tensors of a CTranslate2 `model.bin`, with every count checked against the file.

The format, all integers little-endian; a string is its length (uint16) and so many bytes, the last
of which is zero:

    uint32 version (6), string specification, uint32 revision
    uint32 count, then for each tensor
        string name, uint8 rank, uint32 dimensions[rank], uint8 type, uint32 bytes, the elements
    uint32 count, then for each alias
        string name, string name of a tensor

Source: the model specification of CTranslate2, `python/ctranslate2/specs/model_spec.py`.
"""

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

VERSION = 6
DTYPES = tuple(np.dtype(code) for code in ("<f4", "i1", "<i2", "<i4", "<f2"))
FILE_LIMIT = 512 << 20  # bytes
RANK_LIMIT = 4


class Model(NamedTuple):
    """The specification's name and revision, and the tensors by name, aliases among them."""

    specification: str
    revision: int
    tensors: dict[str, np.ndarray]


class Bytes:
    """A run of bytes that is read from the front and never past its end."""

    def __init__(self, content: bytes):
        self.rest = memoryview(content)

    def take(self, count: int) -> memoryview:
        """Returns the next `count` bytes."""
        if count > len(self.rest):
            raise ValueError(f"ends {count - len(self.rest)} bytes too early")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def integer(self, code: str) -> int:
        """Returns the next integer: "B", "H" or "I" as in the struct module."""
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        """Returns the next string, without its zero."""
        content = bytes(self.take(self.integer("H")))
        if not content.endswith(b"\0") or not content[:-1].isascii() or b"\0" in content[:-1]:
            raise ValueError(f"{content[:40]!r} is not a string of ASCII that ends in a zero")
        return content[:-1].decode("ascii")


def read(path: Path) -> Model:
    """Returns the model at `path`; the arrays are read-only and keep the file's precision.

    Raises ValueError when the file is not of this format, is cut or has something behind its end,
    or is larger than the limit.
    """
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path.name}: larger than {FILE_LIMIT} bytes")
    try:
        return read_model(Bytes(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_model(file: Bytes) -> Model:
    """Returns the model that `file` holds from its first byte to its last."""
    version = file.integer("I")
    if version != VERSION:
        raise ValueError(f"version {version} of the format, not {VERSION}")
    specification, revision = file.string(), file.integer("I")
    tensors: dict[str, np.ndarray] = {}
    for _ in range(file.integer("I")):  # a count that lies runs into the end of the file
        add(tensors, file.string(), read_tensor(file))
    for _ in range(file.integer("I")):
        name, target = file.string(), file.string()
        if target not in tensors:
            raise ValueError(f"{name!r} stands for {target!r}, which is not there")
        add(tensors, name, tensors[target])
    if len(file.rest):
        raise ValueError(f"{len(file.rest)} bytes follow its end")
    return Model(specification, revision, tensors)


def add(tensors: dict[str, np.ndarray], name: str, tensor: np.ndarray) -> None:
    """Adds a tensor whose name is new."""
    if name in tensors:
        raise ValueError(f"{name!r} is there twice")
    tensors[name] = tensor


def read_tensor(file: Bytes) -> np.ndarray:
    """Returns the next tensor, a view of the file's bytes."""
    rank = file.integer("B")
    if rank > RANK_LIMIT:
        raise ValueError(f"a tensor of {rank} dimensions, more than {RANK_LIMIT}")
    shape = tuple(file.integer("I") for _ in range(rank))
    code, size = file.integer("B"), file.integer("I")
    if code >= len(DTYPES):
        raise ValueError(f"no type of elements has the number {code}")
    if math.prod(shape) * DTYPES[code].itemsize != size:
        raise ValueError(f"{size} bytes for a tensor of {shape} elements, {DTYPES[code]}")
    return np.frombuffer(file.take(size), DTYPES[code]).reshape(shape)
