"""Times that can be compared: contestants take turns in one process.

A machine's speed wanders by more than the differences of interest. So every contestant runs once
in each round, its time is divided by that of the yardstick in the same round, and the median over
the rounds is reported. Compilation is timed apart.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

FEW = 3  # rounds in which a slow contestant takes part
PAUSE = 0.01  # seconds between runs, so that the threads of one peer do not spin into the next

Seconds = dict[str, list[float]]


def seconds(run: Callable[[], Any]) -> float:
    """The time until the result of ``run`` is there."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    elapsed = time.perf_counter() - start
    del result  # freed after the clock has stopped
    return elapsed


def interleave(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int, slow: float = 0.5
) -> Seconds:
    """The seconds of every run, by contestant; run ``i`` of each belongs to round ``i``.

    Each contestant warms up with one run. Those that need more than ``slow`` seconds take part in
    the first few rounds only.
    """
    warm = {name: seconds(run) for name, run in contestants.items()}
    taken: Seconds = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:  # so that nobody always follows the same one
            if turn < FEW or warm[name] <= slow:
                time.sleep(PAUSE)
                taken[name].append(seconds(contestants[name]))
    return taken


def median(taken: Seconds, name: str) -> float:
    """The median seconds of a contestant."""
    return statistics.median(taken[name])


def ratio(taken: Seconds, name: str, yardstick: str) -> float:
    """The median over the rounds of a contestant's time divided by the yardstick's."""
    pairs = zip(taken[name], taken[yardstick], strict=False)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def compile(fn: Callable, *args: Any) -> tuple[Any, float]:
    """An executable of ``fn`` for these arguments, and the seconds to trace and compile it."""
    start = time.perf_counter()
    executable = jax.jit(fn).lower(*args).compile()
    return executable, time.perf_counter() - start


def cold(make: Callable[[], Callable[[], Any]]) -> tuple[Callable[[], Any], float]:
    """What ``make`` makes, and the seconds to make, trace, compile and run it the first time.

    Nothing of it may have been traced before; what it calls may.
    """
    start = time.perf_counter()
    run = make()
    jax.block_until_ready(run())
    return run, time.perf_counter() - start
