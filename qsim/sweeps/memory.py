"""How much memory there is for a sweep, and when it was too little."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

__all__ = ["is_out_of_memory", "room"]

FILL = 0.8  # of a device's memory
# how XLA says it: devices, and the library of its CPU back end
SIGNS = "RESOURCE_EXHAUSTED", "out of memory", "YNNPACK operation failed"
CGROUPS = {  # by the files of a limit and of what is used
    "/sys/fs/cgroup/memory.max": "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "/sys/fs/cgroup/memory/memory.usage_in_bytes",
}


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
    """The bytes of main memory that this process can still have, or all that there are."""
    known = [_of_machine(), *_of_container(), *_of_process()]
    return min((each for each in known if each is not None), default=None)


def _of_machine() -> int | None:
    with contextlib.suppress(OSError):
        return _sizes("/proc/meminfo")["MemAvailable"]
    names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
    if not set(names) <= set(getattr(os, "sysconf_names", ())):
        return None
    return math.prod(os.sysconf(name) for name in names)


def _sizes(file: str) -> dict[str, int]:
    """The bytes by name that a file of Linux lists in kB."""
    words = [line.split() for line in Path(file).read_text().splitlines()]
    return {each[0].rstrip(":"): 1024 * int(each[1]) for each in words if each[-1] == "kB"}


def _of_container() -> Iterator[int]:
    for limit, used in CGROUPS.items():
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            taken = int(Path(used).read_text()) - _reclaimable(Path(used).with_name("memory.stat"))
            yield max(0, int(Path(limit).read_text()) - taken)


def _reclaimable(statistics: Path) -> int:
    """The bytes of files that a container has read, and that the system can drop."""
    with contextlib.suppress(OSError, ValueError):
        found = dict(line.split() for line in statistics.read_text().splitlines())
        return int(found.get("total_inactive_file", found.get("inactive_file", 0)))
    return 0


def _of_process() -> Iterator[int]:
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on every system

        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - _sizes("/proc/self/status")["VmData"])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of JAX or of Python says that memory does not suffice."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
