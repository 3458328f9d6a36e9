"""Biases that are real numbers: an integer bias, and a factor of float32's precision.

A format whose largest value is a continuous parameter has values ``2**-b`` times integers, for a
real number b. A computer has them through a rounded factor, which here is part of the format::

    2**-b  =  scale * 2**-n        with an integer n and 1/2 < scale <= 1

Source: A. Kuzmin et al., FP8 quantization: the power of the exponent, arXiv:2208.09225, section 4.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from qsim.numbers.records import exponent_of, power, require

__all__ = ["rounded", "taken_apart", "text"]

SCALE_BITS = 24  # those of float32
DIGITS = 60  # of decimal arithmetic, far more than what decides a rounding to 24 bits
TEXT_DIGITS = 9  # after the point of a bias; eight tell any two scales apart


def rounded(value: Fraction, bits: int) -> Fraction:
    """A positive number at ``bits`` bits of precision, ties to even.

    >>> rounded(Fraction(1, 3), 4)
    Fraction(11, 32)
    """
    unit = power(exponent_of(value) - bits + 1)
    return round(value / unit) * unit


def taken_apart(bias: Any, scale: Any) -> tuple[int, Fraction]:
    """The integer bias and the scale, above 1/2 and at most 1, that a bias and a scale make.

    Raises:
        TypeError: if one is not a number.
        ValueError: for numbers that are not finite, a scale that float32 has not, and a scale
            beside a bias that is not an integer.

    >>> taken_apart(7.5, 1)
    (7, Fraction(11863283, 16777216))
    """
    bias, scale = _number("bias", bias), _number("scale", scale)
    require(scale > 0, f"scale is {scale}, but it must be positive")
    require(
        scale == rounded(scale, SCALE_BITS),
        f"scale is {scale}, which float32 has not: round it to {SCALE_BITS} bits",
    )
    whole = math.floor(bias)
    if bias != whole:
        require(
            scale == 1, f"bias is {float(bias)} and scale is {scale}: put both into one of the two"
        )
        scale = _factor(bias - whole)
    exponent = exponent_of(scale)
    up = exponent if scale == power(exponent) else exponent + 1
    return whole - up, scale / power(up)


def _number(field: str, value: Any) -> Fraction:
    if type(value) not in (int, float, Fraction):
        raise TypeError(f"Float {field} must be a Python int or float, got {value!r}")
    require(math.isfinite(value), f"{field} is {value}, but it must be finite")
    # a float stands for the number that it prints as
    return Fraction(str(value)) if type(value) is float else Fraction(value)


def _factor(fraction: Fraction) -> Fraction:
    """``2**-fraction`` at 24 bits."""
    with localcontext() as context:
        context.prec = DIGITS
        exponent = Decimal(fraction.numerator) / Decimal(fraction.denominator)
        return rounded(Fraction(Decimal(2) ** -exponent), SCALE_BITS)


def text(bias: int, scale: Fraction) -> str:
    """The shortest decimal bias that is taken apart into these two.

    >>> text(7, Fraction(11863283, 16777216))
    '7.5'
    """
    fraction = -math.log2(scale)
    for digits in range(1, TEXT_DIGITS + 1):
        found = Fraction(f"{fraction:.{digits}f}")
        if 0 < found < 1 and _factor(found) == scale:
            return f"{Decimal(bias) + Decimal(f'{fraction:.{digits}f}')}"
    raise AssertionError(scale)
