"""The folder of a study: what was written is there, whatever happens to process and files."""

import contextlib
import math
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qsim.studies.database import Database
from qsim.studies.lock import writer as writer_of
from qsim.studies.result import Result
from tests.limited import SMALL_FILES, limited
from tests.unchecked import unchecked

CONDITIONS = {"jaxlib": "1", "x64": "False"}
MANIFEST = {"name": "floats", "subject": "m:s", "data": {"digest": "ab"}}
WRITER = """
import sys
from pathlib import Path
from qsim.studies.database import Database
from tests.test_study_database import CONDITIONS, MANIFEST, result
with Database.create(Path(sys.argv[1]), MANIFEST) as database:
    for n in range(len(database.keys()), 100_000):
        database.add([result(n)], CONDITIONS)
        print(n, flush=True)
"""


def result(n: int, **changed) -> Result:
    """A result with something of everything: no numbers, infinities, texts of all kinds."""
    source = np.random.default_rng(n)
    facts = {"bits": 8, "exponent_bits": 4, "mantissa_bits": None}
    measures = {"loss": source.normal(), "kl": [math.nan, math.inf, -0.0, 5e-324][n % 4]}
    examples = {"loss": source.normal(size=7).astype(np.float32), "kl": np.float32([np.nan] * 3)}
    return Result(
        point={"format": f"e4m{n}", "target": '<"\u00e9&\\n', "seed": n},
        facts=facts,
        measures=measures,
        seconds=0.25,
        batch=2,
        error="" if n % 5 else "ValueError: why",
        **{"examples": examples, **changed},
    )


def facts(found: Result) -> tuple:
    """All that a result says, to the last bit."""
    numbers = {name: np.float64(x).tobytes() for name, x in found.measures.items()}
    sums = {name: x.tobytes() for name, x in found.examples.items()}
    own = dict(found.point), dict(found.facts), found.seconds, found.batch, found.error, found.state
    return own, numbers, sums


def written(folder: Path, count: int) -> dict[str, tuple]:
    with Database.create(folder, MANIFEST) as database:
        database.add([result(n) for n in range(count)], CONDITIONS)
    return {each.key: facts(each) for each in map(result, range(count))}


def read(folder: Path) -> dict[str, tuple]:
    with Database.open(folder) as database:
        return {each.key: facts(each) for each in database.results(examples=True)}


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    expected = written(tmp_path, 9)
    assert read(tmp_path) == expected
    with Database.open(tmp_path) as database:
        assert database.keys() == list(expected) and database.manifest == MANIFEST
        assert database.conditions() == [CONDITIONS] and not database.quarantined()
        sums = database.examples(result(3).key)
        assert {k: v.tobytes() for k, v in sums.items()} == expected[result(3).key][2]
        with pytest.raises(ValueError, match="has no result nothing"):
            database.examples("nothing")
        with pytest.raises(ValueError, match="open for reading"):
            database.add([result(0)], CONDITIONS)


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path):
    written(tmp_path, 3)
    with Database.open(tmp_path, write=True) as database:
        database.add([result(1, examples={})], {"jaxlib": "2"})
        assert database.keys() == [result(n).key for n in (0, 2, 1)]
        assert database.conditions() == [CONDITIONS, {"jaxlib": "2"}]
    assert read(tmp_path)[result(1).key] == facts(result(1, examples={}))


def test_nothing_of_a_part_that_cannot_be_written_is_there(tmp_path):
    expected = written(tmp_path, 2)
    broken = result(3, examples={"loss": np.zeros(2**25, np.float32)})
    with Database.open(tmp_path, write=True) as database:
        with pytest.raises(ValueError, match="too large to be stored"):
            database.add([result(2), broken], CONDITIONS)
        assert database.keys() == list(expected)


def test_folders_of_other_studies_are_refused(tmp_path):
    written(tmp_path / "a", 1)
    with pytest.raises(ValueError, match=r"another study: data.digest is 'ab' instead of 'cd'"):
        Database.create(tmp_path / "a", {**MANIFEST, "data": {"digest": "cd"}})
    with pytest.raises(ValueError, match="holds no study"):
        Database.open(tmp_path)
    (tmp_path / "a" / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="is no manifest of a study"):
        Database.open(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="has results but no manifest"):
        Database.create(tmp_path / "a", MANIFEST)
    with pytest.raises(ValueError, match="cannot write to /proc/qsim"):
        Database.create(Path("/proc/qsim"), MANIFEST)


