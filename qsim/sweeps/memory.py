"""How much memory there is for a sweep, and when it was too little."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax

__all__ = ["is_out_of_memory", "room"]

FILL = 0.8  # of a device's memory


def room(devices: Sequence[jax.Device]) -> int | None:
    """The bytes that each of some devices of one kind has for a sweep; None if that is unknown."""
    mine = [device for device in devices if device.process_index == jax.process_index()]
    if not mine:
        return None
    if "bytes_limit" in (stats := mine[0].memory_stats() or {}):
        return int(FILL * stats["bytes_limit"])
    free = _free_memory() if mine[0].platform == "cpu" else None
    return None if free is None else int(FILL * free / len(mine))


def _free_memory() -> int | None:
    """The bytes of main memory that programs can still have, on Linux, or all that there are."""
    info = Path("/proc/meminfo")
    if info.exists():
        sizes = dict(line.split(":") for line in info.read_text().splitlines())
        return 1024 * int(sizes["MemAvailable"].split()[0])
    names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
    if not set(names) <= set(getattr(os, "sysconf_names", ())):
        return None
    return math.prod(os.sysconf(name) for name in names)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of JAX or of Python says that memory does not suffice."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
