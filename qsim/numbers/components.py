"""Multi-component floats: a number as the unevaluated sum of several numbers of one float format.

For a real number x and components of a format F, each component is what is left of x, rounded::

    x1 = round_to_F(x),   x2 = round_to_F(x - x1),   x3 = round_to_F(x - x1 - x2), ...

All but the last are rounded to nearest, ties to even; the last one by the rounding mode, where up,
down, toward zero and so on are meant of the sum. So the sum goes to one of its two neighbours on a
grid whose gap, around x, is that of the last component. Two components of p bits hold at least
2p + 1 bits where the exponent range is wide enough, and more where the significand has zeros, such
as 1 + 2**-60.

In bit patterns of the carrier, the distance of a magnitude from the nearest component is a number
of steps, whose length in bits tells the gap of the next component.

Sources: T. J. Dekker, "A floating-point technique for extending the available precision", Numer.
Math. 18, 1971; Collage, arXiv:2405.03637 (pairs of bfloat16).
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.binades import BinadeGrid, edges
from qsim.numbers.exact import Gap, Value, code_of, gap_at, value_of
from qsim.numbers.families import register
from qsim.numbers.formats import Float, Format, power
from qsim.numbers.gaps import gap_shift, round_to_gaps
from qsim.numbers.grid import Carrier, Grid, lowered
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree
from qsim.numbers.records import MAX_CODE_BITS, last_place, require, require_integers, shown
from qsim.numbers.specs import parse

__all__ = ["ComponentGrid", "Components"]


@dataclass(frozen=True, kw_only=True)
class Components(Format):
    """Sums of several numbers of one float format, each nearest to what those before it leave.

    Attributes:
        component: the format of each, a signed ``Float``; in catalogue entries its spec string.
        count: how many there are, 2 or more.

    A code holds those of the components side by side, the first in the highest bits. A sum whose
    first component is an infinity is that infinity.

    Raises:
        TypeError: for a field of another type.
        ValueError: for a component without sign or with irregular gaps, fewer than two, more than
            the exponent range has room for, or codes of more than 64 bits.

    The record's meaning: ``value = x1 + x2 + ...``, with ``x1 = round_to_nearest(value)``,
    ``x2 = round_to_nearest(value - x1)`` and so on.

    >>> pair = Components(component=Float(exponent_bits=8, mantissa_bits=7))
    >>> [float(part) for part in pair.parts(Fraction(999, 1000))]
    [1.0, -0.00099945068359375]
    """

    component: Any  # a Float in every record; a spec string is read
    count: int = 2

    def __post_init__(self):
        if isinstance(self.component, str):
            object.__setattr__(self, "component", parse(self.component))
        if not isinstance(self.component, Float):
            raise TypeError(f"components are of a Float, such as 'e8m7', got {self.component!r}")
        require_integers(self, "count")
        self._check_component()
        require(self.count >= 2, f"count is {self.count}, but there are at least 2 components")
        require(
            self.bits <= MAX_CODE_BITS,
            f"the code would have {self.bits} bits, but at most {MAX_CODE_BITS} are supported",
        )
        filled = sum(part != 0 for part in self._largest_parts)
        require(
            filled == self.count,
            f"{filled} of {self.component} hold all that its exponent range has room for: "
            f"{self.count} components would be no more",
        )

    def _check_component(self) -> None:
        fmt = self.component
        require(
            fmt.signed and fmt.lowest == -fmt.largest,
            f"{fmt} has not the same values on both sides of zero: components correct both ways",
        )
        require(
            fmt.is_regular and fmt.subnormals == "gradual" and fmt.precision > 1,
            f"{fmt} cannot be a component, which needs gradual subnormals, an integer bias, and "
            "mantissa bits: what is left of a number is a multiple of the smallest value",
        )

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.count * self.component.bits

    @property
    def codes_in_order(self) -> bool:
        """They are not: a second component below zero has a higher code, and a lower value."""
        return False

    @property
    def codes_are_unique(self) -> bool:
        """They are not: only one of them has components that are all nearest."""
        return False

    @property
    def quantum(self) -> int:
        """Exponent of the smallest gap between neighbours."""
        return self.component.quantum

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value."""
        return self.component.smallest

    @property
    def largest(self) -> Fraction:
        """The sum of the largest components, each of which leaves the one before nearest."""
        return sum(self._largest_parts, Fraction(0))

    @property
    def lowest(self) -> Fraction:
        """The lowest value."""
        return -self.largest

    @property
    def precision(self) -> int:
        """Bits of the longest significand: all from the first component's highest bit down."""
        return self.component.emax - self.quantum + 1

    @property
    def has_negative_zero(self) -> bool:
        """Whether minus zero is a value of its own."""
        return self.component.has_negative_zero

    @property
    def infinities(self) -> bool:
        """Whether infinity is a value."""
        return self.component.infinities

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs: those with a NaN, or infinities of both signs, among them."""
        infinite = 2 * self.infinities
        finite = 2**self.component.bits - self.component.nan_count - infinite
        one_sided = (finite + 1) ** self.count - finite**self.count if infinite else 0
        return 2**self.bits - finite**self.count - 2 * one_sided

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN: its first component is the component's, the others are zero."""
        first = self.component.nan_code
        return None if first is None else first << (self.bits - self.component.bits)

    @property
    def _largest_parts(self) -> list[Fraction]:
        part = self.component.largest
        parts = [part]
        for _ in range(self.count - 1):
            gap = gap_at(self.component, part)
            # the tie itself still leaves an even part as it is
            parts.append(_largest_within(self.component, gap.tie - part, inclusive=gap.even))
            part = parts[-1]
        return parts

    def parts(self, x: Fraction) -> list[Fraction]:
        """The components of a number, all of them rounded to nearest, ties to even."""
        parts = []
        for _ in range(self.count):
            parts.append(_nearest(self.component, x))
            x -= parts[-1]
        return parts

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        return f"{self.count}x{self.component}"


