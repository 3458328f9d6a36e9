"""Results on disk: a Parquet file with one row per format, and what it was made with."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qsim.sweeps.study import Row

__all__ = ["prepare", "read", "write"]

SCHEMA = pa.schema(
    [
        ("spec", pa.string()),
        ("bits", pa.int32()),
        ("exponent_bits", pa.int32()),
        ("mantissa_bits", pa.int32()),
        ("loss", pa.float64()),
        ("loss_difference", pa.float64()),
        ("kl", pa.float64()),
        ("top1", pa.float64()),
        ("bits_per_byte", pa.float64()),
        ("seconds", pa.float64()),
    ]
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

    Args:
        path: the file.
        rows: one per format.
        setting: what holds for all rows: the subject, modes, versions.
    """
    columns = {name: [asdict(row)[name] for row in rows] for name in SCHEMA.names}
    table = pa.table(columns, schema=SCHEMA)
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
        return [Row(**row) for row in table.select(SCHEMA.names).to_pylist()], setting
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} holds no results of a sweep: {error}") from error
