"""Several hosts: processes that share policies out over all of their devices.

Every process runs the same program and calls the same functions with the same arguments; policies
are rows of an array that is sharded over a mesh of the devices of all processes, and results are
gathered, so that each process has all of them. With ``devices=jax.devices()`` a sweep does so::

    qsim.sweeps.hosts.join("10.0.0.1:8476", count=2, number=0)   # 1 on the other host
    qsim.sweep(fn, policies, devices=jax.devices())
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from qsim.numbers.records import shown

__all__ = ["OthersWait", "agreed", "join", "least", "of_first", "several", "spread"]


class OthersWait(RuntimeError):
    """This process cannot go on, and the others wait for it: the run is over."""


def join(coordinator: str, count: int, number: int) -> None:
    """Joins the processes of a run; returns when all are there.

    It is called before anything is computed, by every process.

    Args:
        coordinator: ``host:port`` of process 0, which every process can reach.
        count: the number of processes.
        number: of this process, in 0..count-1.

    Raises:
        TypeError, ValueError: for what is no address, no count or no number.
        RuntimeError: if JAX has computed before, or others do not come.
    """
    _require_address(coordinator)
    for name, value in {"count": count, "number": number}.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {shown(value)}, but it must be an integer")
    if count < 1:
        raise ValueError(f"count is {count}, but a run has at least 1 process")
    if not 0 <= number < count:
        raise ValueError(f"number is {number}, but {count} processes have numbers 0..{count - 1}")
    jax.distributed.initialize(coordinator, num_processes=count, process_id=number)


def _require_address(coordinator: object) -> None:
    if not isinstance(coordinator, str):
        raise TypeError(f"coordinator is {shown(coordinator)}, but it must be text, host:port")
    _, _, port = coordinator.rpartition(":")
    if not re.fullmatch(r"[^\s/]+:\d+", coordinator) or not 0 < int(port) < 2**16:
        raise ValueError(
            f"coordinator is {coordinator!r}, but it must be an address such as 10.0.0.1:8476"
        )


def several(devices: Sequence[jax.Device]) -> bool:
    """Whether some of the devices are of other processes."""
    return any(device.process_index != jax.process_index() for device in devices)


def spread(tree: Any, sharding: Sharding) -> Any:
    """Arrays that every process has, laid out over devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def laid_out(leaf):
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(laid_out, tree)


def agreed(value: float, devices: Sequence[jax.Device]) -> float:
    """A number on which the processes of the devices agree: that of process 0."""
    return float(of_first(np.float32(value))) if several(devices) else value


def least(value: int | None, devices: Sequence[jax.Device]) -> int | None:
    """The least of the numbers that the processes of the devices have; None is more than any."""
    if not several(devices):
        return value
    mine = np.float32(np.inf if value is None else value)
    found = float(np.min(multihost_utils.process_allgather(mine)))
    return None if np.isinf(found) else int(found)


def of_first(array: Any) -> Any:
    """What process 0 has for an array that all processes have, of the same shape and dtype."""
    return array if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(array)
