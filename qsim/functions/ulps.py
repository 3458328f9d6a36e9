"""Correctly rounded functions, and errors in units in the last place.

A correctly rounded function is the real one, rounded once::

    correctly_rounded(f, x, F) = round_to_F(f(x))
    error of an approximation  = |approx - f(x)| / (gap of F at f(x))

The real value is enclosed between two fractions by an evaluation of some precision, which doubles
until both round to the same value of the format; between them everything does, since rounding is
monotone. This ends, because rational values are listed, and an irrational one is no value or tie of
a format; and because a value that lies closer to its limit at infinity than any format can tell is
replaced by another such one.

Slow, and written to be read: it is what fast functions are compared with.

Sources: A. Ziv, Fast evaluation of elementary mathematical functions with correctly rounded last
bit, ACM TOMS 17(3), 1991; IEEE 754-2019, 9.2 (values at zeros and infinities); J.-M. Muller, On
the definition of ulp(x), INRIA RR-5504, 2005.
"""

import importlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Float64

from qsim.numbers.exact import Value, gap_at, round_exact
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, require_carried
from qsim.numbers.modes import Rounding, check_overflow, suggest
from qsim.numbers.records import exponent_of, power, shown
from qsim.numbers.rounding import require_float, widen
from qsim.numbers.specs import format_of

__all__ = ["FUNCTIONS", "UlpSummary", "correctly_rounded", "summary", "ulp_errors"]

INF, NAN = math.inf, math.nan

# name: the real function in a context of mpmath, at a number that is neither exact nor special
REAL: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda c, x: c.exp(x),
    "exp2": lambda c, x: c.exp(x * c.ln2),
    "log": lambda c, x: c.log(x),
    "log2": lambda c, x: c.log(x) / c.ln2,
    "rsqrt": lambda c, x: 1 / c.sqrt(x),
    "reciprocal": lambda c, x: 1 / x,
    "tanh": lambda c, x: c.tanh(x),
    "sigmoid": lambda c, x: 1 / (1 + c.exp(-x)),
    "gelu": lambda c, x: x / 2 * c.erfc(-x / c.sqrt(2)),
}
FUNCTIONS = tuple(REAL)

AT = ("-inf", "-0.0", "0.0", "inf")
# name: at these
SPECIAL: dict[str, tuple[Value, Value, Value, Value]] = {
    "exp": (Fraction(0), Fraction(1), Fraction(1), INF),
    "exp2": (Fraction(0), Fraction(1), Fraction(1), INF),
    "log": (NAN, -INF, -INF, INF),
    "log2": (NAN, -INF, -INF, INF),
    "rsqrt": (NAN, -INF, INF, Fraction(0)),
    "reciprocal": (-0.0, -INF, INF, Fraction(0)),
    "tanh": (Fraction(-1), -0.0, Fraction(0), Fraction(1)),
    "sigmoid": (Fraction(0), Fraction(1, 2), Fraction(1, 2), Fraction(1)),
    "gelu": (-0.0, -0.0, Fraction(0), INF),  # the limit at -infinity
}
POSITIVE = ("log", "log2", "rsqrt")  # no real value below zero

FAR = 1200  # arguments beyond, either way, have values within LEAST of their limits
LEAST = power(-1500)  # less than the half of every gap of a format that float64 carries
HUGE = power(1500)  # beyond all their values

# name: below -FAR and beyond it, what rounds as the value does; for gelu its quotient by x
BEYOND = {
    "exp": (LEAST, HUGE),
    "exp2": (LEAST, HUGE),
    "tanh": (LEAST - 1, 1 - LEAST),
    "sigmoid": (LEAST, 1 - LEAST),
    "gelu": (LEAST, 1 - LEAST),
}

START = 64  # bits of the first evaluation
LIMIT = 1 << 14  # bits that none needs: tanh(FAR) is 1 - 2**-3461
GUARD = 40  # bits that an evaluation may lose: gelu(-FAR) has the condition number 2**21


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


