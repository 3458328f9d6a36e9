"""The model sweep: one model, many formats on both operands of every contraction.

Also the process with two devices, which takes part in the rounds of the other through a pipe:
``python -m benchmarks.model_sweep`` reads a line for every sweep it is to run.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from benchmarks import record, timing
from benchmarks.tensor_sweep import formats
from models.byte_lm.model import ByteLM, Config

ONE_DEVICE, TWO_DEVICES, COLD = 1.10, 0.90, 1.75  # at most, times the fp32 forward
SINGLE, SWEEP = "fp32 forward alone", "qsim.sweep"
FORWARDS, STATIC = 8, 4  # fp32 forwards in a run; formats that get an executable of their own
TWO = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"

COLUMNS = {
    "name": "by",
    "formats": "formats",
    "compile": "compile, s",
    "milliseconds": "ms per format",
    "ratio": "times the fp32 forward",
    "mebibytes": "temporary, MiB",
    "difference": "largest relative difference",
}


class Setting:
    """The model with random weights, one batch of bytes, and the policies of a sweep."""

    def __init__(self, sizes: dict[str, Any]):
        self.sizes = sizes
        model = ByteLM(Config(heads=sizes["heads"], layers=sizes["layers"], head_width=32))
        shape = (sizes["batch"], sizes["length"])
        self.bytes = jax.random.randint(jax.random.key(0), shape, 0, 256)
        self.variables = jax.jit(model.init)(jax.random.key(1), self.bytes)
        self.loss = lambda variables, text: _loss(model.apply(variables, text), text)
        self.arguments = (self.variables, self.bytes)

    def policies(self, count: int) -> list[qsim.Policy]:
        """Policies for ``count`` formats, all of one structure."""
        scale = self.sizes["scale"]
        chosen = formats(count)
        return [qsim.policy(weights=fmt, activations=fmt, scale=scale) for fmt in chosen]

    def sweep(self, count: int, batch: int | None = None) -> Callable:
        """A new ``qsim.sweep``, on all devices of this process."""
        return qsim.sweep(self.loss, self.policies(count), batch=batch)


def _loss(logits: jax.Array, text: jax.Array) -> jax.Array:
    """The mean negative log-likelihood of each next byte."""
    chances = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(chances, text[:, 1:, None], axis=-1).mean()


def measured(sizes: dict[str, Any], counts: list[int], repeats: int) -> tuple[list, list]:
    """The sections and the targets."""
    setting = Setting(sizes)
    sections, targets = [], []
    for count in counts:
        part, goals = _compared(setting, count, repeats)
        sections.append(part)
        targets += goals
    part, goals = _cold(setting, max(counts), repeats)
    return [*sections, part], targets + goals


def _compared(setting: Setting, count: int, repeats: int) -> tuple[dict, list[dict]]:
    """All ways to evaluate ``count`` formats, beside the fp32 forward, warm."""
    forward, seconds = timing.compile(setting.loss, *setting.arguments)
    runs: dict[str, Callable] = {SINGLE: lambda: _alone(forward, setting.arguments)}
    facts: dict[str, dict] = {SINGLE: {"formats": 1, "compile": seconds} | _memory(forward)}
    each = {SINGLE: FORWARDS}
    for batch in (None, *setting.sizes["batches"]):
        name = SWEEP if batch is None else f"{SWEEP}, batch={batch}"
        swept, seconds = timing.compile(setting.sweep(count, batch), *setting.arguments)
        runs[name] = lambda swept=swept: swept(*setting.arguments)
        facts[name] = {"formats": count, "compile": seconds} | _memory(swept)
        each[name] = count
    for make in (_looped, _static):
        name, run, fact = make(setting, count)
        runs[name], facts[name], each[name] = run, fact, fact["formats"]
    with TwoDevices(setting.sizes, count) as worker:
        name = f"{SWEEP}, two host devices"
        runs[name], each[name] = worker.run, count
        facts[name] = {"formats": count, "compile": worker.compile}
        taken = timing.interleave(runs, SINGLE, repeats=repeats, slow=float("inf"))
        results = {name: np.asarray(run()) for name, run in runs.items()}
    truth = results[SWEEP]
    rows = [
        {
            "name": name,
            **facts[name],
            **taken[name].facts(units=each[name], yardsticks=FORWARDS),
            "difference": None if name == SINGLE else _difference(results[name], truth),
        }
        for name in runs
    ]
    ratios = {row["name"]: row["ratio"] for row in rows}
    title = f"{count} formats: times the fp32 forward, "
    targets = [
        record.target(title + "one device", ratios[SWEEP], at_most=ONE_DEVICE),
        record.target(title + "two host devices", ratios[name], at_most=TWO_DEVICES),
    ]
    return record.section(_title(setting, count), COLUMNS, rows), targets


def _title(setting: Setting, count: int) -> str:
    s = setting.sizes
    model = f"{s['layers']} layers of width {32 * s['heads']}, {s['batch']} x {s['length']} bytes"
    return f"Model sweep, warm: {count} formats, {model}, scale {s['scale']}"


def _alone(forward: Callable, arguments: tuple) -> list:
    """Forwards one after the other, each finished before the next begins."""
    return [jax.block_until_ready(forward(*arguments)) for _ in range(FORWARDS)]


def _looped(setting: Setting, count: int) -> tuple[str, Callable, dict]:
    """A Python loop over one executable whose grids are arguments."""
    simulated = lambda policy, *args: qsim.simulate(setting.loss, policy, params=0)(*args)  # noqa: E731
    policies = [policy.lower() for policy in setting.policies(count)]
    one, seconds = timing.compile(simulated, policies[0], *setting.arguments)
    run = lambda: [one(policy, *setting.arguments) for policy in policies]  # noqa: E731
    return "loop, grids as arguments", run, {"formats": count, "compile": seconds} | _memory(one)


def _static(setting: Setting, count: int) -> tuple[str, Callable, dict]:
    """An executable for each format, for a few of them."""
    chosen = setting.policies(count)[-STATIC:]
    made = [
        timing.compile(qsim.simulate(setting.loss, policy), *setting.arguments) for policy in chosen
    ]
    run = lambda: [one(*setting.arguments) for one, _ in made]  # noqa: E731
    seconds = sum(elapsed for _, elapsed in made)
    facts = {"formats": len(chosen), "compile": seconds} | _memory(made[0][0])
    return "loop, qsim jitted once per format", run, facts


def _memory(executable: Any) -> dict[str, float]:
    """The peak of temporary memory that an executable asks for."""
    analysis = executable.memory_analysis()
    return {} if analysis is None else {"mebibytes": analysis.temp_size_in_bytes / 2**20}


def _difference(results: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative difference to the last rows of what ``qsim.sweep`` gives."""
    expected = truth[-len(results) :]
    return float(np.max(np.abs(results - expected) / np.abs(expected)))


