"""Claim: training many formats takes one compilation, and each little more than a float32 run.

32 formats for the operands of all products, forward and backward, from 2 seeds: per run and step at
most 1.25 times the step of the plain program, which is jitted alone and takes turns with the
others. Beside it the same runs in a Python loop over one executable, and in one that compiles anew
for every format.

    python -m benchmarks.train_sweep [--formats N] [--seeds S] [--steps N] [--policy TEXT]
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax
from jax import lax

import qsim
from benchmarks import record, timing
from models.byte_lm.model import Config
from models.byte_lm.task import task
from qsim.training.sweep import train_sweep
from qsim.training.tasks import Course

LIMIT, STATIC = 1.25, 3  # times the float32 step; formats that get an executable of their own
PLAIN = "float32 alone"
FORMATS = [f"e{e}m{m}" for m in range(8) for e in (5, 4, 3, 2)]
COMPILING, TRAINING = "/jax/core/compile/backend_compile_duration", "jit(training)"
COLUMNS = {
    "name": "by",
    "runs": "runs",
    "programs": "programs compiled",
    "compile": "trace and compile, s",
    "milliseconds": "ms per run and step",
    "ratio": "times the float32 step",
    "total": "a round, compilation included, s",
    "difference": "largest relative difference of losses",
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("--formats", type=int, default=len(FORMATS), help="up to 32")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of every run in a round")
    parser.add_argument("--policy", default="operands={}", help="with {} for the format")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2, help="of the model, 32 wide each")
    options = parser.parse_args()
    names = "formats", "seeds", "steps", "policy", "layers", "heads"
    sizes = {name: getattr(options, name) for name in names}
    record.run("train_sweep", __doc__, options, lambda: measured(sizes, options.repeats), **sizes)


class Setting:
    """The byte model and Adam, policies and seeds, and a batch for every step."""

    def __init__(self, sizes: dict[str, Any], repeats: int):
        config = Config(context=64, layers=sizes["layers"], heads=sizes["heads"], head_width=32)
        byte_lm = task(config)
        self.course = Course(byte_lm, optax.adam(byte_lm.rate))
        self.steps, self.repeats = sizes["steps"], repeats
        self.policies = [sizes["policy"].format(fmt) for fmt in FORMATS[: sizes["formats"]]]
        self.seeds = list(range(sizes["seeds"]))
        self.runs = len(self.policies) * len(self.seeds)
        keys = jax.random.split(jax.random.key(0), (1 + repeats) * self.steps)
        self.batches = jax.device_get(jax.jit(lambda keys: lax.map(byte_lm.draw, keys))(keys))
        init = jax.jit(self.course.init)
        self.begun = [init(jax.random.key(seed)) for seed in self.seeds]
        self.title = (
            f"{len(self.policies)} formats x {len(self.seeds)} seeds, {sizes['policy']!r}; "
            f"{config.layers} layers of width {32 * config.heads}, 8 x 64 bytes, Adam"
        )

    def round(self, policy: Any, begun: Any, batches: Any) -> jax.Array:
        """The losses of a run's first steps under a policy, None being the plain program."""
        step: Callable = self.course.step
        if policy is not None:
            step = qsim.simulate(step, policy, params=0, states=1)

        def once(state, batch):
            params, states, metrics = step(*state, batch)
            return (params, states), metrics["loss"]

        return lax.scan(once, begun, batches)[1]

    @property
    def first(self) -> Any:
        """The batches of the first round."""
        return jax.tree.map(lambda x: x[: self.steps], self.batches)

    def row(
        self, name: str, programs: int, seconds: float, taken: timing.Runs, losses: np.ndarray
    ) -> dict[str, Any]:
        """A row of the table; ``losses`` are those of a round, ``[policies, seeds, steps]``."""
        runs = losses.size // self.steps
        facts = taken.facts(units=runs)
        round = seconds + statistics.median(taken.seconds)
        return {
            **facts,
            "name": name,
            "runs": runs,
            "programs": programs,
            "compile": seconds,
            "milliseconds": facts["milliseconds"] / self.steps,
            "total": round * self.runs / runs,
        }


