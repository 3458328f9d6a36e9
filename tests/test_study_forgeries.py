"""Folders of somebody else: whatever they hold, there is a clear line or a report, and no more."""

import os

import pytest

from qsim import cli
from qsim.studies.database import Database
from qsim.studies.manifest import write_manifest
from qsim.studies.result import Result
from qsim.studies.study import read
from tests import study_results as made
from tests.unchecked import unchecked

ESCAPE = "\x1b]0;title\x07\x1b[31m"
WRONG = [
    *({name: None} for name in ("name", "subject", "score", "total", "study", "reference")),
    {"name": ESCAPE}, {"name": "\ud800"}, {"total": 10**400}, {"total": -1}, {"total": "9"},
    {"score": "best"}, {"score": [1]}, {"study": 5}, {"study": {"measures": 5}},
    {"reference": {"a": 1.0}}, {"reference": "x"}, {"counts": [1]}, {"counts": "x"},
    {"reference_examples": {"loss": [1.0]}}, {"reference_examples": {"loss": "x"}},
]  # fmt: skip


def typed(*words, monkeypatch, capsys):
    """The exit code and what is said, without what terminals take for commands."""
    monkeypatch.setattr("sys.argv", ["qsim", *map(str, words)])
    with unchecked(), pytest.raises(SystemExit) as stop:
        cli.main()
    said = "".join(capsys.readouterr())
    assert "\x1b]" not in said and "\x07" not in said and "Traceback" not in said
    return stop.value.code or 0, said


@pytest.fixture
def folder(tmp_path):
    results = made.results()
    with Database.create(tmp_path / "study", made.manifest(results)) as database:
        database.add(results, {"jax": "1"})
    return tmp_path / "study"


@pytest.mark.parametrize("changed", WRONG, ids=lambda changed: str(changed)[:40])
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_forged_manifest_is_told_in_a_line(folder, changed, command, monkeypatch, capsys):
    manifest = made.manifest(made.results()) | changed
    if None in changed.values():
        manifest = {k: v for k, v in manifest.items() if k not in changed}
    write_manifest(folder, manifest)
    code, said = typed(command, folder, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and said.startswith("qsim: ") and "holds no study" in said
    assert len(said.splitlines()) == 1


ROWS = [
    dict(point={"format": ESCAPE}, facts={"bits": 8}, measures={"kl": 1.0}),
    dict(point={"format": "e4m3"}, facts={"bits": 8}, error=ESCAPE),
    dict(point={"format": "e4m3", "seed": 2**70}, facts={"bits": 8}, measures={"kl": 1.0}),
    dict(point={"format": "e4m3", "seed": "x"}, facts={"bits": 8}, measures={"kl": 1.0}),
    dict(point={"format": 5}, facts={"bits": 8}, measures={"kl": 1.0}),
    dict(point={"format": "e4m3" * 5000}, facts={"bits": 8}, measures={"kl": 1.0}),
    dict(point={"format": "e4m3"}, facts={"bits": "8"}, measures={"kl": 1.0}),
    dict(point={"format": "e4m3"}, facts={"bits": 8}, measures={"kl": 1.0}, batch=2**40),
]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_forged_row_is_set_aside(folder, number, monkeypatch, capsys):
    with unchecked(), Database.open(folder, write=True) as database:
        before = len(database.keys())
        database.add([Result(**ROWS[number])], {"jax": "1"})
        assert len(database.quarantined()) == 1 and len(database.keys()) <= before
    for words in (["status"], ["report"], ["export", "--out", folder / "table.csv"]):
        code, _ = typed(*words, folder, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 0


NAMES = tuple(made.diverged().measures)
SPARSE = [
    Result(point={"format": "e4m3"}, facts={}, measures={"kl": 1.0}),
    Result(point={"format": "e4m9"}, facts={"bits": 8}, measures={"loss": 1.0}),
    Result(point={"format": "e4m3"}, facts={"bits": 8}, measures=dict.fromkeys(NAMES, 1e308)),
    Result(
        point={"format": "e4m3"}, facts={"bits": 8}, measures=dict.fromkeys(NAMES, float("inf"))
    ),
    made.result({"format": "e4m3"}, 1),
]


@pytest.mark.parametrize("number", range(len(SPARSE)))
@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_odd_but_possible_rows_are_drawn(folder, number, suffix, monkeypatch, capsys):
    with unchecked(), Database.open(folder, write=True) as database:
        database.add([SPARSE[number]], {"jax": "1"})
        assert not database.quarantined()
    words = "report", folder, "--out", folder / f"drawn{suffix}"
    assert typed(*words, monkeypatch=monkeypatch, capsys=capsys)[0] == 0


def test_conditions_are_texts(folder, monkeypatch, capsys):
    with unchecked(), Database.open(folder, write=True) as database:
        database.add([made.result({"format": "e4m3"}, 1)], {"d": {"a": 1}, "e": ESCAPE})
        assert len(database.quarantined()) == 1 and database.conditions() == [{"jax": "1"}]
    assert typed("report", folder, monkeypatch=monkeypatch, capsys=capsys)[0] == 0


def test_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "study.toml")
    with pytest.raises(ValueError, match="it is a pipe, no file"):
        read(tmp_path / "study.toml")
    text = 'subject = "a:b"\n[axes]\nformats = ["study.toml:x"]\n'
    (tmp_path / "other.toml").write_text(text)
    with pytest.raises(ValueError, match="it is a pipe, no file"):
        read(tmp_path / "other.toml")


def test_keys_that_are_in_the_wrong_place(tmp_path):
    (tmp_path / "a.toml").write_text('subject = "a:b"\nformats = ["e4m3"]\n')
    with pytest.raises(ValueError, match=r"no key formats: write it below \[axes\]"):
        read(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('subject = "a:b"\n[axes]\nbatches = "0-3"\n')
    with pytest.raises(ValueError, match=r"no key axes.batches: write it above \[axes\]"):
        read(tmp_path / "a.toml")
