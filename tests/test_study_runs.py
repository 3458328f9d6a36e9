"""Studies survive what happens to long runs: each test starts the program as a user does."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qsim.studies.database import Database
from qsim.studies.result import Result
from tests.limited import LITTLE_MEMORY, ONE_CORE, SMALL_FILES, limited

ROOT = Path(__file__).parents[1]
SUBJECT = "tests.own_subject:subject"
STUDY = f"""
subject = "{SUBJECT}"
[axes]
exponents = "2-5"
mantissas = "1-5"
integers = [4, 8]
targets = ["weights", "both"]
roundings = ["ties_to_even", "stochastic:8"]
"""
TOTAL = 22 * 2 * 2
SMALL = f'subject = "{SUBJECT}"\n[axes]\nexponents = "2-3"\nmantissas = "1-2"\n'


def environment(path: Path) -> dict[str, str]:
    ours = "XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION"
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return kept | {"COLUMNS": "200", "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}


def started(*words: str, path: Path = ROOT, limits: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        limited(limits, [sys.executable, "-m", "qsim.cli", *map(str, words)]),
        cwd=ROOT,
        env=environment(path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(*words: str, code: int = 0, **options) -> str:
    """What ``qsim words...`` says, on both streams, where it ends with a code."""
    process = started(*words, **options)
    said = "".join(process.communicate())
    assert process.returncode == code, said
    assert "Traceback" not in said
    return said


def results(folder: Path) -> dict[str, Result]:
    """The results of a folder by key, none of which is there twice."""
    with Database.open(folder) as database:
        found = database.results(examples=True)
    assert len({result.key for result in found}) == len(found)
    return {result.key: result for result in found}


def facts(folder: Path) -> dict[str, tuple]:
    """What does not depend on time, by key, to the last bit."""
    return {
        key: (
            json.dumps(dict(result.measures), sort_keys=True),
            {name: sums.tobytes() for name, sums in result.examples.items()},
            result.error,
            result.batch,
        )
        for key, result in results(folder).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study that nothing has disturbed, next to its file."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "study.toml").write_text(STUDY)
    ran("run", folder / "study.toml", "--out", folder / "out")
    assert len(facts(folder / "out")) == TOTAL
    return folder


@pytest.mark.ci
def test_killed_runs_lose_and_repeat_nothing(whole, tmp_path):
    """Killed at twenty moments, most of them between the first result and the last."""
    moments, out, before = random.Random(0), tmp_path / "out", {}
    for _ in range(20):
        process = started("run", whole / "study.toml", "--out", out, "--chunk", "1")
        known = len(before)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if len(stored(out)) > known or moments.random() < 0.02:
                break
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        now = facts(out) if (out / "manifest.json").exists() else {}
        assert before.items() <= now.items()  # what was there stays as it was
        before = now
    assert len(before) > 0
    ran("resume", out)
    assert facts(out) == facts(whole / "out")
    with Database.open(out) as database:
        assert not database.quarantined()


def stored(folder: Path) -> list[str]:
    try:
        with Database.open(folder) as database:
            return database.keys()
    except ValueError:
        return []


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_wait_for_what_is_under_way(number, whole, tmp_path):
    out = tmp_path / "out"
    process = started("run", whole / "study.toml", "--out", out, "--chunk", "1")
    while not stored(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said = "".join(process.communicate())
    assert process.returncode == 128 + number
    assert "everything that finished is stored" in said and "Traceback" not in said
    part = facts(out)
    assert 0 < len(part) < TOTAL and part.items() <= facts(whole / "out").items()
    assert f"left {TOTAL - len(part)}" in " ".join(ran("status", out).replace("│", " ").split())
    ran("resume", out)
    assert facts(out) == facts(whole / "out")


@pytest.mark.ci
def test_damage_is_counted_and_evaluated_again(whole, tmp_path):
    """The file is cut, then a byte in it is flipped, then it is empty."""
    out, source = tmp_path / "out", random.Random(1)
    (tmp_path / "study.toml").write_text(SMALL)
    ran("run", tmp_path / "study.toml", "--out", out)
    good, path = facts(out), out / "results.sqlite"

    def cut(content: bytes) -> bytes:
        return content[: len(content) // 2]

    def flipped(content: bytes) -> bytes:
        place = content.index(b'"measures"') + source.randrange(40)
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    for damage in (cut, flipped, lambda content: b""):
        path.write_bytes(damage(path.read_bytes()))
        said = ran("resume", out)
        assert "quarantined" in said
        assert facts(out) == good


@pytest.mark.ci
def test_a_full_disk_is_one_clear_error_and_costs_nothing(whole, tmp_path):
    out = tmp_path / "out"
    words = "run", whole / "study.toml", "--out", out, "--chunk", "1"
    said = ran(*words, code=2, limits=SMALL_FILES.format(bytes=160_000))
    last = said.strip().splitlines()[-1]
    assert last.startswith("qsim: ") and str(out) in last and "free" in last
    part = facts(out)
    assert 0 < len(part) < TOTAL and part.items() <= facts(whole / "out").items()
    ran("resume", out)
    assert facts(out) == facts(whole / "out")


@pytest.mark.ci
def test_a_second_writer_is_told_who_is_the_first(whole, tmp_path):
    out = tmp_path / "out"
    process = started("run", whole / "study.toml", "--out", out, "--chunk", "1")
    while not stored(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # so that it is not done too soon
    said = ran("run", whole / "study.toml", "--out", out, code=2)
    assert f"being written by process {process.pid}" in said
    process.kill()  # whose lock ends with it
    process.communicate()
    ran("resume", out)
    assert facts(out) == facts(whole / "out")


WAYS = {
    "one at a time": ["--chunk", "1"],
    "all at a time": ["--chunk", "100"],
    "one device": ["--devices", "1"],
}


@pytest.mark.ci
@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_how_a_study_is_run_changes_no_bit(words, whole, tmp_path):
    ran("run", whole / "study.toml", "--out", tmp_path, *words)
    assert facts(tmp_path) == facts(whole / "out")


@pytest.mark.ci
@pytest.mark.parametrize("processes", [2])
def test_several_processes_give_the_bytes_of_one(processes, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["run", whole / "study.toml", "--out", tmp_path / "out", "--devices", "1"]
    words += ["--coordinator", address, "--processes", str(processes)]
    running = [started(*words, "--process", str(number)) for number in range(processes)]
    said = ["".join(process.communicate(timeout=300)) for process in running]
    assert [process.returncode for process in running] == [0] * processes, said
    assert facts(tmp_path / "out") == facts(whole / "out")


@pytest.mark.ci
def test_neither_the_order_of_axes_nor_cores_change_a_bit(whole, tmp_path):
    lines = STUDY.replace('"2-5"', "[5, 2, 4, 3]").replace('"weights", "both"', '"both", "weights"')
    (tmp_path / "study.toml").write_text(lines)
    ran("run", tmp_path / "study.toml", "--out", tmp_path / "out", limits=ONE_CORE)
    assert facts(tmp_path / "out") == facts(whole / "out")


GREEDY = """
import jax.numpy as jnp
from types import SimpleNamespace