def correctly_rounded(
    name: str,
    x: float | Float[ArrayLike, "..."],
    fmt: str | Format = "binary32",
    *,
    rounding: str = "ties_to_even",
    overflow: str = "ieee",
) -> Float[np.ndarray, "..."]:
    """The values of a real function, each rounded once to a format.

    Args:
        name: one of ``FUNCTIONS``; ``gelu`` is ``x * (1 + erf(x / sqrt(2))) / 2``.
        x: array of float32, float16 or bfloat16, of any shape; a Python float counts as float32.
        fmt: a spec string or a ``Format``.
        rounding: a mode of ``qsim.ROUNDINGS`` that draws no random bits.
        overflow: a policy of ``qsim.OVERFLOWS`` other than ``wrap``.

    The result has the shape of ``x``, and is float32 if that holds every value of the format,
    otherwise float64. At zeros, infinities and NaN functions are as in IEEE 754; below zero
    logarithms and rsqrt are NaN, and gelu(-infinity) is its limit, minus zero.

    Raises:
        ImportError: without mpmath, which all but exact values need.
        TypeError: for what is no float array, and for float64.
        ValueError: for an unknown name, and for formats that float64 does not hold.

    >>> correctly_rounded("reciprocal", np.float32([3, -np.inf, -0.0]), "e4m3").tolist()
    [0.34375, -0.0, -inf]
    """
    target, function = format_of(fmt), _name(name)
    _require_modes(rounding, overflow)
    arguments, dtype = _arguments(x), _holder(target)
    rounded = partial(round_exact, fmt=target, rounding=rounding, overflow=overflow)
    results = [float(_correct(function, float(argument), rounded)) for argument in arguments.flat]
    return np.array(results, dtype).reshape(arguments.shape)


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
        name, x, fmt: as for ``correctly_rounded``.
        overflow: the policy that says what is right where the real value is beyond the format.

    Where the right value is infinite, NaN or what overflow makes of it, the error is 0 if that is
    what was computed, and infinite otherwise. The sign of zero is not looked at.

    Raises:
        ImportError, TypeError, ValueError: as ``correctly_rounded``; ValueError also for shapes
            that differ.

    >>> ulp_errors(np.float32([0.25, 0.375, np.inf]), "reciprocal", np.float32([4, 3, 0]), "e4m3")
    array([0.        , 1.33333333, 0.        ])
    """
    target, function = format_of(fmt), _name(name)
    _require_modes("ties_to_even", overflow)
    _holder(target)
    arguments, found = _arguments(x), _float64(approx)
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


def _correct(name: str, x: float, rounded: Callable[[Value], Value]) -> Value:
    """A function's value at one number, rounded: Ziv's strategy."""
    if (exact := _exact(name, x)) is not None:
        return rounded(exact)
    precision = START
    while precision < LIMIT:
        value, radius = _evaluated(name, x, precision)
        low, high = rounded(value - radius), rounded(value + radius)
        if repr(low) == repr(high):  # which NaN is too, and tells minus zero from zero
            return low
        precision *= 2
    raise AssertionError(f"{name}({x!r}) is too close to a tie or a value of the format")


def _error(approx: float, name: str, x: float, fmt: Format, overflow: str) -> float:
    """The error of one number in units in the last place."""
    value = _exact(name, x)
    if value is None:
        value, _ = _evaluated(name, x, START + fmt.precision)
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0 if repr(approx) == repr(value) else INF
    number = Fraction(value)
    unit, right = _unit(number, fmt), round_exact(number, fmt, overflow=overflow)
    if _overflows(number, right, unit, fmt):
        return 0.0 if repr(approx) == repr(float(right)) else INF
    return float(abs(Fraction(approx) - number) / unit) if math.isfinite(approx) else INF


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


def _exact(name: str, x: float) -> Value | None:
    """A function's value at one number, if it is exact, or what rounds as it does; or else None."""
    if math.isnan(x) or (x < 0 and name in POSITIVE):
        return NAN
    if repr(x) in AT:
        return SPECIAL[name][AT.index(repr(x))]
    number = Fraction(x)
    if abs(x) > FAR and name in BEYOND:
        return BEYOND[name][x > 0] * (number if name == "gelu" else 1)
    match name:
        case "reciprocal":
            return 1 / number
        case "rsqrt":
            return _root(1 / number)
        case "exp2" if number.denominator == 1:
            return power(number.numerator)
        case "log2" if number == power(exponent_of(number)):
            return Fraction(exponent_of(number))
        case "log" if number == 1:
            return Fraction(0)
    return None


def _root(x: Fraction) -> Fraction | None:
    """The square root of a positive fraction, if it is one."""
    root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    return root if root * root == x else None


# --- evaluation -----------------------------------------------------------------------------


def _evaluated(name: str, x: float, precision: int) -> tuple[Fraction, Fraction]:
    """A function's value, and how far it may be off, ``2**-precision`` of itself."""
    context = _context()
    context.prec = precision + GUARD
    result = REAL[name](context, context.mpf(x))
    mantissa, exponent = context.frexp(result)
    if abs(exponent) > 1500:
        magnitude = LEAST if exponent < 0 else HUGE
        value = magnitude if mantissa > 0 else -magnitude
    else:
        digits = int(context.ldexp(mantissa, context.prec))  # all of them
        value = digits * power(exponent - context.prec)
    return value, abs(value) * power(-precision)


@cache
def _context() -> Any:
    """A context of mpmath for us alone, since its precision is a setting."""
    try:
        mpmath = importlib.import_module("mpmath")
    except ImportError:
        raise ImportError(
            "real functions are computed by mpmath, which is not installed: pip install mpmath"
        ) from None
    return mpmath.MPContext()


# --- what may come in -----------------------------------------------------------------------


def _name(name: str) -> str:
    if name not in FUNCTIONS:
        raise ValueError(f"no function {shown(name)}; {suggest(str(name)[:40], list(FUNCTIONS))}")
    return name


def _require_modes(rounding: str, overflow: str) -> None:
    if Rounding.parse(rounding).is_stochastic:
        raise ValueError(f"{rounding} rounding is drawn by chance: give another, as 'ties_to_even'")
    if check_overflow(overflow) == "wrap":
        raise ValueError(
            "overflow='wrap' keeps the lowest bits, which an enclosure of the real value does not "
            "know: give another, as 'saturate'"
        )


def _arguments(x: float | Float[ArrayLike, "..."]) -> np.ndarray:
    wide = np.asarray(widen(require_float(x)))
    if wide.dtype != np.float32:
        raise TypeError("arguments are float64, but functions are of float32: cast to float32")
    return wide


def _float64(x: Float[ArrayLike, "..."]) -> np.ndarray:
    """Any float array in float64, as it is."""
    array = np.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"expected an array of floats, got {array.dtype}: cast it explicitly")
    return array.astype(np.float64)


def _holder(fmt: Format) -> str:
    """The narrower of the carriers that hold every value of a format."""
    try:
        require_carried(fmt, CARRIERS["float32"])
    except ValueError:
        require_carried(fmt, CARRIERS["float64"])
        return "float64"
    return "float32"
