"""The folder of a study: a manifest, and results in an SQLite database, a durable row for each.

::

    manifest.json                  what the study is
    results.sqlite                 its results
    results.corrupt-TIME.sqlite    damaged ones, of which what can be read was copied
    lock                           says which process writes, see ``lock``

One process writes, any number may read meanwhile. What ``add`` returned from is there after a crash
of the process or of the machine. Every row has a checksum: it is either as it was written or set
aside, in which case its evaluation is run again.
"""

import datetime
import gc
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qsim.studies.lock import locked
from qsim.studies.manifest import (
    MANIFEST,
    differences,
    read_manifest,
    require_plain,
    unwritable,
    write_manifest,
)
from qsim.studies.result import Result
from qsim.studies.row import Row, blob_of, examples_of, result_of, row_of, sealed
from qsim.sweeps.store import prepare

__all__ = ["FILES", "Database"]

RESULTS, CORRUPT = "results.sqlite", "results.corrupt-"
BESIDE = ("", "-wal", "-shm")  # the files of a database
FILES = (MANIFEST, RESULTS, f"{RESULTS}-wal")  # those that are written to
TABLES = {
    "conditions": "digest TEXT PRIMARY KEY, record TEXT NOT NULL",
    "quarantine": "what TEXT NOT NULL, reason TEXT NOT NULL",
    "results": "number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, record TEXT NOT NULL, "
    "conditions TEXT NOT NULL, checksum BLOB NOT NULL, examples BLOB NOT NULL",
}
# SQLite quotes what it finds in damaged files, and Python cannot always decode that
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError)
ROW = "number, key, record, conditions, checksum"
MAX_CELL = 2**27  # bytes
MAX_ERRORS = 1000  # places that cannot be read, before the rest is given up