def apply(w, x):
    spread = jnp.tanh(x[:, None] * jnp.arange(4_000_000.0))
    return (spread.reshape(8, -1, 2) @ w).sum(1)

def subject():
    x, labels = jnp.linspace(-1, 1, 8)[None], jnp.arange(8)[None] % 2
    return SimpleNamespace(name="greedy", apply=apply, variables=jnp.eye(2), inputs=x,
                           labels=labels, score="top1")
"""


@pytest.mark.ci
def test_out_of_memory_goes_on_with_less(tmp_path):
    """Of sixteen evaluations side by side, each with 400 MB, few fit in what there is."""
    (tmp_path / "greedy.py").write_text(GREEDY)
    (tmp_path / "study.toml").write_text(
        'subject = "greedy:subject"\n[axes]\nexponents = "2-5"\nmantissas = "1-4"\n'
    )
    limits = ONE_CORE + LITTLE_MEMORY.format(bytes=4 * 10**9)
    words = ["run", tmp_path / "study.toml", "--out", tmp_path / "out", "--batch", "16"]
    said = ran(*words, limits=limits, path=tmp_path)
    assert "out of memory with 16 policies side by side" in said and "goes on with 8" in said
    found = results(tmp_path / "out").values()
    assert len(found) == 16 and not any(result.error for result in found)


@pytest.mark.ci
def test_what_fails_is_told_and_the_rest_goes_on(tmp_path):
    """Products of activations in float32 are not exact there, and pairwise sums want them so."""
    text = SMALL + 'targets = ["weights"]\naccumulators = ["none", "e5m10 pairwise"]\n'
    (tmp_path / "study.toml").write_text(text)
    said = ran("run", tmp_path / "study.toml", "--out", tmp_path / "out", code=1)
    found = results(tmp_path / "out").values()
    assert {(r.point["accumulator"], r.state) for r in found} == {
        ("none", "done"),
        ("e5m10 pairwise", "failed"),
    }
    why = r"4 failed \(e2m1, e2m2, e3m1, e3m2\): ValueError: "
    assert re.search(why, said) and re.search(why, ran("status", tmp_path / "out"))


@pytest.mark.ci
def test_the_study_of_the_docs(tmp_path):
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    module, study = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.S)[:2]
    (tmp_path / "my_model.py").write_text(module)
    (tmp_path / "study.toml").write_text(study)
    words, out = ["run", tmp_path / "study.toml", "--out", tmp_path / "out"], tmp_path / "out"
    assert "to compile 8 programs" in ran(*words, "--plan", path=tmp_path) and not out.exists()
    ran(*words, path=tmp_path)
    assert "Pareto front" in ran("report", out) and (out / "report.html").stat().st_size > 100_000
    assert "│ left │ 0 │" in " ".join(ran("status", out).split())
    ran("export", out, "--out", tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + len(results(out))


@pytest.mark.ci
def test_what_a_model_raises_is_a_result_and_no_traceback(tmp_path):
    text = (ROOT / "tests" / "own_subject.py").read_text()
    broken = f"""{text}

