"""Fifty short news texts, and how alike people find each pair of them: 1,225 ratings.

`lee.cor` has a text in each line, in Latin-1. `similarities0-1.txt` is a square table whose upper
triangle holds the mean ratings, from 0.2 for unrelated to 1 for much alike.

Source: Lee, Pincombe and Welsh 2005, An empirical evaluation of models of text document similarity.
"""

from pathlib import Path

import numpy as np

from models.files import packaged

PACKAGE = "gensim"  # 4.4.0
TEXTS = "test/test_data/lee.cor"
TEXTS_SHA256 = "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e"
RATINGS = "test/test_data/similarities0-1.txt"
RATINGS_SHA256 = "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79"
LIMIT = 1 << 20  # bytes of either file


def texts() -> list[str]:
    """Returns the fifty texts.

    Raises FileNotFoundError when the package is missing, and ValueError when its file is not the
    one that was checked.
    """
    return packaged(PACKAGE, TEXTS, TEXTS_SHA256).read_text("latin-1").splitlines()


def ratings() -> np.ndarray:
    """Returns the ratings, float32 [50, 50]: above the diagonal, elsewhere NaN.

    Raises as `texts` does.
    """
    return upper_triangle(read(packaged(PACKAGE, RATINGS, RATINGS_SHA256)))


def read(path: Path) -> np.ndarray:
    """Returns the square table of a file, float32 [N, N], all its numbers from 0 to 1.

    Raises ValueError when the file holds something else, or is larger than the limit.
    """
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path.name}: larger than {LIMIT} bytes")
    try:
        lines = path.read_text("ascii").splitlines()
        table = np.array([[float(word) for word in line.split()] for line in lines], np.float32)
    except ValueError as error:
        raise ValueError(f"{path.name}: no table of numbers: {error}") from error
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"{path.name}: a table of shape {table.shape} is not square")
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"{path.name}: a rating is not from 0 to 1")
    return table


def upper_triangle(table_NxN: np.ndarray) -> np.ndarray:
    """Returns the table with NaN on the diagonal and below, so that each pair counts once."""
    above_NxN = np.triu(np.ones(table_NxN.shape, bool), k=1)
    return np.where(above_NxN, table_NxN, np.float32(np.nan))
