"""Files inside registry packages: located without importing the package, and checked before use."""

import hashlib
import importlib.util
from pathlib import Path

REMEDY = "run `make models`"


def package_folder(name: str, remedy: str = REMEDY) -> Path:
    """Returns the folder of an installed package without importing it.

    Raises FileNotFoundError, with the remedy, when it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {name!r} is not installed; {remedy}")
    return Path(spec.submodule_search_locations[0])


def packaged(package: str, inside: str, sha256: str, remedy: str = REMEDY) -> Path:
    """Returns the path of the file `inside` a package, whose content is the one we know.

    Raises FileNotFoundError, with the remedy, when the package or the file is missing, and
    ValueError when the file's SHA-256 is another.
    """
    path = existing(package_folder(package, remedy) / inside, remedy)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: sha256 is {found}, not {sha256}; {remedy}")
    return path


def existing(path: Path, remedy: str = REMEDY) -> Path:
    """Returns the path if there is a file, and raises FileNotFoundError with the remedy if not."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name!r} is missing from its package; {remedy}")
    return path
