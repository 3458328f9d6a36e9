"""Quantization noise: the signal-to-noise ratio of a format on numbers of a known distribution.

A scale s stretches the format's values v to s * v. The noise is integrated over the cells of the
scaled grid, the intervals between the ties t, in each of which all numbers round to one value::

    E[(x - Q(x))**2] = sum over cells of the integral of (x - s v)**2 f(x) from s t to s t'
                     = sum of dM2 - 2 s v dM1 + (s v)**2 dM0

where Mk(x) is the integral of u**k f(u) from 0 to x, known in closed form. The ratio is
``10 log10(E[x**2] / E[(x - Q(x))**2])`` dB at the scale that makes it largest.

Source: Kuzmin et al., FP8 Quantization: The Power of the Exponent, arXiv:2208.09225, section 3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from qsim.analysis.values import finite_values, require_listed, ties
from qsim.numbers.formats import Format, power
from qsim.numbers.modes import suggest
from qsim.numbers.specs import format_of

__all__ = ["DISTRIBUTIONS", "Distribution", "Noise", "sqnr"]

MAX_EXPONENT = 1000


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A distribution that is symmetric about zero.

    Attributes:
        title: what people call it.
        moments: the integrals of f(u), u f(u) and u**2 f(u) from 0 to each of an array of
            positive numbers, infinity included; the last at infinity is half of the variance.
    """

    title: str
    moments: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

    @property
    def variance(self) -> float:
        """The mean square."""
        return 2 * float(self.moments(np.array([np.inf]))[2][0])


class Noise(NamedTuple):
    """The noise of a format at its best scale.

    Attributes:
        decibels: the signal-to-noise ratio.
        scale: what the format's values are multiplied with, in units of the distribution's.
        clip: the largest scaled magnitude.
    """

    decibels: float
    scale: float
    clip: float


def sqnr(fmt: str | Format, distribution: str | Distribution) -> Noise:
    """The signal-to-noise ratio of rounding to nearest at the best scale for a whole tensor.

    Args:
        fmt: a spec string or a ``Format`` of at most 16 bits. An unsigned one gets magnitudes.
        distribution: a ``Distribution`` or the name of one of ``DISTRIBUTIONS``.

    Raises:
        TypeError: for something else than a format.
        ValueError: for an unknown name, a format of more than 16 bits or beyond float64's range.

    >>> round(sqnr("int8sym", "uniform").decibels, 2)
    48.13
    """
    fmt = format_of(fmt)
    require_listed(fmt, "the signal-to-noise ratio")
    if _edge(fmt) > power(MAX_EXPONENT) or fmt.smallest < power(-MAX_EXPONENT):
        raise ValueError(
            f"{fmt} has values beyond 2^{MAX_EXPONENT} or below its inverse, and the "
            "signal-to-noise ratio is computed in float64: choose fewer exponent bits"
        )
    if isinstance(distribution, str):
        if distribution not in DISTRIBUTIONS:
            hint = suggest(distribution, list(DISTRIBUTIONS))
            raise ValueError(f"no distribution {distribution!r}; {hint}")
        distribution = DISTRIBUTIONS[distribution]
    return _best(fmt, distribution)


def _edge(fmt: Format) -> Fraction:
    """The largest magnitude."""
    return max(fmt.largest, -fmt.lowest)


@cache
def _best(fmt: Format, distribution: Distribution) -> Noise:
    sides, variance = _sides(fmt), distribution.variance
    best = _best_scale(fmt, lambda log: _error(sides, distribution, 2.0**log), variance)
    scale = 2.0**best
    error = _error(sides, distribution, scale)
    return Noise(-10 * math.log10(error / variance), scale, scale * float(_edge(fmt)))


# --- the mean square of the noise -----------------------------------------------------------


class Side(NamedTuple):
    """The magnitudes of one sign: the values, and the ties between each and the next."""

    values: np.ndarray
    ties: np.ndarray


def _sides(fmt: Format) -> list[Side]:
    """Both signs of a format; the positive one alone, if the format is unsigned."""
    values, between = finite_values(fmt), ties(fmt)
    positive = _side([float(v) for v in values], [float(t) for t in between])
    if not fmt.signed:
        return [positive]
    mirrored = [float(-v) for v in reversed(values)], [float(-t) for t in reversed(between)]
    return [positive, _side(*mirrored)]


