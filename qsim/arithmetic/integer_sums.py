"""Sums of integers in accumulators that floats have no room for, such as those of 32 bits.

Products of values of integer formats are integers, and are added up as such, one after the other;
the sum is what ``qsim.arithmetic.integers`` makes it. As a float it is rounded, to nearest even.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.extents import Extent
from qsim.arithmetic.integers import plus
from qsim.arithmetic.starts import zero
from qsim.numbers.formats import Integer
from qsim.numbers.grid import CARRIERS, Carrier
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree, static

__all__ = ["IntegerSum", "integer_sum"]

WIDEST = 32


@pytree
@dataclass(frozen=True, kw_only=True)
class IntegerSum:
    """An integer accumulator, in the place of a ``Rounder``.

    Attributes:
        bits: its width, an array, which is its only leaf.
        overflow: ``wrap`` or ``saturate``.
        extent: of its values as numbers of the carrier.
    """

    bits: Any
    overflow: str = static()
    extent: Extent = static()

    @classmethod
    def of(cls, acc: Accumulator, carrier: Carrier) -> "IntegerSum | None":
        """That of an accumulator, if it is one for which a carrier has no room."""
        fmt = acc.fmt
        if not isinstance(fmt, Integer) or not fmt.signed or fmt.fraction_bits or fmt.symmetric:
            return None
        if not carrier.mantissa_bits - 1 < fmt.bits <= WIDEST or acc.order != "sequential":
            return None
        if acc.alters_products:
            return None
        precision = min(fmt.precision, carrier.mantissa_bits + 1)
        overflow = "wrap" if acc.overflow == "wrap" else "saturate"
        extent = Extent(precision, 0, fmt.bits)
        return cls(bits=np.int32(fmt.bits), overflow=overflow, extent=extent)

    def among(self, others: "Sequence[IntegerSum]") -> "IntegerSum":
        """The same with the extent of all; without others without any."""
        extents = [other.extent for other in others] or [Extent(0, 0, 0)]
        return replace(self, extent=reduce(or_, extents))

    @property
    def mode(self) -> Rounding:
        """How integers are rounded to the carrier."""
        return Rounding.parse("ties_to_even")


def integer_sum(how: IntegerSum, products: Extent, a: Array, b: Array) -> Array:
    """The sum of the products ``a[k] * b[k]``; see ``qsim.arithmetic.orders``.

    Raises:
        ValueError: if the products, whose extent is known, need not be integers of 32 bits.
    """
    _require_integers(products, CARRIERS[a.dtype.name])

    def step(s, operands):
        x, y = (z.astype(jnp.int32) for z in operands)
        return plus(s, x * y, how.bits, how.overflow)[0], None

    start = zero(a, b).astype(jnp.int32)
    return lax.scan(step, start, (a, b))[0].astype(a.dtype)


def _require_integers(products: Extent, carrier: Carrier) -> None:
    rule = (
        "an accumulator of more bits than a float adds up products of integers, of "
        f"{WIDEST} bits at most"
    )
    if products.quantum <= carrier.quantum:
        raise ValueError(
            f"{rule}, but of an operand no format is known: give both operands integer formats, "
            "such as operands=int8 absmax (in policy.lower with known=True), or formats=('int8', "
            "'int8') of matmul"
        )
    if products.quantum < 0 or products.top > WIDEST or products.precision >= WIDEST:
        raise ValueError(
            f"{rule}: give both operands integer formats, such as operands=int8 absmax"
        )
