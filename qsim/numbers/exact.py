"""The exact definition of every format: values by code, and the rounding of one number.

Slow, and written to be read: everything fast in qsim is tested to equal it. A value is a
``Fraction``; minus zero, the infinities and NaN, which no fraction can be, are Python floats.

Sources: IEEE 754-2019, 4.3 and 7.4 (rounding, overflow); IEEE P3109 draft (parity of codes where
the precision is 1, saturation); OCP OFP8 1.0 and MX 1.0 (special values).
"""

import math
from fractions import Fraction
from functools import singledispatch
from typing import NamedTuple

from qsim.numbers.formats import Float, Format, Integer, power
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import Rounding, check_overflow

__all__ = [
    "Gap",
    "Value",
    "code_of",
    "decode",
    "encode",
    "gap_at",
    "probability",
    "round_exact",
    "values",
]

Value = Fraction | float

INF, NAN, MINUS_ZERO = math.inf, math.nan, -0.0


class Gap(NamedTuple):
    """The two neighbours on a grid between which a number lies.

    Attributes:
        near: the neighbour of smaller magnitude; the number itself, if it is on the grid.
        far: the other one.
        tie: where nearest changes from one to the other; the middle, for most families.
        even: whether the code of ``near`` is even.
    """

    near: Fraction
    far: Fraction
    tie: Fraction
    even: bool


# --- what each family defines ---------------------------------------------------------------


def decode(fmt: Format, code: int) -> Value:
    """The value of a code.

    Raises:
        ValueError: if the format has no such code.

    >>> decode(Float(exponent_bits=4, mantissa_bits=3), 0b0_0111_100)
    Fraction(3, 2)
    """
    if not 0 <= code < 2**fmt.bits:
        raise ValueError(f"{fmt} has codes 0..{2**fmt.bits - 1}, got {code}")
    return value_of(fmt, code)


@singledispatch
def value_of(fmt: Format, code: int) -> Value:
    """The value of a code that the format has. Each family registers its own."""
    raise NotImplementedError(type(fmt))


@singledispatch
def code_of(fmt: Format, value: Value) -> int | None:
    """The only code that ``value`` can have, if it is a value. Each family registers its own."""
    raise NotImplementedError(type(fmt))


@singledispatch
def gap_at(fmt: Format, x: Fraction) -> Gap:
    """The gap around ``x`` on the format's grid, which continues beyond its finite values.

    Each family registers its own.
    """
    raise NotImplementedError(type(fmt))


# --- integers and floats --------------------------------------------------------------------


@value_of.register
def _(fmt: Integer, code: int) -> Value:
    sign_bit = fmt.signed << (fmt.bits - 1)
    return (code - 2 * (code & sign_bit)) * power(fmt.quantum)


@code_of.register
def _(fmt: Integer, value: Value) -> int | None:
    return None if isinstance(value, float) else int(value / power(fmt.quantum)) % 2**fmt.bits


@gap_at.register
def _(fmt: Integer, x: Fraction) -> Gap:
    sign, gap = -1 if x < 0 else 1, power(fmt.quantum)
    count = abs(x) // gap
    near, far = sign * count * gap, sign * (count + 1) * gap
    return Gap(near, far, (near + far) / 2, count % 2 == 0)


@value_of.register
def _(fmt: Float, code: int) -> Value:
    sign = fmt.signed << (fmt.bits - 1)
    negative, magnitude = bool(code & sign), code & ~sign
    if (special := fmt.special(code)) is not None:
        return special
    if magnitude > (fmt.bottom_code if negative else fmt.top_code):
        return NAN  # unused
    value = fmt.magnitude(magnitude)
    if value == 0 or (value < fmt.smallest_normal and fmt.subnormals != "gradual"):
        return MINUS_ZERO if negative and fmt.has_negative_zero else Fraction(0)
    return -value if negative else value


