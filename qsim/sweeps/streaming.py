"""Results that come in parts: calls of an executable, each of which lasts about a second.

The first call is short, and says how long a policy takes. A call that runs out of memory is run
again in halves; what was found before it stays.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from qsim.simulate.jaxprs import split_arguments
from qsim.sweeps.execution import Executable, Group
from qsim.sweeps.hosts import OthersWait, agreed, several
from qsim.sweeps.memory import is_out_of_memory
from qsim.sweeps.plan import require_positive
from qsim.sweeps.planner import Plan, Wish, first, fitting, program

__all__ = ["Part", "Stream", "warn"]

SECONDS = 1.0  # that a call lasts, if one policy takes no longer


class Part(NamedTuple):
    """What one call of an executable found.

    Attributes:
        places: of its policies among those given.
        results: a tree of NumPy arrays with a leading axis, a row for each place.
        seconds: of the call, compilation not counted.
        batch: how many policies ran side by side under ``vmap``.
    """

    places: list[int]
    results: Any
    seconds: float
    batch: int


class Stream:
    """A function of arguments that yields ``Part``s, and that says beforehand how it will."""

    def __init__(self, groups: list[Group], wish: Wish):
        for name in ("chunk", "memory"):
            if (value := getattr(wish, name)) is not None:
                require_positive(name, value)
        self._groups, self._wish = groups, wish
        self._sizes = {number: first(group, wish) for number, group in enumerate(groups)}

    def plan(self, *args, timed: bool = False, **kwargs) -> Plan:
        """The plan for arguments; compiles every program, for the stream itself as well.

        Args:
            timed: whether one policy for each device is run, twice, to see how long it takes,
                where that fits in memory.
        """
        arrays, rest = split_arguments(args, kwargs)
        programs = []
        for number in self._sizes:
            executable = self._executable(number, arrays, rest)
            known = program(executable, self._wish, None)
            if timed and known.fits:
                seconds = _seconds(executable, executable.spread(arrays))
                known = replace(known, seconds=seconds)
            programs.append(known)
        return Plan(tuple(programs))

    def __call__(self, *args, **kwargs) -> Iterator[Part]:
        arrays, rest = split_arguments(args, kwargs)
        for number, group in enumerate(self._groups):
            start = 0
            while start < group.count:
                try:
                    for part in self._parts(number, start, arrays, rest):
                        start += len(part.places)
                        yield part
                except (MemoryError, jax.errors.JaxRuntimeError) as error:
                    self._shrink(number, error)

    def _parts(self, number: int, start: int, arrays: list, rest: Any) -> Iterator[Part]:
        """What a group's policies give from one of them on."""
        executable = self._executable(number, arrays, rest)
        how, count = executable.how, executable.group.count
        arrays = executable.spread(arrays)
        steps = 1 if self._wish.chunk is None else executable.most
        while start < count:
            steps = min(steps, -(-(count - start) // how.width))
            places, results, taken = executable.run(start, steps, arrays)
            yield Part(places, results, taken, how.batch)
            start += len(places)
            if self._wish.chunk is None:
                each = agreed(taken, how.devices) / steps
                steps = max(1, min(executable.most, int(SECONDS / max(each, 1e-9))))

    def _executable(self, number: int, arrays: list, rest: Any) -> Executable:
        """What runs a group, of the largest size that fits."""
        while True:
            how, most = self._sizes[number]
            executable = self._groups[number].executable(how, most, arrays, rest)
            smaller = fitting(executable, self._wish)
            if smaller == self._sizes[number]:
                return executable
            self._sizes[number] = smaller

    def _shrink(self, number: int, error: Exception) -> None:
        """Makes a group's calls smaller, after one that ran out of memory."""
        how, most = size = self._sizes[number]
        if not is_out_of_memory(error):
            raise error
        reason = str(error).partition("\n")[0]
        if several(how.devices):
            raise OthersWait(
                f"out of memory on process {jax.process_index()}, on which the others wait: start "
                f"again with a smaller batch or chunk than {how.batch} and {most * how.width} "
                f"({reason})"
            ) from error
        if size.smallest:
            raise type(error)(
                "out of memory with a single policy: take fewer or smaller batches of data, or a "
                f"device with more memory ({reason})"
            ) from error
        self._sizes[number] = smaller = size.halved()
        self._wish.notice(
            f"out of memory with {how.batch} policies side by side and up to {most * how.width} in "
            f"a call; goes on with {smaller.how.batch} and {smaller.most * smaller.how.width}"
        )


def _seconds(executable: Executable, arrays: Any) -> float:
    """What all policies will take, from two calls, of which the first one warms up."""
    *_, seconds = [executable.run(0, 1, arrays)[2] for _ in range(2)]
    return seconds * math.ceil(executable.group.count / executable.how.width)


def warn(text: str) -> None:
    """A notice as a warning."""
    warnings.warn(text, RuntimeWarning, stacklevel=2)
