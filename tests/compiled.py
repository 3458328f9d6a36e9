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
DRAWN = 1 << 12


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


@partial(jax.jit, static_argnames=("rounding", "overflow"))
def drawn(x, grid: Grid, words, *, rounding: str, overflow: str):
    """The kernel under ``jit`` for a stochastic mode."""
    return grid.round(x, mode=Rounding.parse(rounding), policy=overflow, random=words)


def draw_patterns(
    patterns: np.ndarray, random: np.ndarray, fmt: Format | Grid, rounding: str, overflow: str
) -> np.ndarray:
    """As ``round_patterns`` for float32 numbers and a stochastic mode, R being given for each."""
    words = np.zeros((2, -(-len(patterns) // DRAWN) * DRAWN), np.uint32)
    words[0, : len(patterns)] = patterns
    words[1, : len(patterns)] = random << (32 - Rounding.parse(rounding).random_bits)
    grid = fmt if isinstance(fmt, Grid) else lower(fmt)
    pieces = [
        drawn(x.view(np.float32), grid, noise, rounding=rounding, overflow=overflow)
        for x, noise in zip(*words.reshape(2, -1, DRAWN), strict=True)
    ]
    return np.concatenate(pieces).view(np.uint32)[: len(patterns)]
