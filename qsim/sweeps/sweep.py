"""Many policies at once: one trace and one compilation for all that share their structure.

Policies whose modes agree are stacked, and the stack runs through one executable, shared out over
the devices there are. On each device it is mapped one policy after the other, or ``batch`` at a
time under ``vmap``. One at a time is the default on CPUs, where more would leave the cache (see
``benchmarks``), and eight on accelerators, which one small model does not fill.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsim.numbers.random_bits import Key
from qsim.simulate.jaxprs import split_arguments
from qsim.simulate.transform import simulate
from qsim.sweeps.execution import groups_of
from qsim.sweeps.plan import layout
from qsim.sweeps.planner import Wish
from qsim.sweeps.streaming import Part, Stream, warn

__all__ = ["Part", "stream", "stream_of", "sweep"]


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
    row for each policy in the given order. A policy that diverges has its NaN in its own row. What
    no policy touches is computed once for all; native float sums in it may differ in their last
    bits from those of a program simulated alone.

    Raises:
        ValueError: for no policies, or a batch below 1.

    >>> x = jnp.array([[1.1, 2.7]])
    >>> sweep(lambda p, x: (x @ p["w"]).sum(), ["e2m1f", "e4m3"])({"w": x.T}, x).tolist()
    [10.0, 8.828125]
    """
    roles = {"params": params, "states": states, "caches": caches}
    make = lambda policy: simulate(fn, policy, **roles, key=key)  # noqa: E731
    groups = groups_of(make, policies, None)
    layouts = [layout(group.count, batch, devices) for group in groups]

    def swept(*args, **kwargs):
        arrays, rest = split_arguments(args, kwargs)
        pairs = zip(groups, layouts, strict=True)
        stacks = [group.whole(how, arrays, rest) for group, how in pairs]
        if len(stacks) == 1:
            return stacks[0]
        order = np.argsort(np.concatenate([group.places for group in groups]))
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
    chunk: int | None = None,
) -> Callable[..., Iterator[tuple[list[int], Any, float]]]:
    """A function like that of ``sweep`` whose results come in chunks, for progress on long work.

    Args:
        fn, policies, params, states, caches, key, batch, devices: as for ``sweep``.
        chunk: policies in one call of the executable, rounded up to what fills the devices; by
            default one call at first, and then as many as last about a second.

    The returned function takes ``fn``'s arguments and yields ``(places, results, seconds)``: the
    places of some policies in ``policies``, their results with a leading axis, and the seconds of
    the call, compilation not counted. However many policies are in a chunk, each structure of them
    is compiled once. Chunks that run out of memory are run again in halves.

    Raises:
        ValueError: as ``sweep``, and for a chunk below 1.

    >>> x = jnp.array([[1.1, 2.7]])
    >>> parts = stream(lambda p, x: (x @ p["w"]).sum(), ["e2m1f", "e4m3"])({"w": x.T}, x)
    >>> sum((results.tolist() for _, results, _ in parts), [])
    [10.0, 8.828125]
    """
    roles = {"params": params, "states": states, "caches": caches}
    make = lambda policy: simulate(fn, policy, **roles, key=key)  # noqa: E731
    parts = stream_of(make, policies, batch=batch, devices=devices, chunk=chunk)
    return lambda *args, **kwargs: (part[:3] for part in parts(*args, **kwargs))


def stream_of(
    make: Callable,
    policies: Sequence[Any],
    *,
    own: Any = None,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    notice: Callable[[str], None] = warn,
) -> Stream:
    """As ``stream``, for programs of which a part is simulated, and in ``Part``s.

    Args:
        make: ``make(policy)``, or ``make(policy, own)`` with a row of ``own``, gives the function
            of a policy, whose grids are traced.
        own: what else differs from policy to policy, such as seeds: a tree of arrays with a
            leading axis, a row for each policy. It is traced too, and changes no executable.
        policies, batch, devices, chunk: as for ``stream``.
        memory: bytes that the sweep may take on each device, by default 80 % of what there is.
        notice: is told what becomes of a chunk that runs out of memory; by default a warning.

    The ``plan`` of what is returned takes ``fn``'s arguments too, and says how policies will run.

    Raises:
        TypeError, ValueError: as ``stream``, and for ``own`` without a row for each policy.

    >>> def make(policy, seed):
    ...     return lambda x: simulate(jnp.dot, policy)(x, x) + seed
    >>> parts = stream_of(make, ["e2m1f", "e4m3"], own=np.array([0.0, 1.0], np.float32))
    >>> sum((part.results.tolist() for part in parts(jnp.array([1.7]))), [])
    [2.25, 4.0625]
    >>> parts.plan(jnp.array([1.7])).programs[0].policies
    2
    """
    return Stream(groups_of(make, policies, own), Wish(batch, chunk, devices, memory, notice))
