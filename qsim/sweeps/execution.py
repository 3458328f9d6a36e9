"""The program of policies that share a structure: its rows, and the executables that run them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsim.simulate.jaxprs import join_arguments
from qsim.sweeps.hoisting import hoist
from qsim.sweeps.hosts import several, spread
from qsim.sweeps.plan import (
    AXIS,
    INDEX,
    Alike,
    Layout,
    Table,
    grouped,
    looped,
    mapped,
    pack,
    require_rows,
    shared_out,
    unpacker,
)

__all__ = ["Executable", "Group", "Rows", "groups_of"]


class Rows(NamedTuple):
    """What differs from policy to policy, stacked."""

    policies: Table
    own: Any

    @property
    def count(self) -> int:
        return len(self.policies[INDEX])

    def at(self, places: np.ndarray) -> "Rows":
        """The rows at some places, which may repeat."""
        return jax.tree.map(lambda leaf: leaf[places], self)


class Group:
    """Policies of one static structure, and the places that they have among all."""

    def __init__(self, make: Callable, alike: Alike, own: Any):
        self.places = alike.places
        mine = np.array(alike.places)
        self.rows = Rows(pack(alike.policies), jax.tree.map(lambda leaf: leaf[mine], own))
        self._make, self._unpack = make, unpacker(alike.policies[0])
        self._whole: dict[Any, Callable] = {}
        self._executables: dict[Any, Executable] = {}

    @property
    def count(self) -> int:
        return len(self.places)

    def program(self, rest: Any) -> Callable:
        """The function of a row and of the arrays among the arguments."""

        def one(row: Rows, arrays):
            policy = self._unpack(row.policies)
            fn = self._make(policy) if row.own is None else self._make(policy, row.own)
            args, kwargs = join_arguments(arrays, rest)
            return fn(*args, **kwargs)

        return one

    def whole(self, how: Layout, arrays: Any, rest: Any) -> Any:
        """The results of all policies, a row for each, in one call; arrays may be traced."""
        if several(how.devices):
            executable = self.executable(how, math.ceil(self.count / how.width), arrays, rest)
            return executable.run(0, executable.most, executable.spread(arrays))[1]
        padded = np.arange(math.ceil(self.count / how.width) * how.width)
        rows = self.rows.at(np.minimum(padded, self.count - 1))
        if rest.key() not in self._whole:
            one = self.program(rest)

            def share(rows, arrays):
                late = _late(one, rows, arrays)
                return mapped(late, rows, rows.count, how.batch)

            self._whole[rest.key()] = jax.jit(shared_out(share, how.devices))
        results = self._whole[rest.key()](rows, arrays)
        if rows.count == self.count:
            return results
        return jax.tree.map(lambda leaf: leaf[: self.count], results)

    def executable(self, how: Layout, most: int, arrays: Any, rest: Any) -> "Executable":
        """An executable for up to ``most`` batches on every device, compiled once."""
        kinds = tuple(map(_kind, arrays))
        key = (tuple(how.devices), how.batch, most, kinds, rest.key())
        if key not in self._executables:
            self._executables[key] = Executable(self, how, most, kinds, rest)
        return self._executables[key]


def _late(one: Callable, rows: Rows, arrays: Any) -> Callable[[Rows], Any]:
    """The function of a row, after what no row touches has been done."""
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    hoisted = hoist(one, row, arrays)
    kept = hoisted.early(arrays)
    return lambda row: hoisted.late(row, arrays, kept)


class _Kind(NamedTuple):
    """What an executable knows of an array."""

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool


def _kind(array: Any) -> _Kind:
    aval = jax.typeof(array)
    return _Kind(aval.shape, aval.dtype, aval.weak_type)


def groups_of(make: Callable, policies: Sequence[Any], own: Any) -> list[Group]:
    """The policies in groups of one structure, each with its rows of ``own``.

    Raises:
        TypeError, ValueError: see ``grouped`` and ``require_rows``.
    """
    alike = grouped(policies)
    own = require_rows(own, len(policies))
    return [Group(make, each, own) for each in alike]


@dataclass(frozen=True)
class Executable:
    """What runs policies of a group, up to ``most`` batches of them on every device at a call.

    How many it is at a call is an argument, so that a call may be as long as one wants.
    """

    group: Group
    how: Layout
    most: int
    kinds: tuple[Any, ...]
    rest: Any

    @cached_property
    def lowered(self) -> Any:
        """The program, not yet compiled."""
        one = self.group.program(self.rest)

        def share(rows, rest):
            arrays, steps = rest
            return looped(_late(one, rows, arrays), rows, steps, self.how.batch)

        run = shared_out(share, self.how.devices)
        gathered = self._whole if several(self.how.devices) else None
        jitted = jax.jit(lambda *arguments: run(*arguments), out_shardings=gathered)
        arrays = [
            jax.ShapeDtypeStruct(*kind[:2], sharding=self._whole, weak_type=kind.weak_type)
            for kind in self.kinds
        ]
        return jitted.lower(*self._arguments(0, 1, arrays))

    @cached_property
    def compiled(self) -> Any:
        """The program, compiled."""
        return self.lowered.compile()

    @property
    def result_bytes(self) -> int:
        """The bytes of results on each device."""
        leaves = jax.tree.leaves(self.lowered.out_info)
        held = 1 if several(self.how.devices) else len(self.how.devices)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) // held

    def spread(self, arrays: Any) -> Any:
        """Arrays as the executable takes them: on every device."""
        return spread(arrays, self._whole)

    def run(self, start: int, steps: int, arrays: Any) -> tuple[list[int], Any, float]:
        """Places, results and seconds of so many batches on every device, from a policy on."""
        arguments = self._arguments(start, steps, arrays)
        call = self.compiled
        began = time.perf_counter()
        found = jax.block_until_ready(call(*arguments))
        seconds = time.perf_counter() - began
        devices, each = len(self.how.devices), steps * self.how.batch
        places = self.group.places[start : start + devices * each]

        def rows(leaf):
            blocks = np.asarray(leaf).reshape(devices, -1, *leaf.shape[1:])[:, :each]
            return blocks.reshape(-1, *leaf.shape[1:])[: len(places)]

        return places, jax.tree.map(rows, found), seconds

    def _arguments(self, start: int, steps: int, arrays: Any) -> tuple:
        """Rows, a block of ``most`` batches for each device, of which ``steps`` count; the rest."""
        each = steps * self.how.batch
        within = np.minimum(np.arange(self.most * self.how.batch), each - 1)
        places = start + each * np.arange(len(self.how.devices))[:, None] + within
        rows = self.group.rows.at(np.minimum(places.ravel(), self.group.count - 1))
        return spread(rows, self._split), (arrays, spread(np.int32(steps), self._whole))

    @cached_property
    def _split(self) -> NamedSharding:
        return self._sharding(AXIS)

    @cached_property
    def _whole(self) -> NamedSharding:
        return self._sharding()

    def _sharding(self, *axes: str) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self.how.devices), (AXIS,)), PartitionSpec(*axes))
