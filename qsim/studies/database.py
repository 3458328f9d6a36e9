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

import contextlib
import datetime
import gc
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsim.numbers.records import printable
from qsim.studies import tables
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
from qsim.studies.row import blob_of, row_of, sealed
from qsim.studies.tables import BESIDE, Stored
from qsim.sweeps.store import prepare

__all__ = ["FILES", "Database"]

RESULTS, REBUILT, CORRUPT = "results.sqlite", "results.rebuilt.sqlite", "results.corrupt-"
FILES = (MANIFEST, RESULTS, f"{RESULTS}-wal")  # those that are written to


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

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, write: bool):
        """See ``create`` and ``open``."""
        self.folder, self.manifest = folder, dict(manifest)
        self.repaired: list[str] = []
        self._path, self._write = folder / RESULTS, write
        if write and (reason := tables.damage(self._path)):
            self.repaired.append(_rebuild(folder, reason))
        self._connection = (
            tables.connect(self._path, "rw") if write else tables.readable(self._path)
        )
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._connection.close)

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
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(folder))
            stored, plain = read_manifest(folder), json.loads(json.dumps(manifest))
            if found := [] if stored is None else list(differences(stored, plain)):
                raise ValueError(
                    f"{folder} holds another study: {'; '.join(found[:3])}; choose another folder"
                )
            if stored is None:
                if not tables.is_empty(folder / RESULTS):
                    raise ValueError(
                        f"{folder} has results but no {MANIFEST}, which says of what: restore that "
                        "file, or choose another folder"
                    )
                tables.create(folder / RESULTS)
                write_manifest(folder, plain)
            return cls._open(folder, plain, stack)

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
            OSError: if it can be read, but not repaired.
        """
        if (manifest := read_manifest(folder)) is None:
            raise ValueError(f"{folder} holds no study: it has no {MANIFEST}")
        if not write:
            return cls(folder, manifest, write=False)
        prepare(folder)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(folder))
            return cls._open(folder, manifest, stack)

    @classmethod
    def _open(
        cls, folder: Path, manifest: Mapping[str, Any], stack: contextlib.ExitStack
    ) -> "Database":
        """The folder open for writing, without damaged rows; a stack has its lock."""
        made = cls(folder, manifest, write=True)
        stack.callback(made._connection.close)
        made._set_aside()
        made._closing = stack.pop_all()
        return made

    @staticmethod
    def discard(folder: Path) -> None:
        """Deletes the study of a folder, if there is one, and nothing else.

        Raises:
            ValueError: if another process writes to it.
        """
        if (folder / MANIFEST).exists():
            with locked(folder):
                ours = [folder / f"{RESULTS}{end}" for end in BESIDE]
                for path in [*ours, *folder.glob(f"{CORRUPT}*"), folder / MANIFEST]:
                    path.unlink(missing_ok=True)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it; another process may write then."""
        self._closing.close()

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
        with _transaction(self._connection, self._path):
            _know(self._connection, digest, record)
            for result in results:
                tables.insert(self._connection, row_of(result, digest), blob_of(result))

    def keys(self) -> list[str]:
        """The keys of all results, in the order in which they were written."""
        return [result.key for result in self.results()]

    def results(self, examples: bool = False) -> list[Result]:
        """All results that are as they were written, in that order.

        Args:
            examples: whether with the sums over each example, where they are stored.
        """
        with _uncollected():
            found = [each.result for each in tables.stored(self._connection, examples)]
        return [result for result in found if result is not None]

    def examples(self, key: str) -> dict[str, np.ndarray]:
        """The sums over each example of a result, float32 ``[examples]`` by name of the measure.

        Raises:
            ValueError: if there is no such result, or its examples are damaged.
        """
        for each in tables.stored(self._connection, True):
            if each.row.key == key.encode() and each.result is not None:
                return dict(each.result.examples)
        raise ValueError(f"{self.folder} has no result {key} that is as it was written")

    def conditions(self) -> list[dict[str, str]]:
        """The distinct conditions of the results, in the order in which they were met."""
        known = tables.records(self._connection)
        return [json.loads(known[each]) for each in tables.used(self._connection) if each in known]

    def quarantined(self) -> list[str]:
        """What has been set aside since the study began, or would be now, a line for each."""
        try:
            query = "SELECT what, reason FROM quarantine"
            before = [
                printable(b": ".join(found).decode()) for found in self._connection.execute(query)
            ]
        except (sqlite3.Error, ValueError, TypeError):
            before = []
        return before + [": ".join(_said(each)) for each in self._bad()]

    def _require_writable(self) -> None:
        if not self._write:
            raise ValueError(
                f"{self.folder} is open for reading: Database.open(folder, write=True)"
            )

    def _bad(self) -> list[Stored]:
        """The rows that are not as they were written, or whose conditions are not."""
        known = {digest.encode() for digest in tables.records(self._connection)}
        found = []
        for each in tables.stored(self._connection, True):
            if each.result is None:
                found.append(each)
            elif each.row.conditions not in known:
                found.append(each._replace(reason="what it depends on is damaged"))
        return found

    def _set_aside(self) -> None:
        """Moves damaged rows away."""
        bad = self._bad()
        with _transaction(self._connection, self._path):
            for each in bad:
                self._connection.execute("INSERT INTO quarantine VALUES (?, ?)", _said(each))
                self._connection.execute("DELETE FROM results WHERE number = ?", (each.number,))
        self.repaired += [": ".join(_said(each)) for each in bad]


def _said(each: Stored) -> tuple[str, str]:
    """What was damaged, and how."""
    key = each.row.key if isinstance(each.row.key, bytes) else b""
    return printable(key[:200].decode(errors="replace")), printable(each.reason)


def _know(connection: sqlite3.Connection, digest: str, record: str) -> None:
    connection.execute("INSERT OR IGNORE INTO conditions VALUES (?, ?)", (digest, record))


def _rebuild(folder: Path, reason: str) -> str:
    """Puts what can be read of a damaged file into a new one; a line that says so.

    The damaged one is kept under another name. Wherever this is stopped, it can begin again.
    """
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    path, new, aside = folder / RESULTS, folder / REBUILT, folder / f"{CORRUPT}{now}.sqlite"
    try:
        for end in BESIDE[:2]:
            if require_plain(beside := path.with_name(path.name + end)):
                shutil.copy2(beside, aside.with_name(aside.name + end))
        for end in BESIDE:
            new.with_name(new.name + end).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(aside, error) from error
    tables.create(new)
    kept, known = _salvaged(aside)
    line = f"{reason}; {len(kept)} results could be read"
    closing = contextlib.closing(tables.connect(new, "rw"))
    with closing as connection, _transaction(connection, new):
        for each in kept:
            digest = each.row.conditions.decode()
            _know(connection, digest, known[digest])
            tables.insert(connection, each.row, each.blob)
        connection.execute("INSERT INTO quarantine VALUES (?, ?)", (aside.name, line))
    for end in BESIDE[1:]:
        path.with_name(path.name + end).unlink(missing_ok=True)  # these would be read into the new
    new.replace(path)
    return f"{aside.name}: {line}"


def _salvaged(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """The rows of a damaged file that are as they were written, and records of conditions."""
    try:
        with contextlib.closing(tables.connect(path, "rw")) as connection:
            known = tables.records(connection)
            rows = [each for each in tables.stored(connection, True) if each.result is not None]
            return [each for each in rows if each.row.conditions.decode() in known], known
    except (sqlite3.Error, UnicodeDecodeError):
        return [], {}


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """A transaction, of which all or nothing is written.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
    except sqlite3.Error as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A context without searches for cycles, which take long among many objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
