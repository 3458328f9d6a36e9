"""The benchmarks run at their smallest size, print their ratios, and leave a valid data file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import reference, table
from qsim import parse
from tests.intervals import intervals

ROOT = Path(__file__).parents[1]
SMALLEST = {
    "rounding": "rounding --size 4096 --variants 1",
    "stochastic": "stochastic --size 4096",
    "families": "families --size 4096",
    "tensor sweep": "sweep --only tensor --formats 2 --size 4096",
    "model sweep": "sweep --only model --formats 2 --layers 1 --heads 1 --tokens 1 8 --batches",
    "simulate": "simulate --layers 1 --heads 1 --tokens 1 8",
    "accumulate": "accumulate --sizes 32",
    "scale": "scale --formats 2 --layers 1 --batches 1 --study 2 --results 100",
    "train sweep": "train_sweep --formats 2 --seeds 1 --steps 2 --layers 1 --heads 1",
}


def run(module: str, *words: str) -> str:
    """What ``python -m benchmarks.MODULE`` prints, started as a user starts it."""
    ours = "XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION"
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *words],
        cwd=ROOT,
        env=environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.ci
@pytest.mark.parametrize("words", SMALLEST.values(), ids=SMALLEST)
def test_benchmark_prints_ratios_and_stores_them(words, tmp_path):
    printed = run(*words.split(), "--repeats", "1", "--out", str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    stored = json.loads(path.read_text())
    assert {"claim", "settings", "absent"} <= stored.keys() and stored["benchmark"] in words
    assert {"cpu", "commit", "packages", "xla_flags", "allocator"} <= stored["machine"].keys()
    for part in stored["sections"]:
        assert any(heading.startswith("times ") for heading in part["columns"].values())
        assert all(heading in printed for heading in part["columns"].values())
        assert all(row["name"] in printed for row in part["rows"])
    assert all(goal["measured"] > 0 for goal in stored["targets"])
    assert_readme_is_written(tmp_path)
    if stored["benchmark"] == "rounding":
        assert_ours_is_exact(stored)
        run("table", "--results", str(tmp_path), "--readme", str(tmp_path / "README.md"))


def assert_ours_is_exact(stored: dict) -> None:
    for part in stored["sections"]:
        ours = [row for row in part["rows"] if row["name"].startswith("qsim")]
        assert len(ours) == 2 and all(row["differ"] == row["zeros"] == 0 for row in ours)


def assert_readme_is_written(results: Path) -> None:
    """The table is put between the marks, and putting it there again changes nothing."""
    readme = results / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nstale\n{table.END}\nafter\n")
    words = ["table", "--results", str(results), "--readme", str(readme)]
    with mock.patch("sys.argv", words):
        table.main()
    first = readme.read_text()
    assert first.startswith("before\n") and first.endswith("after\n") and "stale" not in first
    assert "| times " in first
    with mock.patch("sys.argv", words):
        table.main()
    assert readme.read_text() == first


@pytest.mark.parametrize("overflow", ["saturate", "ieee"])
@pytest.mark.parametrize("name", ["e4m3fn", "e4m3", "e4m3f", "e5m2", "e1m2", "e8m2"])
def test_reference_is_the_exact_definition(name, overflow):
    fmt, x = parse(name), reference.inputs(1)
    expected = intervals(fmt).expected(x.view(np.uint32), "ties_to_even", overflow)
    actual = reference.rounded(x, fmt, overflow)
    assert reference.differences(actual, expected.view(np.float32)) == {"differ": 0, "zeros": 0}
