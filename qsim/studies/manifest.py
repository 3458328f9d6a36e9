"""What a folder says of its study: ``manifest.json``, which is there as a whole or not at all.

It holds a version, a table of values that JSON has, and the SHA-256 checksum of both.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qsim.numbers.records import shown

__all__ = [
    "MANIFEST",
    "differences",
    "read_manifest",
    "require_plain",
    "unwritable",
    "write_manifest",
]

MANIFEST = "manifest.json"
TEMPORARY = ".qsim-"  # how the names of files begin that are not whole yet
VERSION = 1
MAX_BYTES = 1 << 28


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest in a folder holds; None if there is none.

    Raises:
        ValueError: if it is torn, or of another version.
    """
    path = folder / MANIFEST
    if not require_plain(path):
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        found = json.loads(path.read_bytes())
        version, checksum = found["version"], found["checksum"]
        if isinstance(version, int) and version > VERSION:
            raise ValueError(f"it is of version {version}; update jax-qsim, which reads {VERSION}")
        if not isinstance(found["manifest"], dict) or checksum != _checksum(found["manifest"]):
            raise ValueError("its checksum is not that of its content")
        return found["manifest"]
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no manifest of a study ({type(error).__name__}: {error}): restore that "
            "file, or choose another folder"
        ) from error


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder, which is durable when this returns.

    Raises:
        OSError: if it cannot be written; an earlier one is intact then.
        TypeError, ValueError: for values that JSON does not have.
    """
    content = {"version": VERSION, "manifest": manifest, "checksum": _checksum(manifest)}
    text = (json.dumps(content, indent=1) + "\n").encode()
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / MANIFEST)
        sync(folder)
    except OSError as error:
        raise unwritable(folder / MANIFEST, error) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def differences(stored: Any, mine: Any, name: str = "") -> Iterator[str]:
    """What differs in two values that JSON has, a line for each.

    >>> list(differences({"data": {"seed": 0, "size": 1}}, {"data": {"seed": 2, "size": 1}}))
    ['data.seed is 0 instead of 2']
    """
    if isinstance(stored, dict) and isinstance(mine, dict):
        for key in [*mine, *(key for key in stored if key not in mine)]:
            inner = f"{name}.{key}" if name else key
            yield from differences(stored.get(key), mine.get(key), inner)
    elif json.dumps(stored) != json.dumps(mine):
        yield f"{name} is {shown(stored)} instead of {shown(mine)}"


def require_plain(path: Path) -> bool:
    """Whether there is a file; a folder of somebody else may have links and pipes instead.

    Raises:
        ValueError: if there is something else.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no plain file; remove it, or choose another folder")
    return True


def sync(folder: Path) -> None:
    """Makes the names of the files in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: Exception) -> OSError:
    """The error of a write that failed, with what people need to know of it."""
    reason = getattr(error, "strerror", None) or error
    try:
        free = f"; {shutil.disk_usage(path.parent).free} bytes are free there"
    except OSError:
        free = ""
    return OSError(f"cannot write {path}: {reason}{free}; what was written before is intact")


def _checksum(manifest: Mapping[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"qsim study {VERSION} {canonical}".encode()).hexdigest()
