"""Multipliers that do not multiply: products by an addition of logarithms.

L-Mul takes the fields of two floats ``x = (1 + f) 2**e`` and ``y = (1 + g) 2**h`` of M mantissa
bits, and adds::

    the formula   (1 + f + g + 2**-L) * 2**(e + h)
    the adder     the exponents and mantissas as integers, of which a carry of the mantissas goes
                  into the exponent, where it doubles

with the offset L = M up to three bits, 3 for four, and 4 beyond. The two differ where f + g + 2**-L
reaches one; the adder is what the hardware has. Operands are rounded to M bits, to nearest even;
zeros and numbers that are subnormal in the carrier count as zero, products below its normal numbers
are zero, and those beyond its range are its largest number. Infinities and NaNs are as in IEEE 754.

Source: H. Luo and W. Sun, Addition is all you need for energy-efficient language models,
arXiv:2410.00907, section 2; J. N. Mitchell, IRE Trans. Electronic Computers EC-11(4), 1962 (the
same without an offset).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from qsim.arithmetic.extents import Extent
from qsim.numbers.grid import Carrier, word
from qsim.numbers.pytrees import pytree, static

__all__ = ["LMul", "Multiplier"]

TEXT = re.compile(r"lmul(\d{1,2})(?:offset(\d{1,2}))?(formula)?")
MAX_BITS = 52


@dataclass(frozen=True)
class LMul:
    """The description of an L-Mul multiplier; ``lmul4``, ``lmul4offset4``, ``lmul4formula``.

    Attributes:
        bits: of the operands' mantissas, M.
        offset: L; None for the published one.
        formula: whether carries go where the formula has them, and not where the adder has.

    Raises:
        ValueError: for bits or offsets that are none.

    >>> str(LMul.parse("lmul4")), LMul.parse("lmul4").offset
    ('lmul4', 3)
    """

    bits: int
    offset: int | None = None
    formula: bool = False

    def __post_init__(self):
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(
                f"lmul{self.bits} has {self.bits} mantissa bits, but there are 1 to {MAX_BITS}: "
                "write lmul4"
            )
        offset = _published(self.bits) if self.offset is None else self.offset
        object.__setattr__(self, "offset", offset)
        if not 1 <= offset <= self.bits:
            raise ValueError(
                f"offset{offset} stands for 2**-{offset}, but operands have {self.bits} mantissa "
                f"bits: write offset1 to offset{self.bits}"
            )

    @classmethod
    def parse(cls, text: str) -> "LMul | None":
        """The multiplier that a text stands for; None if it is not the text of one."""
        found = TEXT.fullmatch(text)
        if found is None:
            return None
        return cls(int(found[1]), found[2] and int(found[2]), formula=bool(found[3]))

    def __str__(self) -> str:
        offset = "" if self.offset == _published(self.bits) else f"offset{self.offset}"
        return f"lmul{self.bits}{offset}{'formula' if self.formula else ''}"


def _published(bits: int) -> int:
    """The offset that the paper found best."""
    return min(bits, 3 if bits <= 4 else 4)


@pytree
@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """An ``LMul`` whose numbers are arrays, its only leaves.

    Attributes:
        bits, offset: as in ``LMul``.
        formula: as there.
        widest: the most bits that it may have.
    """

    bits: Any
    offset: Any
    formula: bool = static()
    widest: int = static()

    @classmethod
    def of(cls, lmul: LMul, carrier: Carrier) -> "Multiplier":
        """That of a description in a carrier.

        Raises:
            ValueError: if its products have more bits than the carrier.
        """
        room = carrier.mantissa_bits - lmul.formula
        if lmul.bits > room:
            raise ValueError(
                f"products of {lmul} have more bits than {carrier.name}: write at most lmul{room}"
                + ("" if carrier.name == "float64" else ", or enable x64 and pass float64")
            )
        bits, offset = np.int32(lmul.bits), np.int32(lmul.offset)
        return cls(bits=bits, offset=offset, formula=lmul.formula, widest=lmul.bits)

    def among(self, others: "Sequence[Multiplier]") -> "Multiplier":
        """The same with room for all; without others for as many bits as there can be."""
        return replace(self, widest=max((other.widest for other in others), default=MAX_BITS))

    def extent(self, exact: Extent, carrier: Carrier) -> Extent:
        """That of products, of operands whose exact products have an extent."""
        bits = min(self.widest, carrier.mantissa_bits - self.formula)
        lowest = max(exact.quantum, 1 - carrier.bias)
        return Extent(bits + 1 + self.formula, lowest - bits, min(exact.top + 1, carrier.bias + 1))

    def __call__(
        self, x: Float[Array, "..."], y: Float[Array, "..."], carrier: Carrier
    ) -> Float[Array, "..."]:
        """The products of numbers of a carrier."""
        stored, whole = carrier.mantissa_bits, word(carrier.infinity, carrier)
        sign, down = word(carrier.sign, carrier), stored - jnp.asarray(self.bits)
        bits = [lax.bitcast_convert_type(z, carrier.word) for z in (x, y)]
        magnitudes = [z & word(carrier.sign - 1, carrier) for z in bits]
        a, b = (_fields(z, down, carrier) for z in magnitudes)
        one = word(1, carrier) << stored
        offset = one >> jnp.asarray(self.offset).astype(carrier.word)
        bias = word(carrier.bias << stored, carrier)
        total = a + b + offset
        if self.formula:
            fraction = ((a & (one - 1)) + (b & (one - 1))) + offset
            carried = fraction >= one
            # 1 + fraction is two or more, and becomes one bit longer than the adder's
            total = jnp.where(carried, total - ((fraction - one) >> 1), total)
        least, none = bias + one, jnp.minimum(*magnitudes) < one
        last = one >> jnp.asarray(self.bits + int(self.formula)).astype(carrier.word)
        product = jnp.clip(total, bias, bias + (whole - last)) - bias
        product = jnp.where(none | (total < least), word(0, carrier), product)
        product = product | ((bits[0] ^ bits[1]) & sign)
        special = ~(jnp.isfinite(x) & jnp.isfinite(y))
        infinite = jnp.where(none, jnp.nan, x * y)  # of zero and infinity
        return jnp.where(special, infinite, lax.bitcast_convert_type(product, x.dtype))


def _fields(magnitude: Array, down: Array, carrier: Carrier) -> Array:
    """Exponent and mantissa of magnitudes, rounded to nearest even; other bits are zero."""
    unit, one = down.astype(carrier.word), word(1, carrier)
    below = (one << unit) - one
    odd = (magnitude >> unit) & jnp.minimum(below, one)
    return (magnitude + (below >> 1) + odd) & ~below
