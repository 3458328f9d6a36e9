"""Errors of approximations in units in the last place of a format.

::

    error = |approx - f(x)| / (gap of F at f(x))

The real value is that of ``qsim.functions.real``, to many more bits than the format has.

Source: J.-M. Muller, On the definition of ulp(x), INRIA RR-5504, 2005.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Float64

from qsim.functions.real import (
    START,
    evaluated,
    exact_value,
    holder,
    require_function,
    require_modes,
)
from qsim.numbers.exact import Value, gap_at, round_exact
from qsim.numbers.formats import Format
from qsim.numbers.rounding import require_single
from qsim.numbers.specs import format_of

__all__ = ["UlpSummary", "summary", "ulp_errors"]


class UlpSummary(NamedTuple):
    """What is said of many errors.

    Attributes:
        max: the largest, in units in the last place; infinity if a value is wrong altogether.
        mean: their mean.
        within_half: the share of those that are at most 1/2, the bound of correct rounding.
    """

    max: float
    mean: float
    within_half: float


def ulp_errors(
    approx: Float[ArrayLike, "..."],
    name: str,
    x: float | Float[ArrayLike, "..."],
    fmt: str | Format = "binary32",
    *,
    overflow: str = "ieee",
) -> Float64[np.ndarray, "..."]:
    """The errors of an approximation in units in the last place of a format.

    A unit is the gap of the format around the real value, also where it is subnormal; exactly on a
    value of the format it is the gap on the side away from zero.

    Args:
        approx: what was computed for ``x``, of its shape and of any float dtype.
        name, x, fmt: as for ``qsim.functions.real.correctly_rounded``.
        overflow: the policy that says what is right where the real value is beyond the format.

    Where the right value is infinite, NaN or what overflow makes of it, the error is 0 if that is
    what was computed, and infinite otherwise. The sign of zero is not looked at.

    Raises:
        ImportError, TypeError, ValueError: as ``correctly_rounded``; ValueError also for shapes
            that differ.

    >>> ulp_errors(np.float32([0.25, 0.375, np.inf]), "reciprocal", np.float32([4, 3, 0]), "e4m3")
    array([0.        , 1.33333333, 0.        ])
    """
    target, function = format_of(fmt), require_function(name)
    require_modes("ties_to_even", overflow)
    holder(target)
    arguments, found = np.asarray(require_single(x, "arguments")), _float64(approx)
    if found.shape != arguments.shape:
        raise ValueError(
            f"approx has the shape {found.shape}, but x {arguments.shape}: give what was computed "
            "for each of x"
        )
    pairs = zip(found.flat, arguments.flat, strict=True)
    errors = [_error(float(a), function, float(b), target, overflow) for a, b in pairs]
    return np.array(errors, np.float64).reshape(arguments.shape)


def summary(errors: Float[ArrayLike, "..."]) -> UlpSummary:
    """The largest of errors, their mean, and how many of them are at most half a unit.

    Args:
        errors: of ``ulp_errors``.

    Raises:
        ValueError: for no errors at all.

    >>> summary(np.array([0.0, 0.25, 0.5, 1.0]))
    UlpSummary(max=1.0, mean=0.4375, within_half=0.75)
    """
    units = _float64(errors)
    if not units.size:
        raise ValueError("there are no errors to summarise: give at least one")
    return UlpSummary(float(units.max()), float(units.mean()), float((units <= 0.5).mean()))


# --- one number -----------------------------------------------------------------------------


def _error(approx: float, name: str, x: float, fmt: Format, overflow: str) -> float:
    """The error of one number in units in the last place."""
    value = exact_value(name, x)
    if value is None:
        value, _ = evaluated(name, x, START + fmt.precision)
    if isinstance(value, float) and not math.isfinite(value):
        right = value if math.isnan(value) else round_exact(value, fmt, overflow=overflow)
        return 0.0 if repr(approx) == repr(float(right)) else math.inf
    number = Fraction(value)
    unit, right = _unit(number, fmt), round_exact(number, fmt, overflow=overflow)
    if _overflows(number, right, unit, fmt):
        return 0.0 if repr(approx) == repr(float(right)) else math.inf
    return float(abs(Fraction(approx) - number) / unit) if math.isfinite(approx) else math.inf


def _overflows(x: Fraction, rounded: Value, unit: Fraction, fmt: Format) -> bool:
    """Whether a number lies beyond the format by more than rounding moves it."""
    if isinstance(rounded, float) and not math.isfinite(rounded):
        return True
    return not fmt.lowest <= x <= fmt.largest and abs(Fraction(rounded) - x) > unit / 2


def _unit(x: Fraction, fmt: Format) -> Fraction:
    """The gap around a number; next to zero the smallest value, also of formats that flush."""
    if abs(x) < fmt.smallest:
        return fmt.smallest
    gap = gap_at(fmt, x)
    return abs(gap.far - gap.near)


def _float64(x: Float[ArrayLike, "..."]) -> np.ndarray:
    """Any float array in float64, as it is."""
    array = np.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"expected an array of floats, got {array.dtype}: cast it explicitly")
    return array.astype(np.float64)