# --- cold -----------------------------------------------------------------------------------


COLD_COLUMNS = {"name": "by", "formats": "formats", "seconds": "s", "ratio": "times the forwards"}


def _cold(setting: Setting, count: int, repeats: int) -> tuple[dict, list[dict]]:
    """Traced, compiled and run, against as many fp32 forwards without their compilation."""
    forward, _ = timing.compile(setting.loss, *setting.arguments)
    alone = lambda: _alone(forward, setting.arguments)  # noqa: E731
    alone()
    before = [timing.seconds(alone) for _ in range(3)]
    tries = range(min(3, repeats))
    swept = statistics.median(_first(lambda: setting.sweep(count), setting) for _ in tries)
    few = setting.policies(count)[-STATIC:]
    jitted = sum(_first(lambda p=p: qsim.simulate(setting.loss, p), setting) for p in few)
    both = before + [timing.seconds(alone) for _ in range(3)]
    forwards = statistics.median(both) / FORWARDS * count
    jitted *= count / len(few)
    rows = [
        {"name": "fp32 forwards, compiled before", "formats": count, "seconds": forwards},
        {"name": "qsim.sweep, compilation included", "formats": count, "seconds": swept},
        {
            "name": f"qsim jitted once per format, from {len(few)} formats",
            "formats": count,
            "seconds": jitted,
        },
    ]
    rows = [row | {"ratio": row["seconds"] / forwards} for row in rows]
    name = f"{count} formats cold: times {count} fp32 forwards"
    targets = [record.target(name, swept / forwards, at_most=COLD)]
    return record.section(f"Model sweep, cold: {count} formats", COLD_COLUMNS, rows), targets


def _first(make: Callable, setting: Setting) -> float:
    """The seconds to make a function and to run it once, JAX's caches being empty."""
    jax.clear_caches()
    _, elapsed = timing.cold(lambda: partial(jax.jit(make()), *setting.arguments))
    return elapsed


# --- the process with two devices -----------------------------------------------------------


class TwoDevices:
    """A process with two host devices that sweeps whenever it is asked."""

    def __init__(self, sizes: dict[str, Any], count: int):
        flags = f"{os.environ.get('XLA_FLAGS', '')} {TWO}".strip()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.model_sweep", json.dumps(sizes), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"XLA_FLAGS": flags},
        )
        self.compile = self._answer()

    def run(self) -> Any:
        """The results of one sweep."""
        self._process.stdin.write("sweep\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the two-device process ended: {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "TwoDevices":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve(sizes: dict[str, Any], count: int) -> None:
    """Answers with the seconds to compile, then with the results of a sweep for every line."""
    setting = Setting(sizes)
    swept, seconds = timing.compile(setting.sweep(count), *setting.arguments)
    print(json.dumps(seconds), flush=True)
    for _ in sys.stdin:
        print(json.dumps(np.asarray(swept(*setting.arguments)).tolist()), flush=True)


if __name__ == "__main__" and len(sys.argv) == 3:
    _serve(json.loads(sys.argv[1]), int(sys.argv[2]))