class Database:
    """The folder of a study, open; a context that closes it.

    Attributes:
        folder: the folder.
        manifest: what the study is, a table of values that JSON has.
        repaired: what was set aside when it was opened for writing, a line for each.

    >>> from tempfile import TemporaryDirectory
    >>> result = Result(point={"format": "e4m3"}, facts={"bits": 8}, measures={"loss": 0.5})
    >>> with TemporaryDirectory() as folder:
    ...     with Database.create(Path(folder), {"name": "floats"}) as database:
    ...         database.add([result], {"jaxlib": "0.10.2"})
    ...     with Database.open(Path(folder)) as database:
    ...         print(database.keys(), database.results()[0].measures)
    ['{"format":"e4m3"}'] {'loss': 0.5}
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, write: bool, stack: ExitStack):
        """See ``create`` and ``open``; ``stack`` has what is to be closed."""
        self.folder, self.manifest = folder, dict(manifest)
        self.repaired: list[str] = []
        self._path, self._write, self._stack = folder / RESULTS, write, stack
        self._connection = self._writable() if write else _readable(self._path)
        stack.callback(lambda: self._connection.close())

    @classmethod
    def create(cls, folder: Path, manifest: Mapping[str, Any]) -> "Database":
        """The folder of a study, made if need be, open for writing.

        Args:
            folder: a new folder, or one that holds this study already.
            manifest: what the study is.

        Raises:
            ValueError: if the folder cannot be written to, is being written by another process, or
                holds something else.
            OSError: if the disk is full.
        """
        prepare(folder)
        with ExitStack() as stack:
            stack.enter_context(locked(folder))
            stored, plain = read_manifest(folder), json.loads(json.dumps(manifest))
            if found := [] if stored is None else list(differences(stored, plain)):
                raise ValueError(
                    f"{folder} holds another study: {'; '.join(found[:3])}; choose another folder"
                )
            if stored is None:
                if not _is_empty(folder / RESULTS):  # it is, where a process was killed just here
                    raise ValueError(
                        f"{folder} has results but no {MANIFEST}, which says of what: restore that "
                        "file, or choose another folder"
                    )
                _create(folder / RESULTS)
                write_manifest(folder, plain)
            return cls(folder, plain, write=True, stack=stack.pop_all())

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> "Database":
        """The folder of a study, open.

        Args:
            folder: the folder.
            write: whether to write to it. If not, nothing in it is changed, and another process may
                write to it meanwhile.

        Raises:
            ValueError: if the folder holds no study, cannot be read, or cannot be written to where
                it should be.
        """
        with ExitStack() as stack:
            if (manifest := read_manifest(folder)) is None:
                raise ValueError(f"{folder} holds no study: it has no {MANIFEST}")
            if write:
                prepare(folder)
                stack.enter_context(locked(folder))
            return cls(folder, manifest, write=write, stack=stack.pop_all())

    @staticmethod
    def discard(folder: Path) -> None:
        """Deletes the study of a folder, if there is one, and nothing else.

        Raises:
            ValueError: if another process writes to it.
        """
        if (folder / MANIFEST).exists():
            with locked(folder):
                ours = [folder / MANIFEST, *(folder / f"{RESULTS}{end}" for end in BESIDE)]
                for path in [*ours, *folder.glob(f"{CORRUPT}*")]:
                    path.unlink(missing_ok=True)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it; another process may write then."""
        self._stack.close()

    def describe(self, manifest: Mapping[str, Any]) -> None:
        """Stores another manifest in place of what there is.

        Raises:
            OSError: if it cannot be written.
        """
        self._require_writable()
        self.manifest = json.loads(json.dumps(manifest))
        write_manifest(self.folder, self.manifest)

    def add(self, results: Sequence[Result], conditions: Mapping[str, str]) -> None:
        """Stores results, in place of earlier ones of the same keys: all of them, or none.

        They are durable when this returns.

        Args:
            results: the results.
            conditions: what they depend on besides the study.

        Raises:
            ValueError: for what is larger than can be stored, or a folder open for reading.
            OSError: if they cannot be written; those that were written before are intact.
        """
        self._require_writable()
        record = json.dumps(dict(conditions), sort_keys=True)
        digest = sealed(record.encode()).hex()
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO conditions VALUES (?, ?)", (digest, record))
            for result in results:
                _insert(connection, row_of(result, digest), blob_of(result))

    def keys(self) -> list[str]:
        """The keys of all results, in the order in which they were written."""
        return [result.key for result in self.results()]

    def results(self, examples: bool = False) -> list[Result]:
        """All results that are as they were written, in that order.

        Args:
            examples: whether with the sums over each example, where they are stored.
        """
        with _uncollected():
            return self._results(examples)

    def _results(self, examples: bool) -> list[Result]:
        found = []
        for number, row in _rows(self._connection):
            try:
                result = result_of(row)
                own = examples_of(row, self._blob(number)) if examples else {}
                found.append(replace(result, examples=own) if own else result)
            except (ValueError, sqlite3.Error):
                continue  # it is told by ``quarantined``, and set aside by who writes
        return found

    def examples(self, key: str) -> dict[str, np.ndarray]:
        """The sums over each example of a result, float32 ``[examples]`` by name of the measure.

        Raises:
            ValueError: if there is no such result, or its examples are damaged.
        """
        query = f"SELECT {ROW} FROM results WHERE key = ?"
        found = self._connection.execute(query, (key,)).fetchone()
        if found is None:
            raise ValueError(f"{self.folder} has no result {key}")
        return examples_of(Row(*found[1:]), self._blob(found[0]))

    def conditions(self) -> list[dict[str, str]]:
        """The distinct conditions of the results, in the order in which they were met."""
        query = """SELECT record FROM conditions WHERE digest IN (SELECT conditions FROM results)
            ORDER BY rowid"""
        try:
            return [json.loads(record) for (record,) in self._connection.execute(query)]
        except (sqlite3.Error, ValueError):
            return []

    def quarantined(self) -> list[str]:
        """What has been set aside since the study began, or would be now, a line for each."""
        try:
            query = "SELECT what, reason FROM quarantine"
            before = [b": ".join(found).decode() for found in self._connection.execute(query)]
        except (sqlite3.Error, ValueError, TypeError):
            before = []
        return before + [line for _, line in self._bad()]

    def _require_writable(self) -> None:
        if not self._write:
            raise ValueError(
                f"{self.folder} is open for reading: Database.open(folder, write=True)"
            )

    def _blob(self, number: int) -> bytes:
        query = "SELECT examples FROM results WHERE number = ?"
        return self._connection.execute(query, (number,)).fetchone()[0]

    def _bad(self) -> list[tuple[int, str]]:
        """The numbers of rows that are not as they were written, and why."""
        found = []
        for number, row in _rows(self._connection):
            try:
                result_of(row)
                examples_of(row, self._blob(number))
            except (ValueError, sqlite3.Error) as error:
                what = row.key[:200].decode(errors="replace") if isinstance(row.key, bytes) else ""
                found.append((number, f"{what}: {error}"))
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, of which all or nothing is written.

        Raises:
            OSError: if it cannot be written.
        """
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
        except sqlite3.Error as error:
            raise unwritable(self._path, error) from error

    # --- what is damaged --------------------------------------------------------------------

    def _writable(self) -> sqlite3.Connection:
        """A connection for writing, after what is damaged has been set aside."""
        if reason := _damage(self._path):
            self._rebuild(reason)
        self._connection = _connect(self._path, "rw")
        bad = self._bad()
        with self._transaction() as connection:
            for number, line in bad:
                what, _, reason = line.rpartition(": ")
                connection.execute("INSERT INTO quarantine VALUES (?, ?)", (what, reason))
                connection.execute("DELETE FROM results WHERE number = ?", (number,))
        self.repaired += [line for _, line in bad]
        return self._connection

    def _rebuild(self, reason: str) -> None:
        """A new file with what can be read of a damaged one, which is kept under another name."""
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        aside = self.folder / f"{CORRUPT}{now}.sqlite"
        for end in BESIDE[:2]:
            beside = self._path.with_name(self._path.name + end)
            if require_plain(beside):
                beside.replace(aside.with_name(aside.name + end))
        for path in self.folder.glob(f"{RESULTS}-*"):
            path.unlink()
        _create(self._path)
        self._connection = _connect(self._path, "rw")
        kept = _salvaged(aside)
        line = f"{reason}; {len(kept)} results could be read"
        with self._transaction() as connection:
            for row, blob, conditions in kept:
                digest = row.conditions.decode()
                connection.execute(
                    "INSERT OR IGNORE INTO conditions VALUES (?, ?)", (digest, conditions)
                )
                _insert(connection, row, blob)
            connection.execute("INSERT INTO quarantine VALUES (?, ?)", (aside.name, line))
        self._connection.close()
        self.repaired.append(f"{aside.name}: {line}")


@contextmanager
def _uncollected() -> Iterator[None]:
    """A context without searches for cycles, which take long among many objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _insert(connection: sqlite3.Connection, row: Row, blob: bytes) -> None:
    texts = [text.decode() for text in row[:3]]
    query = f"INSERT OR REPLACE INTO results ({ROW}, examples) VALUES (NULL, ?, ?, ?, ?, ?)"
    connection.execute(query, (*texts, row.checksum, blob))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that trusts nothing: texts come as bytes, and cells are bounded."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
    connection.text_factory = bytes
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _readable(path: Path) -> sqlite3.Connection:
    """A connection for reading, which changes nothing, also where nothing can be changed.

    Raises:
        ValueError: if it cannot be read at all.
    """
    last: Exception | None = None
    for mode in ("ro", "ro&immutable=1"):
        try:
            if not require_plain(path):
                raise ValueError(f"cannot read {path}: there is no such file")
            connection = _connect(path, mode)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return connection
        except UNREADABLE as error:
            last = error
    raise ValueError(f"cannot read {path} ({last}): qsim resume repairs it") from last


