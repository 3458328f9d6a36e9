"""Scales of least squared error for normal numbers, for any format of few bits.

A format's values v, of which V is the largest, are stretched such that V comes to lie at a standard
deviations of a normal distribution. The error is integrated over the cells between ties t::

    E[(x - Q(x))**2] = 1 - 2 sum s v dM1 + sum (s v)**2 dM0,   s = a / V

where dM0 and dM1 are the integrals of the density f and of x f(x) over a cell, differences of the
normal distribution function and of -f. The a at which it is least is found numerically.

Source: A. Panferov et al., QuEST, arXiv:2502.05003, 3.1 (the problem); J. Max, IRE Trans. Inf.
Theory 6, 1960 (uniform quantizers of least squared error).
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from qsim.numbers import exact
from qsim.numbers.codebooks import Codebook
from qsim.numbers.formats import Format
from qsim.numbers.records import require
from qsim.numbers.specs import format_of

__all__ = ["MAX_BITS", "Clip", "gaussian_clip", "mid_rise"]

MAX_BITS = 10  # of formats whose values are listed
SMALLEST, LARGEST, TRIES = 0.2, 40.0, 400  # clips that are tried first


class Clip(NamedTuple):
    """Where the largest value of a format lies, in standard deviations, and the error there.

    Attributes:
        clip: the largest value over the standard deviation.
        mse: the mean squared error over the variance.
    """

    clip: float
    mse: float


def mid_rise(bits: int) -> Codebook:
    """The odd integers from ``1 - 2**bits`` to ``2**bits - 1``: uniform, and without zero.

    Raises:
        ValueError: for fewer bits than 1, or more than 10.

    >>> str(mid_rise(2))
    'codebook(-3,-1,1,3)'
    """
    require(
        isinstance(bits, int) and 1 <= bits <= MAX_BITS,
        f"a mid-rise grid here has 1 to {MAX_BITS} bits, got {bits}",
    )
    return Codebook(values=tuple(range(1 - 2**bits, 2**bits, 2)))


def gaussian_clip(fmt: str | Format) -> Clip:
    """The scale at which rounding normal numbers to nearest has the least mean squared error.

    Args:
        fmt: a spec string or a ``Format`` of at most 10 bits.

    Raises:
        TypeError: for something else than a format.
        ValueError: for a format of more bits, or one without a value above zero.

    >>> [round(number, 4) for number in gaussian_clip(mid_rise(2))]
    [1.4935, 0.1188]
    """
    fmt = format_of(fmt)
    require(
        fmt.bits <= MAX_BITS,
        f"{fmt} has codes of {fmt.bits} bits: clips are found for at most {MAX_BITS}",
    )
    require(fmt.largest > 0, f"{fmt} has no value above zero, which could be a clip")
    return _best(fmt)


@cache
def _best(fmt: Format) -> Clip:
    values = np.unique([float(v) for v in exact.values(fmt) if math.isfinite(v)])
    values = values / float(fmt.largest)
    tries = np.geomspace(SMALLEST, LARGEST, TRIES)
    place = int(np.argmin([_error(values, clip) for clip in tries]))
    low, high = tries[max(place - 1, 0)], tries[min(place + 1, TRIES - 1)]
    found = minimize_scalar(
        lambda clip: _error(values, clip), bounds=(low, high), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return Clip(float(found.x), float(found.fun))


def _error(values: np.ndarray, clip: float) -> float:
    """The mean squared error of ascending values, the largest of which is 1."""
    v = values * clip
    ties = np.concatenate([[-np.inf], (v[:-1] + v[1:]) / 2, [np.inf]])
    share = np.diff(ndtr(ties))
    moment = -np.diff(np.exp(-np.square(ties) / 2) / math.sqrt(2 * math.pi))
    return float(1 - 2 * np.sum(v * moment) + np.sum(np.square(v) * share))