def test_a_study_is_discarded_and_nothing_else(tmp_path):
    written(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("mine")
    Database.discard(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"notes.txt", "lock"}
    assert read_again(tmp_path) == set()


def read_again(folder: Path) -> set[str]:
    with Database.create(folder, MANIFEST) as database:
        return set(database.keys())


def test_who_reads_is_told_of_the_writer(tmp_path):
    assert writer_of(tmp_path) is None
    with Database.create(tmp_path, MANIFEST):
        assert writer_of(tmp_path).startswith(f"process {os.getpid()} since ")
    assert writer_of(tmp_path) is None


def test_a_second_writer_is_told_of_the_first(tmp_path):
    with Database.create(tmp_path, MANIFEST):
        with pytest.raises(ValueError, match=r"being written by process \d+ since"):
            Database.open(tmp_path, write=True)
        with Database.open(tmp_path) as reader:
            assert reader.keys() == []
    written(tmp_path, 1)


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"PK\3\4 and so on" * 1000,
    "zeros": lambda content: bytes(len(content)),
    "no end": lambda content: content[:-1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_kept_and_its_readable_rows_copied(damage, tmp_path):
    expected, path = written(tmp_path, 200), tmp_path / "results.sqlite"
    path.write_bytes(damage(path.read_bytes()))
    with Database.open(tmp_path, write=True) as database:
        (line,) = database.repaired
        left = {each.key: facts(each) for each in database.results(examples=True)}
        assert left.items() <= expected.items() and len(left) < len(expected)
        aside = [path.name for path in tmp_path.glob("results.corrupt-*.sqlite")]
        # without its last byte it is a whole database, of which one row is damaged
        assert line.startswith(f"{aside[0]}: " if aside else '{"format":"e4m19')
        assert not aside or line.endswith(f"{len(left)} results could be read")
        database.add([result(n) for n in range(200)], CONDITIONS)
    assert read(tmp_path) == expected


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.ci)])
def test_flipped_bits_never_change_a_result(count, tmp_path):
    expected, path, source = written(tmp_path, 30), tmp_path / "results.sqlite", random.Random(0)
    good, lost = path.read_bytes(), 0
    for _ in range(count):
        content = bytearray(good)
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        path.write_bytes(content)
        with unchecked(), Database.open(tmp_path, write=True) as database:
            left = {each.key: facts(each) for each in database.results(examples=True)}
            assert left.items() <= expected.items()
            assert (len(left) == 30) or database.repaired
            lost += len(left) < 30
        for beside in tmp_path.glob("results.*"):
            beside.unlink()
    assert 0 < lost < count


def test_rows_of_somebody_else_are_set_aside(tmp_path):
    """Their checksums may be right for others, but not for these."""
    written(tmp_path, 4)
    with Database.open(tmp_path, write=True) as database:
        connection = database._connection
        connection.execute(
            "UPDATE results SET record = replace(record, '0.25', '0.5') WHERE number = 1"
        )
        connection.execute("UPDATE results SET examples = x'00' WHERE number = 2")
        connection.execute("UPDATE results SET key = 'none' WHERE number = 3")
    with Database.open(tmp_path) as database:
        assert len(database.results(examples=True)) == 1 and len(database.quarantined()) == 3
    with Database.open(tmp_path, write=True) as database:
        assert len(database.repaired) == 3
        assert database.keys() == [result(3).key]
    with Database.open(tmp_path) as database:
        assert len(database.quarantined()) == 3
        assert "checksum" in " ".join(database.quarantined())


def test_a_repair_that_was_stopped_begins_again(tmp_path, monkeypatch):
    expected = written(tmp_path, 5)
    path = tmp_path / "results.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE more (one TEXT)")
    connection.close()
    monkeypatch.setattr(
        "qsim.studies.tables.insert", lambda *_: (_ for _ in ()).throw(OSError("no"))
    )
    with pytest.raises(OSError, match="no"):
        Database.open(tmp_path, write=True)
    monkeypatch.undo()
    assert (tmp_path / "results.rebuilt.sqlite").exists()
    with Database.open(tmp_path, write=True) as database:
        assert len(database.repaired) == 1
    assert read(tmp_path) == expected


def test_a_file_that_is_busy_is_not_damaged(tmp_path, monkeypatch):
    expected = written(tmp_path, 5)
    monkeypatch.setattr("qsim.studies.tables.WAIT", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "results.sqlite")) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="locked"):
            Database.open(tmp_path, write=True)
    assert read(tmp_path) == expected and not list(tmp_path.glob("*corrupt*"))


def test_conditions_that_are_damaged_are_no_conditions(tmp_path):
    written(tmp_path, 3)
    with contextlib.closing(sqlite3.connect(tmp_path / "results.sqlite")) as connection, connection:
        connection.execute("UPDATE conditions SET record = '{}'")
    with Database.open(tmp_path) as database:
        assert database.conditions() == [] and len(database.quarantined()) == 3
    with Database.open(tmp_path, write=True) as database:
        assert database.keys() == []


def test_other_tables_are_none_of_ours(tmp_path):
    written(tmp_path, 2)
    with Database.open(tmp_path, write=True) as database:
        database._connection.execute("CREATE TRIGGER t AFTER INSERT ON results BEGIN SELECT 1; END")
    with Database.open(tmp_path, write=True) as database:
        assert "other tables" in database.repaired[0] and len(database.keys()) == 2


def writer(folder: Path, limits: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        limited(limits, [sys.executable, "-c", WRITER, str(folder)]),
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.ci
def test_a_killed_writer_leaves_what_it_was_told_is_there(tmp_path):
    source, told = random.Random(0), -1
    for _ in range(5):
        process = writer(tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(source.uniform(0, 0.2))
        process.kill()
        said = process.communicate()[0].split()
        told = max([told, *map(int, said)])
        found = read(tmp_path)
        assert list(found) == [result(n).key for n in range(len(found))]
        assert told < len(found) <= told + 2
        assert all(found[result(n).key] == facts(result(n)) for n in range(len(found)))


@pytest.mark.ci
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path):
    process = writer(tmp_path, limits=SMALL_FILES.format(bytes=100_000))
    said, errors = process.communicate()
    assert "OSError: cannot write" in errors and "bytes are free there" in errors
    assert "what was written before is intact" in errors
    assert len(read(tmp_path)) == len(said.split()) > 0


@pytest.mark.ci
def test_many_results_load_fast(tmp_path):
    """100,000 rows in less than two seconds, in proportion, on a machine that is busy otherwise."""
    count = 20_000
    with Database.create(tmp_path, MANIFEST) as database:
        database.add([result(n) for n in range(count)], CONDITIONS)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        with unchecked(), Database.open(tmp_path) as database:
            assert len(database.results()) == count
        taken.append(time.perf_counter() - began)
    assert min(taken) < 2 * 2 * count / 100_000