@code_of.register
def _(fmt: Float, value: Value) -> int | None:
    if isinstance(value, float) and math.isnan(value):
        return fmt.nan_code
    negative = math.copysign(1.0, value) < 0 if isinstance(value, float) else value < 0
    if isinstance(value, float) and math.isinf(value):
        return fmt.infinity_code(negative) if fmt.infinities else None
    sign = fmt.signed << (fmt.bits - 1)
    return fmt.code_below(abs(Fraction(value))) | (sign if negative else 0)


@gap_at.register
def _(fmt: Float, x: Fraction) -> Gap:
    sign, magnitude = -1 if x < 0 else 1, abs(x)
    if fmt.subnormals == "flush_before" and magnitude < fmt.smallest_normal:
        return Gap(Fraction(0), Fraction(0), Fraction(0), True)
    code, following = fmt.neighbours(magnitude, negative=x < 0)
    near, far = sign * fmt.magnitude(code), sign * fmt.magnitude(following)
    if magnitude < abs(near):  # such a format has no zero, and only its smallest value here
        return Gap(near, near, near, True)
    return Gap(near, far, (near + far) / 2, code % 2 == 0)


# --- every family ---------------------------------------------------------------------------


def values(fmt: Format) -> list[Value]:
    """Every value, listed by code."""
    return [decode(fmt, code) for code in range(2**fmt.bits)]


def encode(fmt: Format, value: Value) -> int:
    """The code of a value of the format, the inverse of ``decode``; NaN has ``fmt.nan_code``.

    Raises:
        ValueError: if ``value`` is not one of the format's values.

    >>> bin(encode(Float(exponent_bits=4, mantissa_bits=3), Fraction(3, 2)))
    '0b111100'
    """
    code = code_of(fmt, value)
    if code is not None and 0 <= code < 2**fmt.bits and _same(decode(fmt, code), value):
        return code
    raise ValueError(f"{value} is not a value of {fmt}")