def broken():
    from types import SimpleNamespace
    found, seen = subject(), []

    def apply(variables, inputs):
        seen.append(1)
        if len(seen) > 3:
            raise KeyError("lost")
        return found.apply(variables, inputs)

    return SimpleNamespace(**(found._asdict() | {{"apply": apply}}))
"""
    (tmp_path / "broken.py").write_text(broken)
    (tmp_path / "study.toml").write_text(SMALL.replace(SUBJECT, "broken:broken"))
    words = ["run", tmp_path / "study.toml", "--out", tmp_path / "out"]
    said = ran(*words, path=tmp_path, code=1)
    assert "KeyError: 'lost'" in said


@pytest.mark.ci
def test_results_of_other_conditions_are_not_mixed_unasked(tmp_path):
    (tmp_path / "study.toml").write_text(SMALL)
    out = tmp_path / "out"
    ran("run", tmp_path / "study.toml", "--out", out)
    (tmp_path / "study.toml").write_text(SMALL.replace('"1-2"', '"1-3"'))
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    try:
        said = ran("run", tmp_path / "study.toml", "--out", out, code=2)
        assert "matmul_precision" in said and "--allow-mixed" in said
        ran("run", tmp_path / "study.toml", "--out", out, "--allow-mixed")
    finally:
        del os.environ["JAX_DEFAULT_MATMUL_PRECISION"]
    assert len(results(out)) == 6
    assert "mixed conditions: matmul_precision" in ran("status", out)


@pytest.mark.ci
def test_a_folder_of_another_study_is_left_alone(whole, tmp_path):
    (tmp_path / "study.toml").write_text(SMALL + "\n")
    (tmp_path / "other.toml").write_text('batches = "0-1"\n' + SMALL)
    out = tmp_path / "out"
    ran("run", tmp_path / "study.toml", "--out", out)
    said = ran("run", tmp_path / "other.toml", "--out", out, code=2)
    assert "holds another study" in said and "batches" in said
    assert len(facts(out)) == 4
