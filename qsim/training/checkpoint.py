"""Checkpoints of training runs: a folder with arrays, and a manifest that says what they are.

``manifest.json`` holds what the runs are (their policies, seeds, steps, a digest of the compiled
program, versions) and, for each part, the name of its file and how far it is. A part is the runs of
one structure; its file is a plain ``.npz``, without pickles. Files are written under another name
and then renamed, the manifest last: whoever is killed leaves the checkpoint before or the one
after. The steps of a run are the same in however many sittings they are done.
"""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

__all__ = ["Checkpoint", "discard", "is_unfinished"]

MANIFEST = "manifest.json"
VERSION = 1


def is_unfinished(folder: Path) -> bool:
    """Whether a folder has a checkpoint of runs with steps left to do.

    Raises:
        ValueError: if its manifest cannot be read.
    """
    manifest = _manifest(folder)
    if manifest is None:
        return False
    facts, parts = manifest["facts"], manifest["parts"].values()
    return sum(part["step"] == facts["steps"] for part in parts) < facts["parts"]


def discard(folder: Path) -> None:
    """Deletes the checkpoint in a folder, if there is one, and nothing else."""
    manifest = _manifest(folder)
    if manifest is not None:
        (folder / MANIFEST).unlink()
        for part in manifest["parts"].values():
            (folder / part["file"]).unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of some runs.

    Attributes:
        folder: where it is; made when something is saved.
        facts: what the runs are, by name: values that JSON can hold. ``steps`` and ``parts`` are
            their number.
        parts: what has been saved, by the number of the part: the file and the step.

    Raises:
        ValueError: if the folder has runs of other facts, or cannot be read.
    """

    folder: Path
    facts: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        manifest = _manifest(self.folder)
        if manifest is not None:
            _require_same(self.folder, manifest["facts"], self.facts)
            self.parts.update(manifest["parts"])

    def require(self, facts: Mapping[str, Any]) -> None:
        """More facts, of which it takes longer to find out.

        Raises:
            ValueError: if the folder has runs of other facts.
        """
        manifest = _manifest(self.folder)
        if manifest is not None:
            _require_same(self.folder, manifest["facts"], facts)
        self.facts.update(facts)

    def restore(self, part: int, like: Any) -> Any | None:
        """The arrays of a part in the structure of ``like``; None if there are none.

        Raises:
            ValueError: if the file cannot be read, or has other arrays.
        """
        if str(part) not in self.parts:
            return None
        path = self.folder / self.parts[str(part)]["file"]
        leaves, tree = jax.tree.flatten(like)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = [stored[f"{n}"] for n in range(len(leaves))]
            restored = [_as(leaf, array) for leaf, array in zip(leaves, found, strict=True)]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read: {error}; delete {self.folder}") from error
        return jax.tree.unflatten(tree, restored)

    def step(self, part: int) -> int:
        """The step up to which a part has been saved."""
        return self.parts[str(part)]["step"]

    def save(self, part: int, step: int, arrays: Any) -> None:
        """Stores the arrays of a part, which are those after a step, in place of earlier ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{part}-step-{step}.npz"
        leaves = {f"{n}": _plain(leaf) for n, leaf in enumerate(jax.tree.leaves(arrays))}
        _replace(self.folder / name, lambda file: np.savez(file, **leaves))
        before = self.parts.get(str(part), {}).get("file", name)
        self.parts[str(part)] = {"file": name, "step": step}
        manifest = {"version": VERSION, "facts": self.facts, "parts": self.parts}
        text = json.dumps(manifest, indent=1) + "\n"
        _replace(self.folder / MANIFEST, lambda file: file.write(text.encode()))
        if before != name:
            (self.folder / before).unlink(missing_ok=True)


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        if manifest["version"] != VERSION or not isinstance(manifest["facts"]["steps"], int):
            raise ValueError(f"version {manifest['version']} instead of {VERSION}")
        return manifest
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no manifest of training runs ({type(error).__name__}: {error}): choose "
            "another folder, or delete this one"
        ) from error


def _require_same(folder: Path, stored: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    for name, mine in facts.items():
        found = stored.get(name)
        if found != mine:
            short = max(len(str(found)), len(str(mine))) < 60
            raise ValueError(
                f"{folder} holds runs with other {name}"
                f"{f', {found} instead of {mine}' if short else ''}: choose another folder, or "
                "delete this one"
            )


def _plain(leaf: Any) -> np.ndarray:
    """An array that NumPy's format can hold: of extension types the bytes."""
    array = np.asarray(leaf)
    return array if array.dtype.isbuiltin == 1 else array.reshape(-1).view(np.uint8)


def _as(like: Any, stored: np.ndarray) -> np.ndarray:
    """What was stored, with the dtype and the shape that it had."""
    dtype, shape = np.dtype(like.dtype), tuple(like.shape)
    array = stored if dtype.isbuiltin == 1 else stored.view(dtype).reshape(shape)
    if (array.dtype, array.shape) != (dtype, shape):
        raise ValueError(f"it has {array.dtype}{array.shape} instead of {dtype}{shape}")
    return array


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
