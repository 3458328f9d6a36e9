"""A result as a row of a database: texts and bytes, with a checksum over all of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qsim.studies.result import AXES, Result

__all__ = ["Row", "blob_of", "examples_of", "result_of", "row_of", "sealed"]

VERSION = b"qsim study 1"  # part of every checksum
MAX_TEXT = 2**20  # bytes of a key or a record
MAX_BLOB = 2**26
MAX_NAME = 2**12  # letters of a coordinate
KNOWN = frozenset(AXES)
FACTS = frozenset(("bits", "exponent_bits", "mantissa_bits"))
NUMBERS = frozenset((int, float, type(None)))
KINDS = {"facts": dict, "measures": dict, "seconds": float, "batch": int, "error": str}


class Row(NamedTuple):
    """What is stored of a result, but its examples: bytes, as they come from a database."""

    key: bytes
    record: bytes
    conditions: bytes
    checksum: bytes


def row_of(result: Result, conditions: str) -> Row:
    """A result as a row; ``conditions`` is the digest of theirs.

    Raises:
        ValueError: for a result that is larger than can be stored.
    """
    blob = blob_of(result)
    record = {
        "facts": dict(result.facts),
        "measures": {name: float(value) for name, value in result.measures.items()},
        "seconds": float(result.seconds),
        "batch": result.batch,
        "error": result.error,
        "examples": {name: len(sums) for name, sums in result.examples.items()},
        "blob": sealed(blob).hex() if blob else "",
    }
    texts = result.key.encode(), json.dumps(record, separators=(",", ":")).encode()
    if max(map(len, texts)) > MAX_TEXT or len(blob) > MAX_BLOB:
        raise ValueError(
            f"the result of {result.key[:80]} is too large to be stored: {len(texts[1])} bytes and "
            f"{len(blob)} of examples, of at most {MAX_TEXT} and {MAX_BLOB}; examples = false in "
            "the study file leaves the latter out"
        )
    return Row(*texts, conditions.encode(), sealed(*texts, conditions.encode()))


def result_of(row: Row) -> Result:
    """The result of a row, without its examples.

    Raises:
        ValueError: if the row is not as it was written.

    >>> result = Result(point={"format": "e4m3"}, facts={"bits": 8}, measures={"loss": 0.1})
    >>> result_of(row_of(result, "none")).measures
    {'loss': 0.1}
    """
    point, record = _point_and_record(row)
    found: dict[str, Any] = {name: record.get(name) for name in KINDS}
    if not all(type(found[name]) is kind for name, kind in KINDS.items()):
        raise ValueError("its record has values of other kinds")
    if not all(map(_is_coordinate, point, point.values())):
        raise ValueError("its point has axes or values that no study has")
    facts, measures = found["facts"], found["measures"]
    if not (facts.keys() <= FACTS and {*map(type, facts.values())} <= NUMBERS):
        raise ValueError("its facts are none of a format")
    if not ({*map(type, measures.values())} <= {float} and 0 < found["batch"] < 2**31):
        raise ValueError("its measures are no numbers")
    if not found["error"].isprintable():
        raise ValueError("its error is no line of text")
    return Result(point=point, **found)


def _is_coordinate(axis: str, value: object) -> bool:
    if axis == "seed":
        return type(value) is int and 0 <= value < 2**32
    return axis in KNOWN and type(value) is str and len(value) <= MAX_NAME and value.isprintable()


def blob_of(result: Result) -> bytes:
    """The examples of a result, one array after the other."""
    return b"".join(np.asarray(sums, "<f4").tobytes() for sums in result.examples.values())


def examples_of(row: Row, blob: bytes) -> dict[str, np.ndarray]:
    """The examples of a row, float32 ``[examples]`` by name.

    Raises:
        ValueError: if they are not as they were written.
    """
    _, record = _point_and_record(row)
    if not {"blob", "examples"} <= record.keys():
        raise ValueError("its record is none")
    if not isinstance(blob, bytes) or record["blob"] != (sealed(blob).hex() if blob else ""):
        raise ValueError("the checksum of its examples is another")
    sums = np.frombuffer(blob, "<f4").astype(np.float32)
    lengths: Mapping[str, int] = record["examples"]
    ends = np.cumsum(list(lengths.values()))
    return dict(zip(lengths, np.split(sums, ends)[: len(ends)], strict=True))


def sealed(*texts: bytes) -> bytes:
    """The checksum of texts: SHA-256, with the length of each, so that none stands for another."""
    lengths = b"%s %s:" % (VERSION, ",".join([str(len(text)) for text in texts]).encode())
    return hashlib.sha256(lengths + b"".join(texts)).digest()


def _point_and_record(row: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    if set(map(type, row)) != {bytes}:
        raise ValueError("it has cells of other kinds")
    if sealed(*row[:3]) != row.checksum:
        raise ValueError("its checksum is another")
    found = json.loads(f"[{row.key.decode()},{row.record.decode()}]")  # in one go, which is faster
    if len(found) != 2 or not all(isinstance(each, dict) for each in found):
        raise ValueError("its record is none")
    return found[0], found[1]
