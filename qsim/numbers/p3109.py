"""The binary formats of IEEE P3109, for every width and precision.

P3109 is a draft standard; these formats are tested against the definitions of its draft 4.0. A
format has K bits and precision P. It has one zero, whose code is 0, and one NaN, which takes the
code of minus zero if there is a sign, and the largest code if there is none; an *extended* format
has infinities below it. With the bias B = 2**(K - P - 1), twice that without a sign, and a code's
exponent field E and fraction T::

    value = T * 2**(1 - P) * 2**(1 - B)        where E == 0
    value = (1 + T * 2**(1 - P)) * 2**(E - B)  elsewhere

What a number beyond the largest value becomes is the overflow policy ``"p3109"``, or
``"saturate"`` (SatFinite) or ``"saturate_propagate"`` (SatPropagate).
"""

import re

from qsim.numbers.families import register
from qsim.numbers.floats import Float
from qsim.numbers.records import require

__all__ = ["p3109"]

NAME = r"(?:binary|p3109_k)(\d{1,3})p(\d{1,3})([su])([ef])"


def p3109(bits: int, precision: int, *, signed: bool = True, extended: bool = True) -> Float:
    """The P3109 format of a width and a precision; ``binary8p3se`` names it too.

    Args:
        bits: bits of a code, 3 to 16.
        precision: bits of the significand, the implicit bit counted: at least 1, and less than
            ``bits`` if there is a sign, at most ``bits`` if there is none.
        signed: whether there are values below zero.
        extended: whether there are infinities; else their codes are finite values.

    Raises:
        TypeError: for a width or a precision that is not a Python int.
        ValueError: for one outside these ranges.

    >>> p3109(8, 3).largest, p3109(8, 3, extended=False).largest
    (Fraction(49152, 1), Fraction(57344, 1))
    """
    for name, value in (("bits", bits), ("precision", precision)):
        if type(value) is not int:
            raise TypeError(f"{name} of a P3109 format must be a Python int, got {value!r}")
    require(3 <= bits <= 16, f"a P3109 format here has 3 to 16 bits, got {bits}")
    most = bits - signed
    require(
        1 <= precision <= most,
        f"precision is {precision}, but {'a signed' if signed else 'an unsigned'} P3109 format of "
        f"{bits} bits has a precision of 1 to {most}",
    )
    exponent_bits = bits - signed - precision + 1
    return Float(
        exponent_bits=exponent_bits,
        mantissa_bits=precision - 1,
        bias=2 ** (exponent_bits - 1),
        signed=signed,
        zero=True,
        infinities=extended,
        nans="negative_zero" if signed else "top",
    )


def _read(found: re.Match) -> Float:
    bits, precision, sign, domain = found.groups()
    return p3109(int(bits), int(precision), signed=sign == "s", extended=domain == "e")


register("p3109", p3109, pattern=NAME, read=_read, example="binary8p3se")
