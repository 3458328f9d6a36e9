"""What rounding must give, in float64 arithmetic that is exact for float32 input.

A float32 divided by a power of two is a float64 without error, ``rint`` takes the nearest integer
and the even one of two, and the product with the same power of two is exact again. An even
integer is an even code for every format with a stored mantissa bit.
"""

import numpy as np

from qsim.numbers.formats import Float

LOWS = (0x0000, 0x8000, 0x7FFF, 0x8001, 0x0001, 0xFFFF)  # ties of 7 mantissa bits, and about them


def inputs(variants: int = 64) -> np.ndarray:
    """``variants * 2**16`` float32: every upper half of a bit pattern, with chosen lower halves.

    These are all exponents of both signs, all subnormal binades, all ties of formats with up to
    7 mantissa bits and their neighbours, infinities and NaN; further lower halves are random.
    """
    highs = np.arange(2**16, dtype=np.uint32) << 16
    draws = np.random.default_rng(0).integers(0, 2**16, (2**16, variants), dtype=np.uint32)
    known = min(variants, len(LOWS))
    draws[:, :known] = LOWS[:known]
    return (highs[:, None] | draws).reshape(-1).view(np.float32)


def rounded(x: np.ndarray, fmt: Float, overflow: str) -> np.ndarray:
    """``x`` rounded to a format, ties to even, as float32.

    Args:
        x: float32 of any shape.
        fmt: a signed float format with 1 mantissa bit or more, inside float32's range.
        overflow: ``"saturate"`` or ``"ieee"``, as in ``qsim.OVERFLOWS``.
    """
    assert fmt.mantissa_bits > 0 and fmt.signed
    wide = np.nan_to_num(x, nan=0, posinf=np.inf, neginf=-np.inf).astype(np.float64)
    _, above = np.frexp(wide)  # |x| is in [2**(above - 1), 2**above)
    gap = np.ldexp(1.0, np.maximum(above - fmt.precision, fmt.quantum))
    nearest = np.rint(wide / gap) * gap
    largest = float(fmt.largest)
    special = np.inf if fmt.infinities else np.nan if fmt.has_nan else largest
    edge = {"saturate": largest, "ieee": special}[overflow]
    result = np.where(np.abs(nearest) > largest, np.copysign(edge, wide), nearest)
    return np.where(np.isnan(x), x, result).astype(np.float32)


def differences(actual: np.ndarray, expected: np.ndarray) -> dict[str, int]:
    """How many float32 differ in value, NaN being equal to NaN, and how many zeros in sign."""
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    zeros = (actual == 0) & (expected == 0) & (np.signbit(actual) != np.signbit(expected))
    return {"differ": int(np.sum(~same)), "zeros": int(np.sum(zeros))}
