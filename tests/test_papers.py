"""The reproductions of papers run at their smallest size, are short, and store what they find."""

import json
from pathlib import Path

import pytest

from tests.test_benchmarks import run

FOLDER = Path(__file__).parents[1] / "benchmarks" / "papers"
SCRIPTS = {
    path.stem: path
    for path in sorted(FOLDER.glob("*.py"))
    if "paper.reproduce(" in path.read_text(encoding="utf-8")
}
RESULTS = FOLDER.parent / "results" / "papers"
LONGEST = 80  # lines; what needs more lacks something in the library


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_reproduction_is_short_and_names_its_paper(name):
    text = SCRIPTS[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith('"""Claim: ') and "arXiv:" in text


def test_every_stored_result_has_criteria_and_a_place_in_the_table():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert stored["targets"] and f"## {stored['benchmark']}" in table


@pytest.mark.t2
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_reproduction_runs(name, tmp_path):
    words = ["--steps", "2", "--seeds", "1"]
    printed = run(f"papers.{name}", *words, "--out", str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["benchmark"] == name.replace("_", "-")
    assert "Targets" in printed and len(stored["targets"]) >= 3


def test_what_was_missed_is_told():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    missed = {each["benchmark"]: [g for g in each["targets"] if not g["met"]] for each in stored}
    total = sum(len(each["targets"]) for each in stored)
    assert f"Of {total} targets, the following {sum(map(len, missed.values()))} were" in text
    assert all(f"| {name} | " in text for name, goals in missed.items() if goals)
