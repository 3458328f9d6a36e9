"""Times that can be compared: contestants take turns in one process.

A machine's speed wanders by more than the differences of interest. So every contestant runs once
in each round, right between two runs of the yardstick, and its time is divided by the mean of
theirs. The median over the rounds is reported. Compilation is timed apart.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

FEW = 3  # rounds in which a slow contestant takes part
PAUSE = 0.01  # seconds between runs, so that the threads of one peer do not spin into the next


@dataclass
class Runs:
    """The runs of one contestant: their seconds, and these in units of the yardstick's."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def facts(self, *, units: int = 1, yardsticks: int = 1) -> dict[str, Any]:
        """Medians, for a run of that many units beside a yardstick of that many."""
        return {
            "milliseconds": 1e3 * statistics.median(self.seconds) / units,
            "ratio": statistics.median(self.ratios) * yardsticks / units,
            "seconds": self.seconds,
            "ratios": self.ratios,
        }


def seconds(run: Callable[[], Any]) -> float:
    """The time until the result of ``run`` is there."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    elapsed = time.perf_counter() - start
    del result  # freed after the clock has stopped
    return elapsed


def interleave(
    contestants: Mapping[str, Callable[[], Any]],
    yardstick: str,
    *,
    repeats: int,
    slow: float = 0.5,
) -> dict[str, Runs]:
    """The runs of every contestant, of which one is the yardstick.

    Each contestant warms up with one run. Those that need more than ``slow`` seconds take part in
    the first few rounds only.
    """
    warm = {name: seconds(run) for name, run in contestants.items()}
    taken = {name: Runs() for name in contestants}
    before = seconds(contestants[yardstick])
    for turn in range(repeats):
        for name, run in contestants.items():
            if name != yardstick and (turn < FEW or warm[name] <= slow):
                mine, after = seconds(run), seconds(contestants[yardstick])
                _note(taken[name], mine, (before + after) / 2)
                _note(taken[yardstick], after, after)
                before = after
    return taken


def _note(runs: Runs, mine: float, unit: float) -> None:
    runs.seconds.append(mine)
    runs.ratios.append(mine / unit)


def compile(fn: Callable, *args: Any) -> tuple[Any, float]:
    """An executable of ``fn`` for these arguments, and the seconds to trace and compile it."""
    start = time.perf_counter()
    executable = jax.jit(lambda *args: fn(*args)).lower(*args).compile()  # new, so not cached
    return executable, time.perf_counter() - start


def cold(
    make: Callable[[], Callable[[], Any]], *, tries: int = 1, slow: float = 1.0
) -> tuple[Callable[[], Any], float]:
    """What ``make`` makes, and the seconds to make, trace, compile and run it the first time.

    The median of several tries, unless one takes more than ``slow`` seconds. Nothing of it may
    have been traced before; what it calls may.
    """
    taken: list[float] = []
    while len(taken) < tries and not (taken and taken[0] > slow):
        start = time.perf_counter()
        run = make()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return run, statistics.median(taken)
