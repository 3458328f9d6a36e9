"""Results on disk: a Parquet file with one row per format, and what it was made with."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qsim.sweeps.scores import MEASURES
from qsim.sweeps.study import Row

__all__ = ["prepare", "read", "write"]

FACTS = {
    "spec": pa.string(),
    "bits": pa.int32(),
    "exponent_bits": pa.int32(),
    "mantissa_bits": pa.int32(),
}
SCHEMA = pa.schema(
    [*FACTS.items(), *((name, pa.float64()) for name in MEASURES), ("seconds", pa.float64())]
)


def prepare(folder: Path) -> Path:
    """The folder, made if need be, and found writable before anything is computed.

    Raises:
        ValueError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror or error}") from error


def write(path: Path, rows: Sequence[Row], setting: dict[str, str]) -> None:
    """Rows as a Parquet file, with the setting in every row, replacing the file as a whole.

    A measure that the subject's score does not have is null.

    Args:
        path: the file.
        rows: one per format.
        setting: what holds for all rows: the subject, modes, versions.
    """
    table = pa.Table.from_pylist([_record(row) for row in rows], schema=SCHEMA)
    for name, value in setting.items():
        table = table.append_column(name, pa.array([value] * len(rows), pa.string()))
    table = table.replace_schema_metadata({"qsim": json.dumps(setting)})
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows and the setting of a file that ``write`` made.

    Raises:
        ValueError: if the file is no such file.
    """
    try:
        table = pq.read_table(path)
        setting = json.loads(table.schema.metadata[b"qsim"])
        return [_row(record) for record in table.to_pylist()], setting
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} holds no results of a sweep: {error}") from error


def _record(row: Row) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in FACTS}
    return {**facts, **row.measures, "seconds": row.seconds}


def _row(record: dict[str, Any]) -> Row:
    facts = {name: record[name] for name in FACTS}
    measures = {name: record[name] for name in MEASURES if record.get(name) is not None}
    return Row(**facts, measures=measures, seconds=record["seconds"])