def _side(values: list[float], between: list[float]) -> Side:
    """What lies beyond zero, with the value that holds zero's neighbourhood."""
    below = sum(tie <= 0 for tie in between)
    return Side(np.array(values[below:]), np.array(between[below:]))


def _error(sides: list[Side], distribution: Distribution, scale: float) -> float:
    return sum(_error_of(side, distribution, scale) for side in sides) * 2 / len(sides)


def _error_of(side: Side, distribution: Distribution, scale: float) -> float:
    """The integral over positive numbers.

    Cells so near to zero or so far out that they hold nothing that counts are left out.
    """
    sigma = math.sqrt(distribution.variance) / scale
    first, last = np.searchsorted(side.ties, (1e-8 * sigma, 1e6 * sigma))
    inner = side.ties[first:last] * scale
    values = side.values[first : last + 1] * scale
    moments = distribution.moments(np.concatenate([[0.0], inner, [np.inf]]))
    mass, mean, square = (np.diff(moment) for moment in moments)
    return float(np.sum(square - 2 * values * mean + values**2 * mass))


# --- the search for the scale ---------------------------------------------------------------


def _best_scale(fmt: Format, error: Callable[[float], float], variance: float) -> float:
    """log2 of the scale of the least error.

    The error may have several minima in every binade, so the whole range of scales is scanned, from
    one that clips nearly everything to one that rounds nearly everything to zero. Then the
    neighbourhood of the best is scanned, more and more finely.
    """
    sigma = 0.5 * math.log2(variance)
    low = sigma - 2 - math.log2(_edge(fmt))
    width = math.log2(_edge(fmt)) - math.log2(fmt.smallest) + 4
    step = max(1 / 32, width * len(finite_values(fmt)) / 3e5)  # about a second's work
    best = min(np.arange(low, low + width + step, step), key=error)
    while step > 1e-3:
        best = min(best + step / 4 * np.arange(-5, 6), key=error)
        step /= 4
    return float(best)


# --- distributions --------------------------------------------------------------------------


def _uniform(x):
    x = np.minimum(x, 1.0)
    return x / 2, x**2 / 4, x**3 / 6


def _normal(x):
    from scipy.special import gammainc

    y = x**2 / 2
    density = 1 / math.sqrt(2 * math.pi)
    return gammainc(0.5, y) / 2, density * -np.expm1(-y), gammainc(1.5, y) / 2


def _laplace(x):
    from scipy.special import gammainc

    return gammainc(1, x) / 2, gammainc(2, x) / 2, gammainc(3, x)


def _student_t(degrees: int):
    """Student's t: the first moment is elementary, the others are incomplete beta functions."""
    half = degrees / 2
    density = math.gamma(half + 0.5) / math.gamma(half) / math.sqrt(degrees * math.pi)

    def moments(x):
        from scipy.special import betainc

        with np.errstate(divide="ignore"):
            share = 1 / (1 + degrees / x**2)  # x**2 / (degrees + x**2), also at infinity
        mass = betainc(0.5, half, share) / 2
        rest = (1 + x**2 / degrees) ** -(half - 0.5)
        mean = density * degrees / (degrees - 1) * (1 - rest)
        return mass, mean, betainc(1.5, half - 1, share) * degrees / (degrees - 2) / 2

    return moments


def _truncated(moments: Callable, limit: float):
    """The distribution given that the magnitude is within a limit."""
    inside = 2 * moments(np.array([limit]))[0][0]
    return lambda x: tuple(moment / inside for moment in moments(np.minimum(x, limit)))


DISTRIBUTIONS = {
    "uniform": Distribution(title="uniform on -1..1", moments=_uniform),
    "normal": Distribution(title="normal", moments=_normal),
    "laplace": Distribution(title="Laplace", moments=_laplace),
    "student_t8": Distribution(title="Student-t, nu = 8", moments=_student_t(8)),
    "student_t5": Distribution(title="Student-t, nu = 5", moments=_student_t(5)),
    "student_t3": Distribution(
        title="Student-t, nu = 3, within ±100", moments=_truncated(_student_t(3), 100.0)
    ),
}
