"""Claim: a thousand formats cost a thousand float32 evaluations, and keeping them costs nothing.

What grows: the number of formats, the model, the data; always beside the subject's own float32
evaluation, jitted alone, which takes turns with the others. Then a whole study as `qsim run` does
it, imports, compilation and storage included: at most 1.1 times as many float32 evaluations, on
the same cores. A study's folder: storing takes at most 1 % of its time, and 100,000 results load
within 2 seconds.

    python -m benchmarks.scale [--formats N ...] [--study N] [--results N] [--batches N]
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import qsim
from benchmarks import record, timing
from models.byte_lm import subject as bundled
from models.byte_lm.model import ByteLM, Config
from models.subject import Subject
from qsim.studies.database import Database
from qsim.studies.result import Result
from qsim.sweeps.evaluation import evaluate, judge, planned
from qsim.sweeps.scores import SCORES

LIMIT, STORE, LOAD = 1.1, 0.01, 2.0  # times float32, of a study's time, seconds
PLAIN = "float32 alone"
WIDTH = 32  # of a head
COLUMNS = {
    "name": "evaluations",
    "formats": "formats",
    "compile": "trace and compile, s",
    "mebibytes": "memory, MiB",
    "milliseconds": "ms per format",
    "ratio": "times the float32 evaluation",
}
FOLDER_COLUMNS = {
    "name": "a study's folder",
    "results": "results",
    "seconds": "s",
    "ratio": "times what is beside it",
    "beside": "beside",
}


def main() -> None:
    """Measures, prints and stores."""
    parser = record.arguments(__doc__)
    parser.add_argument("--formats", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4, 8], help="of models")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="of data")
    parser.add_argument("--study", type=int, default=1000, help="formats of the whole study")
    parser.add_argument("--results", type=int, default=100_000, help="of the folder that is loaded")
    options = parser.parse_args()
    names = "formats", "layers", "batches", "study", "results"
    sizes = {name: getattr(options, name) for name in names}
    record.run("scale", __doc__, options, lambda: measured(sizes, options.repeats), **sizes)


def measured(sizes: dict[str, Any], repeats: int) -> dict:
    """The sections and the targets of the record."""
    few = min(16, max(sizes["formats"]))
    one = _some_data(bundled(), sizes["batches"][0])
    study, study_targets = _study(sizes["study"], max(sizes["batches"]))
    folder, folder_targets = _folder(sizes["results"])
    sections = [
        _section("Formats", {f"{n} formats": (one, n) for n in sizes["formats"]}, repeats),
        _section("Layers", {f"{n} layers": (_model(n), few) for n in sizes["layers"]}, repeats),
        _section(
            "Data",
            {f"{n} batches": (_some_data(bundled(), n), few) for n in sizes["batches"]},
            repeats,
        ),
        study,
        folder,
    ]
    return {"sections": sections, "targets": study_targets + folder_targets, "absent": []}


# --- what grows -----------------------------------------------------------------------------


def _specs(count: int) -> Iterator[str]:
    """Specs of floats, all different and of one structure: only their numbers differ."""
    many = (f"e{e}m{m}b{b}" for b in range(3, 60) for e in (2, 3, 4, 5) for m in range(1, 8))
    return (spec for spec, _ in zip(many, range(count), strict=False))


def _section(title: str, cases: dict[str, tuple[Subject, int]], repeats: int) -> dict:
    rows = []
    for name, (subject, count) in cases.items():
        rows += _beside_float32(name, subject, count, repeats)
    return record.section(f"{title}, one device", COLUMNS, rows)


def _beside_float32(name: str, subject: Subject, count: int, repeats: int) -> list[dict]:
    """A row for the evaluations of some formats."""
    policies = [qsim.policy(weights=s, activations=s, scale="absmax") for s in _specs(count)]
    reference, one = judge(subject), jax.devices()[:1]
    began = time.perf_counter()
    plan = planned(subject, reference, policies, timed=False, devices=one)
    compiled = time.perf_counter() - began
    plain = _plain(subject, reference.answers)
    before, taken = timing.seconds(plain), []
    for part in evaluate(subject, reference, policies, devices=one):
        after = timing.seconds(plain)
        taken.append((sum(judged.seconds for judged in part), len(part), (before + after) / 2))
        before = after
    ratios = [seconds / number / yard for seconds, number, yard in taken for _ in range(number)]
    return [
        {
            "name": name,
            "formats": count,
            "compile": compiled,
            "mebibytes": plan.bytes / 2**20,
            "milliseconds": 1e3 * sum(each[0] for each in taken) / count,
            "ratio": statistics.median(ratios),
        }
    ]


def _plain(subject: Subject, answers: jax.Array) -> Callable[[], Any]:
    """The float32 evaluation of a subject, compiled: what every format is beside."""
    score = SCORES[subject.score]

    @jax.jit
    def observed(variables, data):
        def observe(batch):
            inputs, labels, expected = batch
            return score.observe(score.answers(subject.apply(variables, inputs)), expected, labels)

        return lax.map(observe, data)

    data = (subject.inputs, jnp.asarray(subject.labels), answers)
    run = lambda: observed(subject.variables, data)  # noqa: E731
    jax.block_until_ready(run())
    return run


def _some_data(subject: Subject, count: int) -> Subject:
    inputs, labels = (np.asarray(each)[:count] for each in (subject.inputs, subject.labels))
    return subject._replace(inputs=inputs, labels=labels)


def _model(layers: int) -> Subject:
    """The bundled model's kind with other layers, and random weights."""
    model, key = ByteLM(Config(heads=4, layers=layers, head_width=WIDTH)), jax.random.key(0)
    text = jax.random.randint(key, (1, 4, 129), 0, 256)
    variables = jax.jit(model.init)(key, text[0, :, :-1])
    inputs, labels = np.asarray(text[..., :-1]), np.asarray(text[..., 1:])
    return Subject("layers", model.apply, variables, inputs, labels, "bits_per_byte")


