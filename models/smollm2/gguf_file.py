"""Reads a GGUF file: facts about a model, and its tensors, some of them in blocks of 32.

    magic "GGUF", version, counts | facts: key, kind, value | tensors: name, shape, kind, offset
    padding | the tensors' elements, each tensor aligned

All numbers are little-endian. Three kinds of tensors are read, those of the one file that is read:

    F32     float32
    Q8_0    32 elements in 34 bytes: float16 d, 32 int8 q; an element is d q
    Q4_1    32 elements in 20 bytes: float16 d and m, 16 bytes; an element is d q + m, where the low
            halves of the bytes are the q of the first 16 elements, the high halves of the others

Every length in the file is held against what is left of it before it is used.

Source: docs/gguf.md of ggml-org/ggml, version 3; `block_q4_1`, `block_q8_0` in its ggml-common.h.
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FILE_LIMIT = 128 << 20  # bytes
COUNT_LIMIT = 1 << 20  # facts, tensors, strings of one array
RANK_LIMIT = 4
NUMBERS = dict(zip(range(8), "BbHhIif?", strict=True)) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Kind(NamedTuple):
    """How elements are stored: `block` of them in `size` bytes."""

    name: str
    block: int
    size: int


KINDS = {0: Kind("F32", 1, 4), 3: Kind("Q4_1", 32, 20), 8: Kind("Q8_0", 32, 34)}


class Tensor(NamedTuple):
    """A tensor as it is stored; blocks run along the last axis of `shape`."""

    kind: Kind
    shape: tuple[int, ...]
    data: memoryview


class Gguf(NamedTuple):
    """What a file holds: facts by key, where an array is a list of strings or of numbers."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


class Cursor:
    """A place in a file that is read from front to back."""

    def __init__(self, data: memoryview):
        self.data, self.place = data, 0

    def take(self, size: int) -> memoryview:
        """Returns the next `size` bytes and moves past them."""
        left = len(self.data) - self.place
        if size > left:
            raise ValueError(f"{size} bytes expected at byte {self.place}, {left} left")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, code: str) -> Any:
        """Returns the next number, of the type that `struct` calls `code`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self) -> int:
        """Returns the next number of things."""
        found = self.number("Q")
        if found > COUNT_LIMIT:
            raise ValueError(f"a count of {found}; at most {COUNT_LIMIT} are read")
        return found

    def string(self) -> str:
        """Returns the next string: its length in bytes, then UTF-8."""
        return str(self.take(self.number("Q")), "utf-8")

    def value(self, kind: int) -> Any:
        """Returns the next value of a fact."""
        match kind:
            case _ if kind in NUMBERS:
                return self.number(NUMBERS[kind])
            case _ if kind == STRING:
                return self.string()
            case _ if kind == ARRAY:
                element, count = self.number("I"), self.count()
                if element == ARRAY:
                    raise ValueError("an array of arrays")
                return [self.value(element) for _ in range(count)]
            case _:
                raise ValueError(f"a value of kind {kind}")


def read(path: Path) -> Gguf:
    """Returns the facts and the tensors of the file at `path`.

    Raises ValueError when it is no GGUF file of version 3, is damaged, exceeds the limits above or
    holds other kinds of tensors.
    """
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path.name}: larger than {FILE_LIMIT} bytes")
    try:
        return parse(memoryview(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def parse(data: memoryview) -> Gguf:
    """Returns the facts and the tensors of a file's content."""
    cursor = Cursor(data)
    if cursor.take(4) != b"GGUF" or cursor.number("I") != 3:
        raise ValueError("not a GGUF file of version 3")
    tensor_count, fact_count = cursor.count(), cursor.count()
    facts = unique((cursor.string(), cursor.value(cursor.number("I"))) for _ in range(fact_count))
    entries = unique((cursor.string(), entry(cursor)) for _ in range(tensor_count))
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"an alignment of {alignment!r}")
    cursor.take(-cursor.place % alignment)
    return Gguf(facts, tensors(entries, data[cursor.place :]))


def unique(pairs) -> dict[str, Any]:
    """Returns the pairs as a dict, and raises ValueError when a name occurs twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = value
    return found


def entry(cursor: Cursor) -> tuple[Kind, tuple[int, ...], int]:
    """Returns (kind, shape, offset) of the next tensor; files name the last axis first."""
    rank = cursor.number("I")
    if rank > RANK_LIMIT:
        raise ValueError(f"a tensor of {rank} axes; at most {RANK_LIMIT} are read")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    kind = KINDS.get(number)
    if kind is None:
        raise ValueError(f"a tensor of kind {number}; known are {sorted(KINDS)}")
    if min(shape, default=0) < 1 or shape[-1] % kind.block:
        raise ValueError(f"shape {shape} does not divide into blocks of {kind.block}")
    return kind, shape, offset


def tensors(entries: dict[str, tuple[Kind, tuple[int, ...], int]], data: memoryview):
    """Returns the tensors whose elements lie in `data`, side by side in any order, by name."""
    found, end = {}, 0
    for name, (kind, shape, offset) in sorted(entries.items(), key=lambda item: item[1][2]):
        size = math.prod(shape) // kind.block * kind.size
        if offset < end or offset + size > len(data):
            raise ValueError(
                f"{name!r}: {size} bytes at {offset}, where {end} to {len(data)} is free"
            )
        found[name] = Tensor(kind, shape, data[offset : offset + size])
        end = offset + size
    return found


def values(tensor: Tensor) -> np.ndarray:
    """Returns the tensor's elements in float32, in its shape."""
    match tensor.kind.name:
        case "F32":
            return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
        case "Q8_0":
            block = np.frombuffer(tensor.data, [("d", "<f2"), ("q", "i1", 32)])
            return (block["d"][:, None].astype(np.float32) * block["q"]).reshape(tensor.shape)
        case _:
            block = np.frombuffer(tensor.data, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
            d, m = (block[name][:, None].astype(np.float32) for name in "dm")
            q = np.concatenate([block["q"] & 15, block["q"] >> 4], axis=1)
            return (d * q + m).reshape(tensor.shape)
