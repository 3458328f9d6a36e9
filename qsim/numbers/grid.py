"""The lowering of formats to arrays, on which rounding computes.

A ``Format`` is a description in Python integers; a ``Grid`` is the same facts as arrays, so that
they can be traced, stacked and mapped. ``lower`` is the only door from one to the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import singledispatch
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.formats import Format
from qsim.numbers.modes import Rounding
from qsim.numbers.records import shown

__all__ = [
    "CARRIERS",
    "Carrier",
    "Grid",
    "carrier_of",
    "lower",
    "lowered",
    "pattern",
    "require_carried",
    "require_wraps",
    "stack",
    "word",
]


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

    @property
    def wider(self) -> str:
        """A clause that tells users how to come by a wider carrier."""
        if self.name == "float32":
            return "enable x64 (jax.config.update('jax_enable_x64', True)) and pass float64 values"
        return "no wider carrier exists"


CARRIERS = {
    "float32": Carrier("float32", 32, 23, 127),
    "float64": Carrier("float64", 64, 52, 1023),
}


class Grid(ABC):
    """The values of one format, or of a stack of formats, as arrays; the base of all kinds.

    Each kind of grid is a registered dataclass whose leaves are arrays, and knows how to round to
    itself. Two leaves are common to all; in a stack every leaf has the same leading axes more.

    Attributes:
        largest: the bit pattern of the largest value's magnitude, a carrier word of shape ``[]``.
        quantum: int32 of shape ``[]``; every value is a multiple of ``2**quantum``.
    """

    largest: Any
    quantum: Any
    wraps: ClassVar[bool] = False  # whether the kind knows the overflow policy "wrap"
    drops_least: ClassVar[bool] = True  # whether, to nearest, the least magnitudes become zero

    @property
    def kind(self) -> str:
        """What is said of grids that do not stack with others."""
        return type(self).__name__

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the stack; ``()`` for a single format."""
        return jnp.shape(self.largest)

    @abstractmethod
    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """``x`` rounded to this grid, which is a single one; no checks, no derivative.

        Args:
            x: values in the grid's carrier.
            mode, policy: a rounding mode, and a name of ``modes.OVERFLOWS``.
            random: for the stochastic modes, words as ``random_bits.random_words`` gives them.
        """

    @abstractmethod
    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """Whether each of ``x`` lies between the lowest and the largest value of this grid."""

    def trusts(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """Whether rounding moves each of ``x`` by at most half the gap below the largest value."""
        nearest, inward = Rounding("ties_to_even"), Rounding("toward_zero")
        rounded = self.round(x, mode=nearest, policy="saturate")
        largest = self.round(jnp.full_like(x, jnp.inf), mode=nearest, policy="saturate")
        below = jnp.nextafter(largest, jnp.zeros_like(largest))
        gap = largest - self.round(below, mode=inward, policy="saturate")
        return jnp.abs(x - rounded) <= gap / 2

    def along(self, axes: tuple[int, ...]) -> "Grid":
        """This grid for an array that is contracted over ``axes``, which only blocks run along."""
        return self


def word(value: int, carrier: Carrier) -> np.generic:
    """A constant among the carrier's words."""
    return carrier.word.type(value)


def carrier_of(grid: Grid) -> Carrier:
    """The carrier whose bit patterns the grid holds."""
    return CARRIERS[f"float{np.dtype(grid.largest.dtype).itemsize * 8}"]


def lower(fmt: Format, carrier: str = "float32") -> Grid:
    """The grid of a format in a carrier, for a single format.

    Raises:
        TypeError: if ``fmt`` is not a format.
        ValueError: if the carrier cannot hold every value of the format.

    >>> from qsim import parse
    >>> float(lower(parse("e4m3fn")).largest.view("float32"))
    448.0
    """
    if not isinstance(fmt, Format):
        raise TypeError(f"lower takes a Format, got {fmt!r}: write lower(parse('e4m3'))")
    return lowered(fmt, _carrier(carrier))


@singledispatch
def lowered(fmt: Format, carrier: Carrier) -> Grid:
    """The grid of a format. Each family registers its own; users call ``lower``."""
    raise NotImplementedError(type(fmt))


def stack(grids: Sequence[Grid]) -> Grid:
    """One grid with a leading axis, a row for each of ``grids``.

    Raises:
        TypeError: if one of them is no grid.
        ValueError: for an empty sequence, or grids of different carriers, kinds or shapes.

    >>> from qsim import parse
    >>> stack([lower(parse(spec)) for spec in ("e4m3", "int8")]).shape
    (2,)
    """
    if isinstance(grids, Grid) or not isinstance(grids, Iterable):
        raise TypeError(f"stack takes a list of grids, got {shown(grids)}")
    grids = list(grids)
    for grid in grids:
        if not isinstance(grid, Grid):
            raise TypeError(f"stack takes grids, got {grid!r}: write lower(parse('e4m3'))")
    if not grids:
        raise ValueError("cannot stack zero grids; give at least one format")
    if len({carrier_of(grid).name for grid in grids}) > 1:
        raise ValueError("cannot stack grids of different carriers; lower all to float64")
    if len({jax.tree.structure(grid) for grid in grids}) > 1:
        kinds = sorted({grid.kind for grid in grids})
        raise ValueError(
            f"cannot stack grids of different kinds ({', '.join(kinds)}): stack each kind apart; "
            "qsim.sweep takes formats of all kinds at once"
        )
    if len(shapes := {grid.shape for grid in grids}) > 1:
        raise ValueError(
            f"cannot stack grids of the shapes {sorted(shapes)}: stack those of one shape"
        )
    if len({tuple(map(jnp.shape, jax.tree.leaves(grid))) for grid in grids}) > 1:
        raise ValueError(
            "cannot stack tables of different lengths: stack those of one length; qsim.sweep takes "
            "formats of all kinds at once"
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *grids)


def require_wraps(grid: Grid, overflow: str) -> None:
    """Checks that a grid is of a kind that knows the overflow policy ``"wrap"``, if that is it.

    Raises:
        ValueError: for a kind that does not.
    """
    if overflow == "wrap" and not grid.wraps:
        raise ValueError(
            "overflow='wrap' is for integers and fixed point, and this is a "
            f"{type(grid).__name__}: choose another policy, such as 'saturate'"
        )


def _carrier(name: str) -> Carrier:
    if not isinstance(name, str) or name not in CARRIERS:
        raise ValueError(f"no carrier {name!r}; choose 'float32' or 'float64'")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("the carrier float64 needs x64: jax.config.update('jax_enable_x64', True)")
    return CARRIERS[name]


def pattern(value: Fraction, carrier: Carrier) -> int:
    """The bit pattern of a non-negative value that the carrier holds."""
    number = np.float64(value.numerator / value.denominator).astype(carrier.name)
    assert Fraction(float(number)) == value, (value, carrier)
    return int(number.view(carrier.word))


def require_carried(fmt: Format, carrier: Carrier) -> None:
    """Checks that every value of the format is a value of the carrier.

    Raises:
        ValueError: if one is not; the message says why and what to do.
    """
    name, limits = carrier.name, None
    edge = max(fmt.largest, -fmt.lowest)
    if fmt.precision > carrier.mantissa_bits + 1:
        limits = f"its precision is {fmt.precision} bits, {name} has {carrier.mantissa_bits + 1}"
    elif edge >= Fraction(2) ** (carrier.bias + 1):
        limits = f"its largest value is beyond the largest {name}"
    elif fmt.quantum < carrier.quantum:
        limits = f"its smallest value is below 2^{carrier.quantum}, the smallest {name}"
    elif getattr(fmt, "emin", 0) < -carrier.bias:
        limits = f"its normal values begin below 2^-{carrier.bias}, where {name} loses precision"
    if limits:
        raise ValueError(f"{fmt} cannot be carried in {name}: {limits}; {carrier.wider}")