# --- a whole study --------------------------------------------------------------------------


def _study(count: int, batches: int) -> tuple[dict, list[dict]]:
    """`qsim run` from its start to its end, beside float32 evaluations that have all cores."""
    subject = _some_data(bundled(), batches)
    plain = _plain(subject, judge(subject).answers)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "study.toml", Path(folder) / "out"
        listed = ", ".join(f'"{spec}"' for spec in _specs(count))
        lines = f"batches = {list(range(len(subject.labels)))}\n[axes]\nformats = [{listed}]\n"
        file.write_text(f'subject = "models.byte_lm:subject"\n{lines}')
        words = [sys.executable, "-m", "qsim.cli", "run", str(file), "--out", str(out)]
        environment = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}
        before = [timing.seconds(plain) for _ in range(5)]
        began = time.perf_counter()
        subprocess.run(words, check=True, cwd=record.ROOT, env=environment, capture_output=True)
        whole = time.perf_counter() - began
        yard = statistics.median([*before, *(timing.seconds(plain) for _ in range(5))])
        with Database.open(out) as database:
            results = database.results(examples=True)
            conditions = database.conditions()[0]
        computing = sum(result.seconds for result in results)
        storing = _storing(results, conditions, Path(folder) / "copy")
    rows = [
        {"name": PLAIN, "formats": 1, "milliseconds": 1e3 * yard, "ratio": 1.0},
        {
            "name": "qsim run, from start to end",
            "formats": len(results),
            "milliseconds": 1e3 * whole / count,
            "ratio": whole / count / yard,
        },
        {
            "name": "of that, calls of the program",
            "formats": len(results),
            "milliseconds": 1e3 * computing / count,
            "ratio": computing / count / yard,
        },
        {
            "name": "of that, storing results one by one",
            "formats": len(results),
            "milliseconds": 1e3 * storing / count,
            "ratio": storing / count / yard,
        },
    ]
    targets = [
        record.target(
            f"{count} formats: times {count} float32 evaluations",
            whole / count / yard,
            at_most=LIMIT,
        ),
        record.target("storing results: share of a study's time", storing / whole, at_most=STORE),
    ]
    title = f"A study of {count} formats, all devices, {batches} batches"
    return record.section(title, COLUMNS, rows), targets


def _storing(results: Sequence[Result], conditions: dict[str, str], folder: Path) -> float:
    """Seconds to store results, each in a transaction of its own: more than a study has."""
    with Database.create(folder, {"name": "copy"}) as database:
        began = time.perf_counter()
        for result in results:
            database.add([result], conditions)
        return time.perf_counter() - began


# --- a folder -------------------------------------------------------------------------------


def _folder(count: int) -> tuple[dict, list[dict]]:
    """Loading results, beside SQLite alone."""
    measures = dict.fromkeys(
        ("loss", "loss_difference", "kl", "top1", "bits_per_byte"), 0.123456789
    )
    facts = {"bits": 8, "exponent_bits": 4, "mantissa_bits": 3}
    found = [
        Result(
            point={"format": "e4m3", "rounding": "stochastic:8", "target": "both", "seed": seed},
            facts=facts,
            measures=measures,
        )
        for seed in range(count)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        with Database.create(folder, {"name": "many"}) as database:
            storing = timing.seconds(lambda: database.add(found, {"jax": "0"}))
        with Database.open(folder) as database:
            loading = statistics.median(
                timing.seconds(lambda: len(database.results())) for _ in range(3)
            )
        connection = sqlite3.connect(folder / "results.sqlite")
        query = "SELECT number, key, record, conditions, checksum FROM results"
        alone = statistics.median(
            timing.seconds(lambda: len(connection.execute(query).fetchall())) for _ in range(3)
        )
        connection.close()
    beside = "SQLite's reading of the rows alone"
    rows = [
        {
            "name": name,
            "results": count,
            "seconds": seconds,
            "ratio": seconds / alone,
            "beside": beside,
        }
        for name, seconds in {"stored at once": storing, "loaded and checked": loading}.items()
    ]
    target = record.target(f"{count} results load, s", loading, at_most=LOAD)
    return record.section("A folder", FOLDER_COLUMNS, rows), [target]


if __name__ == "__main__":
    main()
