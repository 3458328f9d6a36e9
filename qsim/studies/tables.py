"""The SQLite file of a study's results: its tables, connections to it, and what can be read of it.

Nothing in the file is trusted: texts come as bytes, cells are bounded, and every row is checked.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from qsim.studies.manifest import require_plain, unwritable
from qsim.studies.result import Result
from qsim.studies.row import Row, examples_of, result_of, sealed

__all__ = [
    "BESIDE",
    "Stored",
    "connect",
    "create",
    "damage",
    "insert",
    "is_empty",
    "readable",
    "records",
    "stored",
    "used",
]

BESIDE = ("", "-wal", "-shm")  # the files of a database
TABLES = {
    "conditions": "digest TEXT PRIMARY KEY, record TEXT NOT NULL",
    "quarantine": "what TEXT NOT NULL, reason TEXT NOT NULL",
    "results": "number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, record TEXT NOT NULL, "
    "conditions TEXT NOT NULL, checksum BLOB NOT NULL, examples BLOB NOT NULL",
}
# SQLite quotes what it finds in damaged files, and Python cannot always decode that
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError)
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
ROW = "number, key, record, conditions, checksum"
MAX_CELL = 2**27  # bytes
WAIT = 10.0  # seconds for others, before a file is given up as busy
MAX_ERRORS = 1000  # places that cannot be read, before the rest is given up


# --- connections ----------------------------------------------------------------------------


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection; the mode is one of SQLite's, ``ro``, ``rw`` or ``rwc``."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT)
    with contextlib.ExitStack() as failed:
        failed.callback(connection.close)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
        connection.text_factory = bytes
        for setting in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
            connection.execute(f"PRAGMA {setting}")
        failed.pop_all()
    return connection


def readable(path: Path) -> sqlite3.Connection:
    """A connection for reading, which changes nothing, also where nothing can be changed.

    Raises:
        ValueError: if it cannot be read at all.
    """
    last: Exception | None = None
    for mode in ("ro", "ro&immutable=1"):
        try:
            if not require_plain(path):
                raise ValueError(f"cannot read {path}: there is no such file")
            connection = connect(path, mode)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return connection
        except UNREADABLE as error:
            last = error
    raise ValueError(f"cannot read {path} ({last}): qsim resume repairs it") from last


def create(path: Path) -> None:
    """Makes a database without results, where there is none.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        with contextlib.closing(connect(path, "rwc")) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for name, columns in TABLES.items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) STRICT")
    except sqlite3.Error as error:
        raise unwritable(path, error) from error


def insert(connection: sqlite3.Connection, row: Row, blob: bytes) -> None:
    """Writes a row and its examples, in place of those of the same key."""
    texts = [text.decode() for text in row[:3]]
    query = f"INSERT OR REPLACE INTO results ({ROW}, examples) VALUES (NULL, ?, ?, ?, ?, ?)"
    connection.execute(query, (*texts, row.checksum, blob))


# --- what is there --------------------------------------------------------------------------


class Stored(NamedTuple):
    """A row of a file.

    Attributes:
        number: its own.
        row, blob: what is stored; the latter is empty unless examples were asked for.
        result: the result, None if the row is not as it was written.
        reason: why there is none.
    """

    number: int
    row: Row
    blob: bytes
    result: Result | None
    reason: str


def stored(connection: sqlite3.Connection, examples: bool) -> Iterator[Stored]:
    """The rows that can be read, in the order in which they were written.

    Args:
        connection: to the file.
        examples: whether with the sums over each example.
    """
    for number, *cells in _selected(connection, f"{ROW}, examples" if examples else ROW):
        row, blob = Row(*cells[:4]), cells[4] if examples else b""
        try:
            result = result_of(row)
            if examples and (own := examples_of(row, blob)):
                result = replace(result, examples=own)
            yield Stored(number, row, blob, result, "")
        except ValueError as error:
            yield Stored(number, row, blob, None, str(error))


def records(connection: sqlite3.Connection) -> dict[str, str]:
    """The records of conditions that are as they were written, by their digests."""
    found = {}
    with contextlib.suppress(*UNREADABLE, TypeError, ValueError, RecursionError):
        for digest, record in connection.execute("SELECT digest, record FROM conditions"):
            if sealed(record).hex() == digest.decode() and _is_of_texts(json.loads(record)):
                found[digest.decode()] = record.decode()
    return found


def _is_of_texts(record: object) -> bool:
    """Whether a value has texts by name, which can be printed."""
    texts = [*record, *record.values()] if isinstance(record, dict) else [record]
    return all(isinstance(text, str) and text.isprintable() for text in texts)


def used(connection: sqlite3.Connection) -> list[str]:
    """The digests of the conditions of results, in the order in which they were met."""
    query = "SELECT conditions FROM results GROUP BY conditions ORDER BY min(number)"
    with contextlib.suppress(*UNREADABLE):
        return [digest.decode() for (digest,) in connection.execute(query)]
    return []


def _selected(connection: sqlite3.Connection, columns: str) -> Iterator[tuple]:
    """Rows in the order of their numbers; those that SQLite cannot read are skipped."""
    last = errors = 0
    while errors < MAX_ERRORS:
        try:
            query = f"SELECT {columns} FROM results WHERE number > ? ORDER BY number"
            for row in connection.execute(query, (last,)):
                last = row[0]
                yield row
            return
        except UNREADABLE:
            last, errors = last + 1, errors + 1


def is_empty(path: Path) -> bool:
    """Whether a file is not there, or a database without results."""
    if not require_plain(path) or not path.stat().st_size:
        return True
    if damage(path) not in ("", NO_TABLES):
        return False
    with contextlib.closing(connect(path, "ro")) as connection:
        return next(stored(connection, False), None) is None


NO_TABLES = "it has no tables"


def damage(path: Path) -> str:
    """What makes a file no whole database of ours; empty if it is one.

    Raises:
        OSError: if that cannot be found out.
    """
    if not require_plain(path):
        return "the file is missing"
    try:
        with contextlib.closing(connect(path, "rw")) as connection:
            query = "SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
            found = {
                name.decode(): (kind, sql.decode()) for name, kind, sql in connection.execute(query)
            }
            ours = {
                name: (b"table", f"CREATE TABLE {name} ({columns}) STRICT")
                for name, columns in TABLES.items()
            }
            if found != ours:
                return "it has other tables than a study" if found else NO_TABLES
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            return "" if verdict == b"ok" else verdict.decode(errors="replace")
    except sqlite3.DatabaseError as error:
        if (error.sqlite_errorcode & 0xFF) not in DAMAGED:  # busy, full, not permitted ...
            raise unwritable(path, error) from error
        return str(error)
    except (ValueError, AttributeError) as error:
        return str(error)
