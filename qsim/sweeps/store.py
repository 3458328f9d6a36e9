"""Files of results: folders that can be written to, tables that say what they were made with."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["prepare", "replaced", "write_table"]


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


def write_table(path: Path, table: pa.Table, setting: dict[str, str]) -> None:
    """A table as a Parquet file, with the setting in every row, replacing the file as a whole."""
    for name, value in setting.items():
        table = table.append_column(name, pa.array([value] * len(table), pa.string()))
    table = table.replace_schema_metadata({"qsim": json.dumps(setting)})
    replaced(path, lambda temporary: pq.write_table(table, temporary))


def replaced(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file under another name, which takes the place of the file when it is whole.

    Raises:
        ValueError: if it cannot be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