def _same(a: Value, b: Value) -> bool:
    """Equality that tells minus zero from zero and takes NaN for equal to NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    return not (isinstance(a, float) or isinstance(b, float)) and a == b


def round_exact(
    x: Value, fmt: Format, *, rounding: str = "ties_to_even", overflow: str = "saturate", random=0
) -> Value:
    """The value of the format to which ``x`` rounds.

    Args:
        x: any exact number; minus zero, infinities and NaN as floats.
        rounding: a mode of ``modes.ROUNDINGS``.
        overflow: a policy of ``modes.OVERFLOWS``.
        random: for a stochastic mode of n bits, the integer R of its definition, in 0..2**n-1.

    NaN stays NaN, also where the format has no code for it: only ``encode`` refuses it.

    Raises:
        ValueError: for an unknown name, or an R that the mode never draws.

    >>> round_exact(Fraction(464), Float(exponent_bits=4, mantissa_bits=3, nans="top",
    ...             infinities=False), overflow="ieee")
    Fraction(448, 1)
    """
    mode, policy = Rounding.parse(rounding), check_overflow(overflow)
    _require_drawn(random, mode)
    check_wrap(fmt, policy)
    if isinstance(x, float) and math.isnan(x):
        return NAN
    negative = math.copysign(1.0, x) < 0 if isinstance(x, float) else x < 0
    if isinstance(x, float) and math.isinf(x):
        return _overflowed(fmt, negative, mode, policy, infinite=True)
    number = Fraction(x)
    gap = gap_at(fmt, number)
    rounded = gap.far if _leaves_near(number, gap, mode, random) else gap.near
    if abs(rounded) < fmt.flushed_below:
        rounded = Fraction(0)
    if not min(fmt.lowest, 0) <= rounded <= fmt.largest:
        if policy == "wrap":
            return value_of(fmt, int(rounded / power(fmt.quantum)) % 2**fmt.bits)
        return _overflowed(fmt, negative, mode, policy, infinite=False)
    if rounded == 0:
        return MINUS_ZERO if negative and fmt.has_negative_zero else Fraction(0)
    return rounded


def _leaves_near(x: Fraction, gap: Gap, mode: Rounding, random: int) -> bool:
    """Whether ``x`` moves to the neighbour of larger magnitude."""
    if x == gap.near or gap.near == gap.far:
        return False
    if mode.is_stochastic:
        return _is_drawn_up((x - gap.near) / (gap.far - gap.near), mode, random)
    upward = gap.far > gap.near
    tie, beyond = x == gap.tie, (x > gap.tie) == upward and x != gap.tie
    match mode.mode:
        case "ties_to_even":
            return beyond or (tie and not gap.even)
        case "ties_to_away":
            return beyond or tie
        case "ties_to_zero":
            return beyond
        case "ties_to_odd":
            return beyond or (tie and gap.even)
        case "up":
            return upward
        case "down":
            return not upward
        case "toward_zero":
            return False
        case "away_from_zero":
            return True
        case "to_odd":
            return gap.even
    raise AssertionError(mode)


def _is_drawn_up(fraction: Fraction, mode: Rounding, random: int) -> bool:
    """Whether a fraction of a gap, which is not 0, moves up with this R."""
    chances = 2**mode.random_bits
    match mode.mode:
        case "stochastic":
            return math.floor(fraction * chances) + random >= chances
        case "stochastic_b":
            return math.floor(fraction * 2 * chances) + 2 * random + 1 >= 2 * chances
        case "stochastic_c":
            return round(fraction * chances) + random >= chances  # round() takes ties to even
        case "stochastic_equal":
            return 2 * random >= chances
    raise AssertionError(mode)


def _require_drawn(random: int, mode: Rounding) -> None:
    if not 0 <= random < 2**mode.random_bits:
        raise ValueError(
            f"{mode.mode} rounding draws R from 0..{2**mode.random_bits - 1}, got {random}: "
            "give an R of that many bits"
            if mode.is_stochastic
            else f"{mode.mode} rounding draws no random bits, got R = {random}: leave it out"
        )


def probability(x: Value, fmt: Format, *, rounding: str) -> Fraction:
    """The probability that ``x`` moves to its neighbour of larger magnitude, over all R.

    The neighbours are those on the grid continued beyond the largest value, before overflow. A
    number on the grid stays with certainty, and deterministic modes have probabilities 0 and 1.

    Raises:
        ValueError: for infinities and NaN, which have no neighbours, and for an unknown mode.

    >>> probability(Fraction(21, 20), Float(exponent_bits=4, mantissa_bits=3),
    ...             rounding="stochastic:4")
    Fraction(3, 8)
    """
    mode = Rounding.parse(rounding)
    if isinstance(x, float) and not math.isfinite(x):
        raise ValueError(f"{x} has no neighbours on a grid; give a finite number")
    number = Fraction(x)
    gap = gap_at(fmt, number)
    # the larger R is, the sooner a number leaves: the least R that leaves is found by halving
    never, least = -1, 2**mode.random_bits
    while least - never > 1:
        middle = (never + least) // 2
        if _leaves_near(number, gap, mode, middle):
            least = middle
        else:
            never = middle
    return Fraction(2**mode.random_bits - least, 2**mode.random_bits)


def _overflowed(fmt: Format, negative: bool, mode: Rounding, policy: str, infinite: bool) -> Value:
    """What a result beyond the largest (or lowest) value becomes."""
    edge = fmt.lowest if negative else fmt.largest
    infinity = -INF if negative else INF
    below_unsigned = negative and not fmt.signed
    match policy:
        case "wrap":
            return NAN  # infinity has no remainder
        case "saturate":
            return edge
        case "saturate_propagate":
            keeps = infinite and fmt.infinities and not below_unsigned
            return infinity if keeps else edge
    if below_unsigned:
        return NAN if fmt.has_nan else edge
    if not infinite and _points_inward(fmt, negative, mode):
        return edge
    if fmt.infinities:
        return infinity
    return NAN if fmt.has_nan and policy == "ieee" else edge


def _points_inward(fmt: Format, negative: bool, mode: Rounding) -> bool:
    """Whether the mode takes a finite number beyond the edge back to the edge."""
    match mode.mode:
        case "toward_zero":
            return True
        case "up":
            return negative
        case "down":
            return not negative
        case "to_odd":  # to whichever of the edge and infinity has the odd code
            return not fmt.infinities or encode(fmt, fmt.largest) % 2 == 1
    return False
