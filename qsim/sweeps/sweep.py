"""Many policies at once: one trace and one compilation for all that share their structure.

Policies whose modes agree are stacked, and the stack runs through one executable, shared out over
the devices there are. On each device it is mapped one policy after the other, or ``batch`` at a
time under ``vmap``. One at a time is the default on CPUs, where more would leave the cache (see
``benchmarks``), and eight on accelerators, which one small model does not fill.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from qsim.numbers.random_bits import Key
from qsim.numbers.records import shown
from qsim.simulate.jaxprs import join_arguments, split_arguments
from qsim.simulate.policy import Policy, as_policy
from qsim.simulate.quantizer import Quantizer
from qsim.simulate.transform import simulate

__all__ = ["stream", "stream_of", "sweep"]

AXIS = "policies"
INDEX = "index"

Table = dict[str, Any]


def sweep(
    fn: Callable,
    policies: Sequence[Any],
    *,
    params: int | Sequence[int] | None = None,
    states: int | Sequence[int] | None = None,
    caches: int | Sequence[int] | None = None,
    key: Key | None = None,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable:
    """A function that evaluates ``fn`` under every policy and stacks the results.

    Args:
        fn: any JAX function.
        policies: what ``qsim.simulate`` takes: policies, formats or spec strings. Those that
            differ in more than their formats (rounding mode, scale rule, which roles are
            quantized) are compiled apart.
        params, states, caches, key: as for ``qsim.simulate``.
        batch: how many policies run side by side under ``vmap``; by default one at a time on
            CPUs and eight on accelerators.
        devices: the devices to share the policies out over; by default all local ones.

    The returned function takes ``fn``'s arguments and returns its result with a leading axis, a
    row for each policy in the given order. A policy that diverges has its NaN in its own row.

    Raises:
        ValueError: for no policies, or a batch below 1.

    >>> x = jnp.array([[1.1, 2.7]])
    >>> sweep(lambda p, x: (x @ p["w"]).sum(), ["e2m1f", "e4m3"])({"w": x.T}, x).tolist()
    [10.0, 8.828125]
    """
    roles = {"params": params, "states": states, "caches": caches}
    make = lambda policy: simulate(fn, policy, **roles, key=key)  # noqa: E731
    plan = _plan(make, policies, batch, devices)

    def swept(*args, **kwargs):
        stacks = [group.run(group.leaves, args, kwargs) for group in plan]
        if len(stacks) == 1:
            return stacks[0]
        order = np.argsort(np.concatenate([group.places for group in plan]))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *stacks)

    return swept


def stream(
    fn: Callable,
    policies: Sequence[Any],
    *,
    params: int | Sequence[int] | None = None,
    states: int | Sequence[int] | None = None,
    caches: int | Sequence[int] | None = None,
    key: Key | None = None,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = 1,
) -> Callable[..., Iterator[tuple[list[int], Any, float]]]:
    """A function like that of ``sweep`` whose results come in chunks, for progress on long work.

    Args:
        fn, policies, params, states, caches, key, batch, devices: as for ``sweep``.
        chunk: policies in one call of the executable; rounded up to what fills the devices.

    The returned function takes ``fn``'s arguments and yields ``(places, results, seconds)``: the
    places of some policies in ``policies``, their results with a leading axis, and the seconds of
    the call, compilation not counted. The last chunk of a structure is padded to the size of the
    others, so that it compiles nothing new.

    Raises:
        ValueError: as ``sweep``, and for a chunk below 1.

    >>> x = jnp.array([[1.1, 2.7]])
    >>> parts = stream(lambda p, x: (x @ p["w"]).sum(), ["e2m1f", "e4m3"])({"w": x.T}, x)
    >>> sum((results.tolist() for _, results, _ in parts), [])
    [10.0, 8.828125]
    """
    roles = {"params": params, "states": states, "caches": caches}
    make = lambda policy: simulate(fn, policy, **roles, key=key)  # noqa: E731
    return stream_of(make, policies, batch=batch, devices=devices, chunk=chunk)


def stream_of(
    make: Callable[[Policy], Callable],
    policies: Sequence[Any],
    *,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = 1,
) -> Callable[..., Iterator[tuple[list[int], Any, float]]]:
    """As ``stream``, for programs of which a part is simulated.

    Args:
        make: gives the function of a policy, whose grids are traced.
        policies, batch, devices, chunk: as for ``stream``.
    """
    _require_positive("chunk", chunk)
    plan = _plan(make, policies, batch, devices)

    def streamed(*args, **kwargs):
        for group in plan:
            size = math.ceil(chunk / group.width) * group.width
            for start in range(0, len(group.places), size):
                places = group.places[start : start + size]
                rows = np.array([start + n % len(places) for n in range(size)])
                part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], group.leaves)
                call = group.compiled(part, args, kwargs)
                began = time.perf_counter()
                results = jax.block_until_ready(call())
                seconds = time.perf_counter() - began
                yield places, jax.tree.map(lambda leaf, n=len(places): leaf[:n], results), seconds

    return streamed


# --- planning -------------------------------------------------------------------------------


class _Group:
    """Policies of one static structure: their places in the sweep, stacked leaves, executable."""

    def __init__(self, places: list[int], policies: list[Policy], make, batch, devices):
        self.places = places
        devices = list(devices or jax.local_devices())
        batch = batch or (1 if devices[0].platform == "cpu" else 8)
        devices = devices[: max(1, math.ceil(len(places) / batch))]
        self.width = batch * len(devices)
        padding = [policies[-1]] * (-len(places) % self.width)
        self.leaves = _pack([*policies, *padding])
        unpack = partial(_unpack, jax.tree.leaves(policies[0]), jax.tree.structure(policies[0]))
        self._run = partial(_run, make, unpack, batch, devices)
        self._jitted: dict[Any, Any] = {}
        self._executables: dict[Any, Callable] = {}

    def run(self, leaves: Table, args: tuple, kwargs: dict) -> Any:
        """The results for a stack of policies, a row for each place."""
        arrays, rest = split_arguments(args, kwargs)
        results = self._jit(rest)(leaves, arrays)
        count = len(self.places)
        if len(leaves[INDEX]) == count:
            return results
        return jax.tree.map(lambda leaf: leaf[:count], results)

    def compiled(self, leaves: Table, args: tuple, kwargs: dict) -> Callable[[], Any]:
        """A call that gives the same results and compiles nothing more."""
        arrays, rest = split_arguments(args, kwargs)
        shapes = tuple((np.shape(array), np.dtype(array.dtype).name) for array in arrays)
        key = (len(leaves[INDEX]), shapes, rest.key())
        if key not in self._executables:
            self._executables[key] = self._jit(rest).lower(leaves, arrays).compile()
        return partial(self._executables[key], leaves, arrays)

    def _jit(self, rest: Any) -> Any:
        if rest.key() not in self._jitted:
            self._jitted[rest.key()] = jax.jit(partial(self._run, rest))
        return self._jitted[rest.key()]


def _pack(policies: list[Policy]) -> Table:
    """All leaves of one dtype as one array, a row for each policy: few arrays to slice and copy.

    There is one column more, so that also policies without grids have rows.
    """
    rows = [jax.tree.leaves(policy) for policy in policies]
    names = {np.dtype(leaf.dtype).name for leaf in rows[0]}
    table = {
        name: np.stack(
            [np.concatenate([np.ravel(leaf) for leaf in row if leaf.dtype == name]) for row in rows]
        )
        for name in names
    }
    return {**table, INDEX: np.arange(len(rows), dtype=np.int32)}


def _unpack(like: list[Any], tree: Any, row: Table) -> Policy:
    """The policy of a row, whose leaves have the shapes and dtypes of ``like``."""
    starts = dict.fromkeys(row, 0)
    leaves = []
    for leaf in like:
        name, size = np.dtype(leaf.dtype).name, np.size(leaf)
        part = row[name][starts[name] : starts[name] + size]
        leaves.append(part.reshape(np.shape(leaf)))
        starts[name] += size
    return jax.tree.unflatten(tree, leaves)


def _plan(make: Callable, policies: Sequence[Any], batch, devices) -> list[_Group]:
    if isinstance(policies, str) or not isinstance(policies, Sequence):
        raise TypeError(f"policies must be a sequence of policies or formats, got {policies!r}")
    if not policies:
        raise ValueError("a sweep needs at least one policy")
    if batch is not None:
        _require_positive("batch", batch)
    _require_devices(devices)
    chosen = [as_policy(policy).lower(known=True) for policy in policies]
    groups: dict[Any, list[int]] = {}
    for place, policy in enumerate(chosen):
        if any(q.grid.shape != ((q.layers,) if q.layers else ()) for q in _quantizers(policy)):
            raise ValueError("a sweep takes single formats; give the rows of a stack one by one")
        kind = jax.tree.structure(policy.among([])), _kinds(policy)
        groups.setdefault(kind, []).append(place)
    found = []
    for places in groups.values():
        alike = [chosen[place] for place in places]
        policies = [policy.among(alike) for policy in alike]
        found.append(_Group(places, policies, make, batch, devices))
    return found


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {shown(value)}, but it must be an integer such as 4")
    if value < 1:
        raise ValueError(f"{name} is {value}, but it must be at least 1")


def _require_devices(devices: object) -> None:
    if devices is None:
        return
    listed = list(devices) if isinstance(devices, Iterable) and not isinstance(devices, str) else []
    if not listed or not all(isinstance(device, jax.Device) for device in listed):
        raise TypeError(f"devices is a list such as jax.devices()[:1], got {shown(devices)}")


def _quantizers(policy: Policy) -> list[Quantizer]:
    return [rule.to for rule in policy.rules if isinstance(rule.to, Quantizer)]


def _kinds(policy: Policy) -> tuple:
    """What else the leaves of policies must share to be stacked: dtypes and shapes."""
    leaves = jax.tree.leaves(policy)
    return tuple((np.dtype(leaf.dtype), np.shape(leaf)) for leaf in leaves)


# --- running --------------------------------------------------------------------------------


def _run(make, unpack, batch: int, devices, rest, leaves: Table, arrays) -> Any:
    """The results for a stack of policies that fills batches and devices."""

    def one(row, arrays):
        args, kwargs = join_arguments(arrays, rest)
        return make(unpack(row))(*args, **kwargs)

    def share(leaves, arrays):
        return _map(lambda row: one(row, arrays), leaves, len(leaves[INDEX]), batch)

    if len(devices) > 1:
        split, whole = PartitionSpec(AXIS), PartitionSpec()
        mesh = Mesh(np.array(devices), (AXIS,))
        share = jax.shard_map(
            share, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
        )
    try:
        return share(leaves, arrays)
    except ValueError as error:
        if len(devices) > 1 and "context mesh" in str(error):
            raise ValueError(
                "a function that has a shard_map of its own takes the devices that a sweep shares "
                "policies out over: give the sweep one, devices=jax.devices()[:1]"
            ) from error
        raise


def _map(one: Callable, leaves: Table, count: int, batch: int) -> Any:
    """``one`` mapped over a stack whose length is a multiple of ``batch``."""
    if count == 1:
        result = one(jax.tree.map(lambda leaf: leaf[0], leaves))
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), result)
    if batch == 1:
        return lax.map(one, leaves)
    batched = jax.tree.map(lambda leaf: leaf.reshape(-1, batch, *leaf.shape[1:]), leaves)
    results = lax.map(jax.vmap(one), batched)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)