def measured(sizes: dict[str, Any], repeats: int) -> dict[str, Any]:
    """The section and the targets of the record."""
    setting = Setting(sizes, repeats)
    plain, seconds = timing.compile(partial(setting.round, None), setting.begun[0], setting.first)
    alone = lambda: plain(setting.begun[0], setting.first)  # noqa: E731
    ours, losses = _swept(setting, alone)
    looped = _looped(setting, alone, losses)
    recompiled = _recompiled(setting, alone, losses)
    step = timing.Runs([timing.seconds(alone) for _ in range(repeats)], [1.0])
    one = setting.row(PLAIN, 1, seconds, step, np.asarray(alone())) | {"total": None}
    targets = [
        record.target("times the float32 step, per run", ours["ratio"], at_most=LIMIT),
        record.target("programs that are compiled", ours["programs"], at_most=1),
    ]
    section = record.section(setting.title, COLUMNS, [one, ours, looped, recompiled])
    return {"sections": [section], "targets": targets, "absent": []}


def _swept(setting: Setting, alone: Callable) -> tuple[dict[str, Any], np.ndarray]:
    """By ``train_sweep``: a round is what happens between two calls of ``progress``.

    The first round begins with the compilation.
    """
    rounds, compiled = [], []
    before, since = timing.seconds(alone), time.perf_counter()

    def note(event: str, seconds: float, **facts: Any) -> None:
        if event == COMPILING and facts.get("fun_name") == TRAINING:
            compiled.append(seconds)

    def progress(done: int, total: int) -> None:
        nonlocal before, since
        mine = time.perf_counter() - since
        after = timing.seconds(alone)
        rounds.append((mine, mine / statistics.mean([before, after])))
        before, since = after, time.perf_counter()

    jax.monitoring.register_event_duration_secs_listener(note)
    runs = train_sweep(
        setting.course.init,
        setting.course.step,
        setting.policies,
        batches=setting.batches,
        seeds=setting.seeds,
        every=setting.steps,
        progress=progress,
    )
    jax.monitoring.unregister_event_duration_listener(note)
    taken = timing.Runs(*map(list, zip(*rounds[1:], strict=True)))
    seconds = rounds[0][0] - statistics.median(taken.seconds)
    losses = runs.loss[..., : setting.steps]
    name = f"qsim.train_sweep, devices: {len(jax.local_devices())}"
    return setting.row(name, len(compiled), seconds, taken, losses), losses


def _looped(setting: Setting, alone: Callable, losses: np.ndarray) -> dict[str, Any]:
    """A Python loop over one executable whose formats are arguments."""
    policies = [qsim.policy(policy).lower() for policy in setting.policies]
    run, seconds = timing.compile(setting.round, policies[0], setting.begun[0], setting.first)

    def loop() -> list[jax.Array]:
        return [run(policy, begun, setting.first) for policy in policies for begun in setting.begun]

    name = "loop, formats as arguments"
    return _raced(setting, alone, name, 1, seconds, loop, losses)


def _recompiled(setting: Setting, alone: Callable, losses: np.ndarray) -> dict[str, Any]:
    """A Python loop that compiles for every format; some of them."""
    chosen = setting.policies[:STATIC]
    made = [
        timing.compile(partial(setting.round, policy), setting.begun[0], setting.first)
        for policy in chosen
    ]

    def loop() -> list[jax.Array]:
        return [run(begun, setting.first) for run, _ in made for begun in setting.begun]

    name = "loop, compiled for every format"
    seconds = sum(seconds for _, seconds in made)
    return _raced(setting, alone, name, len(made), seconds, loop, losses)


def _raced(
    setting: Setting,
    alone: Callable,
    name: str,
    programs: int,
    seconds: float,
    loop: Callable[[], list[jax.Array]],
    truth: np.ndarray,
) -> dict[str, Any]:
    runs = {PLAIN: alone, name: loop}
    taken = timing.interleave(runs, PLAIN, repeats=min(3, setting.repeats))[name]
    losses = np.stack(loop()).reshape(-1, *truth.shape[1:])
    truth = truth[: len(losses)]
    worst = float(np.max(np.abs(losses - truth) / np.abs(truth)))
    return setting.row(name, programs, seconds, taken, losses) | {"difference": worst}


if __name__ == "__main__":
    main()
