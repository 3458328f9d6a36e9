"""How far the numbers of a format reach: what decides which float operations on them are exact.

Products and sums of numbers of few bits are exact in a wider float, or rounded there without harm.
An ``Extent`` bounds numbers from all sides, so that this can be known before anything is computed.

Source: S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995.
"""

from dataclasses import dataclass

from qsim.numbers.formats import Format
from qsim.numbers.grid import Carrier
from qsim.numbers.records import exponent_of

__all__ = ["Extent"]

DTYPES = {
    "float16": (11, -24, 16),
    "bfloat16": (8, -133, 128),
    "float32": (24, -149, 128),
    "float64": (53, -1074, 1024),
}


@dataclass(frozen=True)
class Extent:
    """Bounds of numbers: each is ``k * 2**e`` with ``|k| < 2**precision`` and ``e >= quantum``.

    Attributes:
        precision: bits of the longest significand.
        quantum: all are multiples of ``2**quantum``.
        top: all are below ``2**top`` in magnitude.

    >>> from qsim import parse
    >>> Extent.of(parse("e4m3")) * Extent.of(parse("int8"))
    Extent(precision=11, quantum=-9, top=16)
    """

    precision: int
    quantum: int
    top: int

    @classmethod
    def of(cls, fmt: Format) -> "Extent":
        """That of the finite values of a format."""
        return cls(fmt.precision, fmt.quantum, exponent_of(max(fmt.largest, -fmt.lowest)) + 1)

    @classmethod
    def of_dtype(cls, dtype: str) -> "Extent":
        """That of the finite numbers of a float dtype, by its name."""
        return cls(*DTYPES[dtype])

    def __mul__(self, other: "Extent") -> "Extent":
        """That of products."""
        return Extent(
            self.precision + other.precision, self.quantum + other.quantum, self.top + other.top
        )

    def __or__(self, other: "Extent") -> "Extent":
        """That of numbers of either."""
        return Extent(
            max(self.precision, other.precision),
            min(self.quantum, other.quantum),
            max(self.top, other.top),
        )

    def is_normal_in(self, carrier: Carrier) -> bool:
        """Whether all are numbers of the carrier, and none but zero is subnormal there."""
        return (
            self.precision <= carrier.mantissa_bits + 1
            and self.quantum >= 1 - carrier.bias
            and self.top <= carrier.bias
        )

    def adds_exactly(self, other: "Extent", carrier: Carrier) -> bool:
        """Whether sums with numbers of ``other`` are exact in the carrier."""
        both = self | other
        bits = both.top + 1 - both.quantum
        return bits <= carrier.mantissa_bits + 1 and both.top <= carrier.bias

    def adds_harmlessly(self, other: "Extent", carrier: Carrier, ties: int) -> bool:
        """Whether sums with numbers of ``other`` may be rounded in the carrier, then to ``other``.

        That is to nearest even, where the carrier has two bits more than twice those of either, and
        none of these numbers is a tie, beside which a sum so far could be too small for the
        carrier; or where the carrier is the other format itself.

        Args:
            other: of the sums and of their format.
            carrier: the carrier.
            ties: the fewest bits of a tie of the format, but between its subnormal numbers.
        """
        width = carrier.mantissa_bits + 1
        is_carrier = other.precision == width and other.quantum == carrier.quantum
        bits = max(self.precision, other.precision)
        return is_carrier or (self.precision < ties and 2 * bits + 2 <= width)