def _is_empty(path: Path) -> bool:
    """Whether a file is not there, or a database without results."""
    return not require_plain(path) or (not _damage(path) and not list(_rows(_connect(path, "ro"))))


def _create(path: Path) -> None:
    """A database without results, where there is none.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        connection = _connect(path, "rwc")
        connection.execute("PRAGMA journal_mode = WAL")
        for name, columns in TABLES.items():
            connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) STRICT")
        connection.close()
    except sqlite3.Error as error:
        raise unwritable(path, error) from error


def _damage(path: Path) -> str:
    """What makes a file no whole database of ours; empty if it is one."""
    if not require_plain(path):
        return "the file is missing"
    try:
        connection = _connect(path, "rw")
        try:
            query = "SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
            found = {
                name.decode(): (kind, sql.decode()) for name, kind, sql in connection.execute(query)
            }
            ours = {
                name: (b"table", f"CREATE TABLE {name} ({columns}) STRICT")
                for name, columns in TABLES.items()
            }
            if found != ours:
                return "it has other tables than a study"
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            return "" if verdict == b"ok" else verdict.decode(errors="replace")
        finally:
            connection.close()
    except (sqlite3.DatabaseError, ValueError, AttributeError) as error:
        return str(error)


def _salvaged(path: Path) -> list[tuple[Row, bytes, str]]:
    """The rows of a damaged file that are as they were written, with examples and conditions."""
    kept = []
    try:
        connection = _connect(path, "rw")
    except UNREADABLE:
        return []
    for number, row in _rows(connection):
        try:
            result_of(row)
            query = "SELECT examples FROM results WHERE number = ?"
            blob = connection.execute(query, (number,)).fetchone()[0]
            examples_of(row, blob)
            query = "SELECT record FROM conditions WHERE digest = ?"
            (record,) = connection.execute(query, (row.conditions.decode(),)).fetchone()
            if sealed(record).hex() == row.conditions.decode():
                kept.append((row, blob, record.decode()))
        except (ValueError, TypeError, sqlite3.Error):
            continue
    connection.close()
    return kept


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[int, Row]]:
    """The rows that can be read, in the order of their numbers; those that cannot are skipped."""
    last = errors = 0
    while errors < MAX_ERRORS:
        try:
            query = f"SELECT {ROW} FROM results WHERE number > ? ORDER BY number"
            for number, *texts in connection.execute(query, (last,)):
                last = number
                yield number, Row(*texts)
            return
        except UNREADABLE:
            last, errors = last + 1, errors + 1
