"""The lowering of formats to arrays, on which rounding computes.

A ``Format`` is a description in Python integers; a ``Grid`` is the same facts as arrays, so that
they can be traced, stacked and mapped. ``lower`` is the only door from one to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsim.numbers.formats import Float, Format, power

__all__ = ["CARRIERS", "Carrier", "Grid", "carrier_of", "lower", "stack"]


class Carrier(NamedTuple):
    """An IEEE type in which emulated values travel, by the layout of its bit patterns."""

    name: str
    bits: int
    mantissa_bits: int
    bias: int

    @property
    def word(self) -> np.dtype:
        """The unsigned integer type of a bit pattern."""
        return np.dtype(f"uint{self.bits}")

    @property
    def sign(self) -> int:
        """The bit pattern of the sign bit."""
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        """The bit pattern of infinity."""
        return (2 * self.bias + 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        """The bit pattern of the canonical NaN: quiet, positive, without payload."""
        return self.infinity | 1 << (self.mantissa_bits - 1)

    @property
    def quantum(self) -> int:
        """Exponent of the smallest subnormal."""
        return 1 - self.bias - self.mantissa_bits


CARRIERS = {
    "float32": Carrier("float32", 32, 23, 127),
    "float64": Carrier("float64", 64, 52, 1023),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values of one format, or of a stack of formats, as arrays of shape ``[...]``.

    Bit patterns are those of magnitudes in the carrier (uint32 words for float32, uint64 for
    float64). The values are ``±k * 2**max(E - mantissa_bits, quantum)`` in the binade of exponent
    E, for integers k, up to the edges.

    - ``quantum`` (int32): the exponent of the smallest gap, at least the carrier's;
    - ``dropped`` (int32): mantissa bits that the carrier has and the format has not;
    - ``first`` and ``half``: the smallest gap, ``2**quantum``, and half of it, rounded down;
    - ``smallest`` is 0, but the smallest value where the format has no zero;
    - ``largest``, ``lowest``: the magnitudes of the largest value and of the lowest, which is 0
      for unsigned formats;
    - ``overflow`` and ``underflow`` are what lies above ``largest`` and below ``-lowest``:
      the carrier's infinity or NaN, or the finite edge itself where the format has neither;
    - ``sign`` is the carrier's sign bit, 0 for unsigned formats, and ``negative_zero`` is the
      carrier's sign bit where minus zero is a value, else 0;
    - ``absolute`` is all bits but the carrier's sign bit. It is the same in every grid, and is kept
      here so that a compiled loop over grids does not compute magnitudes ahead and store them;
    - ``parity_mask``, ``parity_flip``: ``(pattern & mask ^ flip) & gap`` is zero for even codes.

    The annotation of the leaves is ``Any``, since transformations put other things in their place.
    """

    quantum: Any
    dropped: Any
    first: Any
    half: Any
    smallest: Any
    largest: Any
    lowest: Any
    overflow: Any
    underflow: Any
    sign: Any
    absolute: Any
    negative_zero: Any
    parity_mask: Any
    parity_flip: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the stack; ``()`` for a single format."""
        return jnp.shape(self.largest)


def carrier_of(grid: Grid) -> Carrier:
    """The carrier whose bit patterns the grid holds."""
    return CARRIERS[f"float{np.dtype(grid.largest.dtype).itemsize * 8}"]


def lower(fmt: Format, carrier: str = "float32") -> Grid:
    """The grid of a format in a carrier; every leaf is a scalar.

    Raises:
        ValueError: if the carrier cannot hold every value of the format.

    >>> from qsim import parse
    >>> float(lower(parse("e4m3fn")).largest.view("float32"))
    448.0
    """
    if not isinstance(fmt, Format):
        raise TypeError(f"lower takes a Format, got {fmt!r}: write lower(parse('e4m3'))")
    into = _carrier(carrier)
    _require_carried(fmt, into)
    # the grid of an integer format is all subnormal: its gaps never widen within the range
    mantissa_bits = fmt.mantissa_bits if isinstance(fmt, Float) else into.mantissa_bits
    integers = {"quantum": fmt.quantum, "dropped": into.mantissa_bits - mantissa_bits}
    first = _bits(power(fmt.quantum), into)
    binade = 1 << into.mantissa_bits
    words = {
        "first": first,
        "half": first >> 1 if first < 2 * binade else first - binade,
        **_edges(fmt, into),
        "sign": into.sign if fmt.signed else 0,
        "absolute": into.sign - 1,
        "negative_zero": into.sign if fmt.has_negative_zero else 0,
        **_parity(fmt, into),
    }
    return Grid(
        **{name: np.asarray(word, into.word) for name, word in words.items()},
        **{name: np.asarray(value, np.int32) for name, value in integers.items()},
    )


def _edges(fmt: Format, carrier: Carrier) -> dict[str, int]:
    """The outermost values, and what lies beyond them."""
    largest = _bits(fmt.largest, carrier)
    lowest = _bits(max(-fmt.lowest, Fraction(0)), carrier)
    smallest = 0 if fmt.has_zero else _bits(fmt.smallest, carrier)
    nan = carrier.nan if fmt.has_nan else None
    beyond = carrier.infinity if fmt.infinities else nan
    below = beyond if fmt.signed else nan
    return {
        "smallest": smallest,
        "largest": largest,
        "lowest": lowest,
        "overflow": largest if beyond is None else beyond,
        "underflow": max(lowest, smallest) if below is None else below,
    }


def _parity(fmt: Format, carrier: Carrier) -> dict[str, int]:
    """How a pattern tells odd codes from even ones.

    A code is odd where the last bit of the significand is, the implicit bit being always set.
    With one bit of precision there is no other bit, and the exponent tells odd codes from even:
    in the pattern, the last bit of the exponent field, or for the carrier's highest subnormal
    binade (field 0) the bit below it.
    """
    implicit, all_bits = 1 << carrier.mantissa_bits, 2**carrier.bits - 1
    if not isinstance(fmt, Float) or fmt.mantissa_bits > 0:
        return {"parity_mask": all_bits - implicit, "parity_flip": implicit}
    flip = 0 if fmt.bias % 2 == carrier.bias % 2 else implicit * 3 // 2
    return {"parity_mask": all_bits - implicit + 1, "parity_flip": flip}


def stack(grids: Sequence[Grid]) -> Grid:
    """One grid with a leading axis, a row for each of ``grids``.

    Raises:
        TypeError: if one of them is no grid.
        ValueError: for an empty sequence or grids of different carriers.

    >>> from qsim import parse
    >>> stack([lower(parse(spec)) for spec in ("e4m3", "int8")]).shape
    (2,)
    """
    for grid in grids:
        if not isinstance(grid, Grid):
            raise TypeError(f"stack takes grids, got {grid!r}: write lower(parse('e4m3'))")
    if not grids:
        raise ValueError("cannot stack zero grids; give at least one format")
    if len({carrier_of(grid).name for grid in grids}) > 1:
        raise ValueError("cannot stack grids of different carriers; lower all to float64")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *grids)


def _carrier(name: str) -> Carrier:
    if name not in CARRIERS:
        raise ValueError(f"no carrier {name!r}; choose 'float32' or 'float64'")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("the carrier float64 needs x64: jax.config.update('jax_enable_x64', True)")
    return CARRIERS[name]


def _require_carried(fmt: Format, carrier: Carrier) -> None:
    """Every value of the format must be a value of the carrier."""
    name, limits = carrier.name, None
    edge = max(fmt.largest, -fmt.lowest)
    if fmt.precision > carrier.mantissa_bits + 1:
        limits = f"its precision is {fmt.precision} bits, {name} has {carrier.mantissa_bits + 1}"
    elif edge >= Fraction(2) ** (carrier.bias + 1):
        limits = f"its largest value is beyond the largest {name}"
    elif fmt.quantum < carrier.quantum:
        limits = f"its smallest value is below 2^{carrier.quantum}, the smallest {name}"
    elif isinstance(fmt, Float) and fmt.emin < -carrier.bias:
        limits = f"its normal values begin below 2^-{carrier.bias}, where {name} loses precision"
    if limits:
        remedy = (
            "enable x64 (jax.config.update('jax_enable_x64', True)) and pass float64 values"
            if name == "float32"
            else "no wider carrier exists"
        )
        raise ValueError(f"{fmt} cannot be carried in {name}: {limits}; {remedy}")


def _bits(value: Fraction, carrier: Carrier) -> int:
    """The bit pattern of a non-negative value that the carrier holds."""
    number = np.float64(value.numerator / value.denominator).astype(carrier.name)
    assert Fraction(float(number)) == value, (value, carrier)
    return int(number.view(carrier.word))
