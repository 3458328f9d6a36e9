"""One writer at a time: a lock on a folder.

The lock is the operating system's (``flock``) on a file in the folder, so that it ends with the
process that holds it, however that ends. The file stays, and says who holds the lock, for people.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

__all__ = ["LOCK", "locked", "writer"]

LOCK = "lock"
HOLDER = re.compile(rb"process \d{1,12} since [\d: -]{1,32}\n")
# the folder may come from somebody else: a link, or a pipe that nobody writes to, is not opened
CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context in which no other process writes to the folder.

    Args:
        folder: a folder that can be written to.

    Raises:
        ValueError: if another process holds the lock, or there can be none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder)):
    ...     print((Path(folder) / LOCK).read_text())  # doctest: +ELLIPSIS
    process ... since ...
    """
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | CAREFUL, 0o600)
    except OSError as error:
        raise ValueError(f"cannot lock {path}: {error.strerror}; remove that file") from error
    try:
        _take(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(
            lock, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode(), 0
        )
        yield
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # it may be held by ``writer``, for a moment
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{folder} is being written by {_holder(lock)}; wait for it or stop it"
        ) from error
    except OSError as error:
        raise ValueError(
            f"cannot lock {folder}: {error.strerror}; choose a folder of a local disk"
        ) from error


def writer(folder: Path) -> str | None:
    """Who writes to a folder, such as ``process 12 since 2026-01-01 10:00:00``; None if nobody."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | CAREFUL)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(lock)
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def _holder(lock: int) -> str:
    said = os.pread(lock, 80, 0)
    return said.decode().strip() if HOLDER.fullmatch(said) else "another process"
