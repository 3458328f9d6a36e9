"""How many policies are run side by side, and how many in a call: within memory, and for progress.

An executable is compiled before anything runs, and says what it needs. On accelerators as many
policies run side by side as are of use and fit in 80 % of the memory of a device; on CPUs it is
one. A call is made to last about a second: results come often, and what a call costs besides does
not count. None of it changes a bit of the results, but policies that run side by side under
``vmap`` may have their sums in another order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax

from qsim.sweeps.execution import Executable, Group
from qsim.sweeps.hosts import least
from qsim.sweeps.memory import room
from qsim.sweeps.plan import Layout, layout

__all__ = ["Plan", "Program", "Size", "Wish", "first", "fitting", "program"]

RESULTS = 0.1  # of the memory, for the results of a call
MOST = 1024  # batches in a call


@dataclass(frozen=True)
class Program:
    """How the policies of one structure are run, by one executable.

    Attributes:
        policies: how many there are.
        batch: how many run side by side under ``vmap`` on each device.
        chunk: how many run in a call, at most.
        devices: how many devices share them.
        arguments, results, temporaries: bytes on each device, as the compiler has them.
        room: bytes that a device has for them, None if unknown.
        seconds: for all policies, None if the time of one is unknown.
    """

    policies: int
    batch: int
    chunk: int
    devices: int
    arguments: int
    results: int
    temporaries: int
    room: int | None
    seconds: float | None

    @property
    def bytes(self) -> int:
        """What a device needs."""
        return self.arguments + self.results + self.temporaries

    @property
    def fits(self) -> bool:
        return self.room is None or self.bytes <= self.room


@dataclass(frozen=True)
class Plan:
    """How policies are run: a program for each of their structures, one after the other."""

    programs: tuple[Program, ...]

    @property
    def policies(self) -> int:
        return sum(program.policies for program in self.programs)

    @property
    def bytes(self) -> int:
        """What a device needs at most, at a time."""
        return max(program.bytes for program in self.programs)

    @property
    def seconds(self) -> float | None:
        """For all policies, compilation not counted; None if the time of one is unknown."""
        each = [program.seconds for program in self.programs if program.seconds is not None]
        return sum(each) if len(each) == len(self.programs) else None


@dataclass(frozen=True)
class Wish:
    """What a user asks for; None leaves a choice to the planner.

    Attributes:
        batch, chunk: policies side by side, and in a call.
        devices: to share policies out over.
        memory: bytes that a sweep may take on each device.
        notice: is told what becomes of a sweep that runs out of memory.
    """

    batch: int | None
    chunk: int | None
    devices: Sequence[jax.Device] | None
    memory: int | None
    notice: Callable[[str], None]


class Size(NamedTuple):
    """A layout, and the batches that a call runs on every device, at most."""

    how: Layout
    most: int

    @property
    def smallest(self) -> bool:
        return self.how.batch == self.most == 1

    def halved(self) -> "Size":
        return Size(self.how._replace(batch=max(1, self.how.batch // 2)), max(1, self.most // 2))


def first(group: Group, wish: Wish) -> Size:
    """The size that is asked for, or of use."""
    how = layout(group.count, wish.batch, wish.devices)
    useful = -(-group.count // how.width)
    most = MOST if wish.chunk is None else -(-wish.chunk // how.width)
    return Size(how, min(most, useful))


def fitting(executable: Executable, wish: Wish) -> Size:
    """The size of an executable, or a smaller one where memory or its results ask for it."""
    how, most = executable.how, executable.most
    limit = least(room(how.devices) if wish.memory is None else wish.memory, how.devices)
    if limit is None:
        return Size(how, most)
    if wish.chunk is None:
        results = executable.result_bytes
        while most > 1 and results > RESULTS * limit:
            most, results = most // 2, results // 2
        if most < executable.most:
            return Size(how, most)
    if wish.batch is None:
        needs = program(executable, wish, None)
        batch, rest = how.batch, limit - needs.arguments - needs.results
        while batch > 1 and needs.temporaries * batch > rest * how.batch:
            batch //= 2
        if batch < how.batch:
            useful = -(-executable.group.count // (batch * len(how.devices)))
            return Size(how._replace(batch=batch), min(most * how.batch // batch, useful, MOST))
    return Size(how, most)


def program(executable: Executable, wish: Wish, seconds: float | None) -> Program:
    """What is known of an executable, of which all policies take so many seconds."""
    how, count = executable.how, executable.group.count
    memory = executable.compiled.memory_analysis()
    return Program(
        policies=count,
        batch=how.batch,
        chunk=min(executable.most * how.width, count),
        devices=len(how.devices),
        arguments=getattr(memory, "argument_size_in_bytes", 0),
        results=getattr(memory, "output_size_in_bytes", 0),
        temporaries=getattr(memory, "temp_size_in_bytes", 0),
        room=room(how.devices) if wish.memory is None else wish.memory,
        seconds=seconds,
    )
