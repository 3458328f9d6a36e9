"""The rounding kernel compiled once for each mode and policy, for any format and any length.

The format is an argument of the compiled function and arrays travel in pieces of one length, so
that all tests of a process share the executables.
"""

from functools import partial

import jax
import numpy as np

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid, lower
from qsim.numbers.modes import Rounding

PIECE = 1 << 17


@partial(jax.jit, static_argnames=("rounding", "overflow"))
def rounded(x, grid: Grid, *, rounding: str, overflow: str):
    """The kernel under ``jit``, the grid being traced."""
    return grid.round(x, mode=Rounding.parse(rounding), policy=overflow)


def round_patterns(
    patterns: np.ndarray, fmt: Format | Grid, rounding: str, overflow: str
) -> np.ndarray:
    """The bit patterns of the carrier's numbers with the given ones, rounded by the kernel."""
    carrier = f"float{patterns.itemsize * 8}"
    grid = fmt if isinstance(fmt, Grid) else lower(fmt, carrier)
    pieces = []
    for start in range(0, len(patterns), PIECE):
        piece = patterns[start : start + PIECE]
        padded = np.zeros(PIECE, piece.dtype)
        padded[: len(piece)] = piece
        result = rounded(padded.view(carrier), grid, rounding=rounding, overflow=overflow)
        pieces.append(np.asarray(result).view(piece.dtype)[: len(piece)])
    return np.concatenate(pieces)
