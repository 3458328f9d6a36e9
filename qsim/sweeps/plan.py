"""Policies that share an executable: those of one structure, packed as the rows of a few arrays."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from qsim.numbers.records import shown
from qsim.simulate.policy import Policy, as_policy
from qsim.simulate.quantizer import Quantizer
from qsim.sweeps.hosts import several

__all__ = [
    "AXIS",
    "INDEX",
    "Alike",
    "Layout",
    "Table",
    "grouped",
    "layout",
    "looped",
    "mapped",
    "pack",
    "require_positive",
    "require_rows",
    "shared_out",
    "unpacker",
]

AXIS = "policies"
INDEX = "index"
SIDE_BY_SIDE = {"cpu": 1}  # policies, by platform; accelerators are not filled by one small model
ACCELERATED = 8

Table = dict[str, Any]


class Alike(NamedTuple):
    """Policies of one static structure, and their places among all."""

    places: list[int]
    policies: list[Policy]


def grouped(policies: Sequence[Any]) -> list[Alike]:
    """The policies, lowered to grids, in groups of one structure.

    Raises:
        TypeError: for what is no sequence of policies.
        ValueError: for none at all, for unknown formats, and for stacks of them.
    """
    if isinstance(policies, str) or not isinstance(policies, Sequence):
        raise TypeError(f"policies must be a sequence of policies or formats, got {policies!r}")
    if not policies:
        raise ValueError("a sweep needs at least one policy")
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
        found.append(Alike(places, [policy.among(alike) for policy in alike]))
    return found


def _quantizers(policy: Policy) -> list[Quantizer]:
    return [rule.to for rule in policy.rules if isinstance(rule.to, Quantizer)]


def _kinds(policy: Policy) -> tuple:
    """What else the leaves of policies must share to be stacked: dtypes and shapes."""
    leaves = jax.tree.leaves(policy)
    return tuple((np.dtype(leaf.dtype), np.shape(leaf)) for leaf in leaves)


# --- rows -----------------------------------------------------------------------------------


def pack(policies: list[Policy]) -> Table:
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


def unpacker(policy: Policy) -> Callable[[Table], Policy]:
    """A function that makes a policy like this one of a row of ``pack``."""
    return partial(_unpack, jax.tree.leaves(policy), jax.tree.structure(policy))


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


def require_rows(own: Any, count: int) -> Any:
    """A tree of arrays that has a row for each of so many policies; None has none.

    Raises:
        ValueError: if it has fewer, more, or no leading axis.
    """

    def checked(leaf):
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if leaf.ndim == 0 or len(leaf) != count:
            raise ValueError(
                f"own has an array of shape {leaf.shape}, but it needs a leading axis of {count}, "
                "a row for each policy"
            )
        return leaf

    return jax.tree.map(checked, own)


def mapped(one: Callable, leaves: Any, count: int, batch: int) -> Any:
    """``one`` mapped over a stack whose length is a multiple of ``batch``."""
    if count == 1:
        result = one(jax.tree.map(lambda leaf: leaf[0], leaves))
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), result)
    if batch == 1:
        return lax.map(one, leaves)
    batched = jax.tree.map(lambda leaf: leaf.reshape(-1, batch, *leaf.shape[1:]), leaves)
    return jax.tree.map(_unbatched, lax.map(jax.vmap(one), batched))


def looped(one: Callable, rows: Any, steps: Any, batch: int) -> Any:
    """``one`` mapped over the first batches of a stack, ``steps`` of them; other results are 0.

    As many steps as the stack has batches give the results of ``mapped``.
    """
    run = jax.jit(one if batch == 1 else jax.vmap(one), inline=True)  # traced once
    if batch > 1:
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, batch, *leaf.shape[1:]), rows)
    most = len(jax.tree.leaves(rows)[0])

    def found(number):
        take = partial(lax.dynamic_index_in_dim, index=number, keepdims=False)
        return run(jax.tree.map(take, rows))

    if most == 1:
        results = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), found(0))
    else:
        put = partial(lax.dynamic_update_index_in_dim, axis=0)
        results = lax.fori_loop(
            0,
            steps,
            lambda n, done: jax.tree.map(lambda all, each: put(all, each, n), done, found(n)),
            jax.tree.map(
                lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), jax.eval_shape(found, 0)
            ),
        )
    return results if batch == 1 else jax.tree.map(_unbatched, results)


def _unbatched(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(-1, *leaf.shape[2:])


# --- devices --------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How rows are run: on these devices, so many at a time on each."""

    devices: list[jax.Device]
    batch: int

    @property
    def width(self) -> int:
        """The rows that run at a time, of which the number of rows is a multiple."""
        return self.batch * len(self.devices)


def layout(count: int, batch: int | None, devices: Sequence[jax.Device] | None) -> Layout:
    """The layout of a number of rows: as asked for, but on no more devices than are of use.

    Where the devices are of several processes all of them are used, as all processes take part.

    Raises:
        TypeError, ValueError: for what is no number of rows, and what are no devices.
    """
    if batch is not None:
        require_positive("batch", batch)
    _require_devices(devices)
    chosen = list(devices or jax.local_devices())
    if batch is None:
        each = math.ceil(count / len(chosen))
        useful = SIDE_BY_SIDE.get(chosen[0].platform, ACCELERATED)
        batch = min(useful, _power_of_two(each))
    needed = len(chosen) if several(chosen) else max(1, math.ceil(count / batch))
    return Layout(chosen[:needed], batch)


def _power_of_two(least: int) -> int:
    """The smallest power of two that is at least so much."""
    return 1 << max(0, least - 1).bit_length()


def shared_out(share: Callable, devices: Sequence[jax.Device]) -> Callable:
    """``share(rows, rest)``, each device with its part of the rows."""
    if len(devices) == 1:
        return share
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(
        share,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )

    def shared(rows, rest):
        try:
            return mapped(rows, rest)
        except ValueError as error:
            if "context mesh" in str(error):
                raise ValueError(
                    "a function that has a shard_map of its own takes the devices that a sweep "
                    "shares policies out over: give the sweep one, devices=jax.devices()[:1]"
                ) from error
            raise

    return shared


def require_positive(name: str, value: object) -> None:
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
