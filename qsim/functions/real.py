"""Real functions, correctly rounded: the real value, rounded once to a format.

::

    correctly_rounded(f, x, F) = round_to_F(f(x))

The real value is enclosed between two fractions by an evaluation of some precision, which doubles
until both round to the same value of the format; between them everything does, since rounding is
monotone. This ends, because rational values are listed, and an irrational one is no value or tie of
a format; and because a value that lies closer to its limit at infinity than any format can tell is
replaced by another such one.

Slow, and written to be read: it is what fast functions are compared with.

Sources: A. Ziv, Fast evaluation of elementary mathematical functions with correctly rounded last
bit, ACM TOMS 17(3), 1991; IEEE 754-2019, 9.2 (values at zeros and infinities).
"""

import importlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from qsim.numbers.exact import Value, round_exact
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, require_carried
from qsim.numbers.modes import Rounding, check_overflow, require_one_of
from qsim.numbers.records import exponent_of, power
from qsim.numbers.rounding import require_single
from qsim.numbers.specs import format_of

__all__ = [
    "FUNCTIONS",
    "correctly_rounded",
    "evaluated",
    "exact_value",
    "holder",
    "require_function",
    "require_modes",
]

INF, NAN = math.inf, math.nan
CUBIC = "0.044715"  # of the form of gelu with tanh

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
    "gelu_tanh": lambda c, x: x / (1 + c.exp(-c.sqrt(8 / c.pi) * (x + c.mpf(CUBIC) * x**3))),
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
    "gelu_tanh": (-0.0, -0.0, Fraction(0), INF),
}
GELUS = ("gelu", "gelu_tanh")
POSITIVE = ("log", "log2", "rsqrt")  # no real value below zero

FAR = 1200  # arguments beyond, either way, have values within LEAST of their limits
LEAST = power(-1500)  # less than the half of every gap of a format that float64 carries
HUGE = power(1500)  # beyond all their values

# name: below -FAR and beyond it, what rounds as the value does; of GELUS the quotient by x
BEYOND = {
    "exp": (LEAST, HUGE),
    "exp2": (LEAST, HUGE),
    "tanh": (LEAST - 1, 1 - LEAST),
    "sigmoid": (LEAST, 1 - LEAST),
    "gelu": (LEAST, 1 - LEAST),
    "gelu_tanh": (LEAST, 1 - LEAST),
}

START = 64  # bits of the first evaluation
LIMIT = 1 << 14  # bits that none needs: tanh(FAR) is 1 - 2**-3461
GUARD = 40  # bits that an evaluation may lose: gelu(-FAR) has the condition number 2**21


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
        name: one of ``FUNCTIONS``; ``gelu`` is ``x * (1 + erf(x / sqrt(2))) / 2``, and
            ``gelu_tanh`` is ``x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))) / 2``.
        x: array of float32, float16 or bfloat16, of any shape; a Python float counts as float32.
        fmt: a spec string or a ``Format``.
        rounding: a mode of ``qsim.ROUNDINGS`` that draws no random bits.
        overflow: a policy of ``qsim.OVERFLOWS`` other than ``wrap``.

    The result has the shape of ``x``, and is float32 if that holds every value of the format,
    otherwise float64. At zeros, infinities and NaN functions are as in IEEE 754; below zero
    logarithms and rsqrt are NaN, and either gelu of -infinity is its limit, minus zero.

    Raises:
        ImportError: without mpmath, which all but exact values need.
        TypeError: for what is no float array, and for float64.
        ValueError: for an unknown name, and for formats that float64 does not hold.

    >>> correctly_rounded("reciprocal", np.float32([3, -np.inf, -0.0]), "e4m3").tolist()
    [0.34375, -0.0, -inf]
    """
    target, function = format_of(fmt), require_function(name)
    require_modes(rounding, overflow)
    arguments, dtype = np.asarray(require_single(x, "arguments")), holder(target)
    rounded = partial(round_exact, fmt=target, rounding=rounding, overflow=overflow)
    results = [float(_correct(function, float(argument), rounded)) for argument in arguments.flat]
    return np.array(results, dtype).reshape(arguments.shape)


# --- one number -----------------------------------------------------------------------------


def _correct(name: str, x: float, rounded: Callable[[Value], Value]) -> Value:
    """A function's value at one number, rounded: Ziv's strategy."""
    if (exact := exact_value(name, x)) is not None:
        return rounded(exact)
    precision = START
    while precision < LIMIT:
        value, radius = evaluated(name, x, precision)
        low, high = rounded(value - radius), rounded(value + radius)
        if repr(low) == repr(high):  # which NaN is too, and tells minus zero from zero
            return low
        precision *= 2
    raise AssertionError(f"{name}({x!r}) is too close to a tie or a value of the format")


def exact_value(name: str, x: float) -> Value | None:
    """A function's value at one number, if it is exact, or what rounds as it does; or else None."""
    if math.isnan(x) or (x < 0 and name in POSITIVE):
        return NAN
    if repr(x) in AT:
        return SPECIAL[name][AT.index(repr(x))]
    number = Fraction(x)
    if abs(x) > FAR and name in BEYOND:
        return BEYOND[name][x > 0] * (number if name in GELUS else 1)
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


def evaluated(name: str, x: float, precision: int) -> tuple[Fraction, Fraction]:
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


def require_function(name: str) -> str:
    require_one_of("function", name, FUNCTIONS)
    return name


def require_modes(rounding: str, overflow: str) -> None:
    if Rounding.parse(rounding).is_stochastic:
        raise ValueError(f"{rounding} rounding is drawn by chance: give another, as 'ties_to_even'")
    if check_overflow(overflow) == "wrap":
        raise ValueError(
            "overflow='wrap' keeps the lowest bits, which an enclosure of the real value does not "
            "know: give another, as 'saturate'"
        )


def holder(fmt: Format) -> str:
    """The narrower of the carriers that hold every value of a format."""
    try:
        require_carried(fmt, CARRIERS["float32"])
    except ValueError:
        require_carried(fmt, CARRIERS["float64"])
        return "float64"
    return "float32"
