"""The twenty labelled photos, cropped and scaled as the network was trained to see them.

Source: the preprocessing of tensorflow/tpu's EfficientNet-Lite: a centred square that leaves out a
margin of 16 in 256, resized with bicubic interpolation, then (x - 127) / 128.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from models.efficientnet_lite0.model import IMAGE_SIZE
from models.files import REMEDY, package_folder

NAME = re.compile(r"imagenet_\d{2}_(\d{1,3})\.jpg")


def load() -> tuple[np.ndarray, np.ndarray]:
    """Returns (photos, float32 [20, 224, 224, 3], and their ImageNet labels, int32 [20])."""
    found = paths()
    return np.stack([prepare(path) for path in found]), np.array(
        [label(path) for path in found], np.int32
    )


def paths() -> list[Path]:
    """Returns the paths of the twenty photos in foolbox 3.3.4, in order of their number."""
    found = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    if len(found) != 20:
        raise FileNotFoundError(f"{len(found)} of 20 photos found in 'foolbox/data'; {REMEDY}")
    return found


def prepare(path: Path) -> np.ndarray:
    """Returns one photo, float32 [224, 224, 3] with values in [-127/128, 1]."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    side = int(IMAGE_SIZE / (IMAGE_SIZE + 32) * min(image.size))
    left, top = ((length - side + 1) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    square = image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return (np.asarray(square, np.float32) - 127) / 128


def label(path: Path) -> int:
    """Returns the class at the end of the file's name, 0 to 999."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name!r} is not named imagenet_NUMBER_LABEL.jpg")
    return int(match[1])