def _nearest(fmt: Float, x: Fraction) -> Fraction:
    """``x`` rounded to nearest, ties to even, on the format's grid, which has no end."""
    gap = gap_at(fmt, x)
    stays = abs(x) < abs(gap.tie) or (x == gap.tie and gap.even)
    return gap.near if stays or x == gap.near else gap.far


def _largest_within(fmt: Float, limit: Fraction, *, inclusive: bool) -> Fraction:
    """The largest value up to a power of two, or below it."""
    near = gap_at(fmt, limit).near
    if near == 0 or inclusive:
        return near
    below = gap_at(fmt, limit * Fraction(3, 4))
    return limit - (below.far - below.near)


COUNTED = re.compile(r"\d+x")  # components have no components


def _read(found: re.Match) -> Components:
    count, component = found.groups()
    fmt = None if COUNTED.match(component) else parse(component)
    if not isinstance(fmt, Float):
        raise ValueError(f"{shown(found[0])} needs a float format after the 'x', such as 2xe8m7")
    return Components(component=fmt, count=int(count))


register("components", Components, pattern=r"(\d{1,2})x(\w[\w.-]*)", read=_read, example="2xe8m7")


# --- the exact definition -------------------------------------------------------------------


def _codes(fmt: Components, code: int) -> list[int]:
    width = fmt.component.bits
    places = reversed(range(fmt.count))
    return [code >> (place * width) & (2**width - 1) for place in places]


@value_of.register
def _(fmt: Components, code: int) -> Value:
    parts = [value_of(fmt.component, part) for part in _codes(fmt, code)]
    special = [part for part in parts if isinstance(part, float) and not math.isfinite(part)]
    if special:
        return sum(special)
    if all(part == 0 for part in parts):
        return parts[0]
    return sum((Fraction(part) for part in parts), Fraction(0))


@code_of.register
def _(fmt: Components, value: Value) -> int | None:
    if isinstance(value, float):
        first = code_of(fmt.component, value)
        return None if first is None else first << (fmt.bits - fmt.component.bits)
    code = 0
    for part in fmt.parts(value):
        below = code_of(fmt.component, part)
        assert below is not None
        code = code << fmt.component.bits | below
    return code


@gap_at.register
def _(fmt: Components, x: Fraction) -> Gap:
    """Even means an even multiple of the gap: the parity of the last component's code."""
    rest = x
    for _ in range(fmt.count - 1):
        rest -= _nearest(fmt.component, rest)
    gap = gap_at(fmt.component, rest)
    others = x - rest
    one, other = others + gap.near, others + gap.far
    near, far = (one, other) if rest == gap.near or abs(one) < abs(other) else (other, one)
    return Gap(near, far, (near + far) / 2, near / (far - near) % 2 == 0)


# --- the grid -------------------------------------------------------------------------------


@pytree
@dataclass(frozen=True, kw_only=True)
class ComponentGrid(Grid):
    """The sums of several components.

    - ``component``: the grid of one component, but with the edges of the sum.
    - ``count``: how many components there are; static, so that those of one count stack.
    """

    largest: Any
    quantum: Any
    component: BinadeGrid
    count: int = dataclasses.field(metadata={"static": True})

    @property
    def kind(self) -> str:
        """As ``Grid.kind``."""
        return f"{type(self).__name__} of {self.count}"

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``."""
        shift = partial(_last_gap_shift, self.count)
        return round_to_gaps(x, self.component, shift, mode=mode, policy=policy, random=random)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``."""
        return self.component.inside(x)


@lowered.register
def _(fmt: Components, carrier: Carrier) -> ComponentGrid:
    """What the carrier's numbers round to are its numbers too, if the largest value is one."""
    grid = lowered(fmt.component, carrier)
    assert isinstance(grid, BinadeGrid)
    length = (fmt.largest / power(last_place(fmt.largest))).numerator.bit_length()
    if length > carrier.mantissa_bits + 1:
        raise ValueError(
            f"{fmt} cannot be carried in {carrier.name}: its largest value has {length} bits, "
            f"{carrier.name} has {carrier.mantissa_bits + 1}; {carrier.wider}"
        )
    words = {name: np.asarray(word, carrier.word) for name, word in edges(fmt, carrier).items()}
    component = dataclasses.replace(grid, **words)
    return ComponentGrid(
        largest=component.largest, quantum=grid.quantum, component=component, count=fmt.count
    )


def _last_gap_shift(count: int, magnitude: Array, grid: BinadeGrid, carrier: Carrier) -> Array:
    """How many low bits of a magnitude's pattern lie below the gap of its last component."""
    word, stored = carrier.word.type, carrier.mantissa_bits
    field = lax.convert_element_type(magnitude >> stored, jnp.int32)
    least = grid.quantum + (carrier.bias + stored) - jnp.maximum(field, 1)
    precision = stored + 1 - grid.dropped
    rest, shift = magnitude, gap_shift(magnitude, grid, carrier)
    for _ in range(count - 1):
        gap = word(1) << shift
        above = rest & (gap - word(1))
        rest = jnp.minimum(above, gap - above)  # the distance from the nearest component
        length = carrier.bits - lax.clz(rest).astype(jnp.int32)
        shift = jnp.maximum(jnp.maximum(length - precision, least), 0).astype(carrier.word)
    return shift
