"""Which formats the carrier has room for: where rounding to odd and then to the format is exact.

Source: S. Boldo and G. Melquiond, IEEE Trans. Computers 57(4), 2008, theorem 3.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from itertools import pairwise

from qsim.numbers.codebooks import Codebook
from qsim.numbers.exact import gap_at, values
from qsim.numbers.formats import Float, Format, Integer, power
from qsim.numbers.grid import Carrier, Grid, carrier_of
from qsim.numbers.modes import Rounding
from qsim.numbers.records import exponent_of, last_place

__all__ = ["require_room", "spare_bits"]

MAX_EXPONENT = 1 << 20  # beyond that of any number


def require_room(fmt: Format | Grid, mode: Rounding, carrier: Carrier) -> None:
    """Checks that rounding to odd in the carrier leaves the rounding to the format exact.

    What decides a rounding are the format's values and, between two of them, their tie, or for
    stochastic rounding with N random bits the multiples of 2**-N of the gap (2**-(N+1) for the
    variants B and C). They must be numbers of the carrier whose last bit is even. So a float of
    precision p needs p + 2 or p + N + 1 (N + 2) bits, and as many less p binades below its smallest
    gap. A ``Grid``, whose facts may be traced, is not checked: it must be that of such a format.

    Raises:
        TypeError: for a grid of another carrier.
        ValueError: if there is no such room; the message says how much there is.
    """
    if isinstance(fmt, Grid):
        if carrier_of(fmt) != carrier:
            raise TypeError(
                f"this grid's values are carried in {carrier_of(fmt).name}, but the operands "
                f"are {carrier.name}: lower the format to {carrier.name}"
            )
        return
    deciding, spare = mode.fraction_bits, spare_bits(fmt, carrier)
    if spare > deciding:
        return
    most = mode.random_bits - deciding + spare - 1  # random bits for which there is room
    fewer = deciding > 1 and most > 0
    remedies = [f"use rounding='{mode.mode}:{most}'"] if fewer else []
    if carrier.name == "float32":
        remedies.append("enable x64 (jax.config.update('jax_enable_x64', True)) and pass float64")
    raise ValueError(
        f"arithmetic in {fmt} cannot be rounded once in {carrier.name}: {deciding + 1} bits more "
        f"than the format's are needed, {max(spare, 0)} are there; "
        + (" or ".join(remedies) or "no wider carrier exists")
    )


@cache
def spare_bits(fmt: Format, carrier: Carrier) -> int:
    """How many bits the carrier has more than the format, at every one of its gaps."""
    by_width = min(carrier.mantissa_bits + 1 - fmt.precision, fmt.quantum - carrier.quantum)
    if by_width < 2 or isinstance(fmt, Float | Integer):
        return by_width
    pairs = _neighbours(fmt) if isinstance(fmt, Codebook) else _outermost_neighbours(fmt)
    return min(by_width, *(_spare_within(fmt, low, high, carrier) for low, high in pairs))


def _neighbours(fmt: Format) -> Iterable[tuple[Fraction, Fraction]]:
    return pairwise(sorted({Fraction(v) for v in values(fmt) if math.isfinite(v)}))


def _outermost_neighbours(fmt: Format) -> list[tuple[Fraction, Fraction]]:
    """Those of the smallest and the largest magnitudes; gaps between are relatively narrower."""
    little = power(-100)
    gaps = gap_at(fmt, fmt.smallest * (1 + little)), gap_at(fmt, fmt.largest * (1 - little))
    return [(gap.near, gap.far) for gap in gaps]


def _spare_within(fmt: Format, low: Fraction, high: Fraction, carrier: Carrier) -> int:
    """The same between two neighbours, whose tie may be anywhere."""
    tie = gap_at(fmt, (low + high) / 2).tie
    larger = max(abs(low), abs(high))
    binade = exponent_of(larger) - (larger == power(exponent_of(larger)))  # of what lies below it
    unit = max(binade, 1 - carrier.bias) - carrier.mantissa_bits
    lowest = min(_lowest_bit(low), _lowest_bit(high), _lowest_bit(tie) + 1)
    return lowest - unit


def _lowest_bit(x: Fraction) -> int:
    """The exponent of the last bit of a number, which is far down if it has no last one."""
    if x == 0:
        return MAX_EXPONENT
    if x.denominator & (x.denominator - 1):
        return -MAX_EXPONENT
    return last_place(x)
