"""The exact definition of block formats: what the numbers of an array become, and their scales.

Slow, and written to be read: what is fast in qsim is tested to equal it. Numbers are exact, as in
``qsim.numbers.exact``. What a system computes in floating point is rounded to the carrier at each
step, by ``carried``; the remaining arithmetic is exact.

Two steps are not those of a system with subnormals, so that every back end can follow them; they
matter for numbers below about 2^-100 in float32, and never for scales that are powers of two:

- a number or quotient below ``2**(2 - bias)`` counts as the smallest magnitude of the carrier, of
  its sign (``divided``);
- a scale above zero is at least so large that the gap of the elements times the scale is
  ``2**(4 - bias)`` (``least_scale``).

Sources: OCP MX 1.0, 6.3 (floor); NVIDIA Transformer Engine 2, ``core_nvfp4.cuh`` (te);
arXiv:2506.08027 (rceil); AMD Quark, MX quantization (even).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qsim.numbers.exact import Value, code_of, gap_at, round_exact, value_of
from qsim.numbers.formats import Float
from qsim.numbers.grid import CARRIERS, Carrier
from qsim.numbers.records import exponent_of, power
from qsim.scales.blocks import Block

__all__ = ["Quantized", "carried", "quantize_exact"]

NAN = math.nan
TYPES = {
    "float32": Float(exponent_bits=8, mantissa_bits=23),
    "float64": Float(exponent_bits=11, mantissa_bits=52),
}


@dataclass(frozen=True)
class Quantized:
    """An array on a block format, as arrays of exact values.

    Attributes:
        values: what the numbers became, of the array's shape.
        elements: the same over their scales, before the carrier rounds the product.
        scales: the scale of every block, as the elements are multiplied with it.
        stored: what is stored of the scales: those on the scale format, then their own scales.
    """

    values: np.ndarray
    elements: np.ndarray
    scales: np.ndarray
    stored: tuple[np.ndarray, ...]


def quantize_exact(
    x: np.ndarray,
    fmt: Block,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
) -> Quantized:
    """The numbers of an array of float32 or float64 on a block format.

    Raises:
        ValueError: if blocks do not fill the array's axes, and its recipe has no answer to that.

    >>> from qsim import parse
    >>> x = np.float32([0.5, 3, 7, 0])
    >>> quantize_exact(x, parse("e2m1f[4,e8m0,floor]")).values.tolist()
    [Fraction(1, 2), Fraction(3, 1), Fraction(6, 1), 0.0]
    """
    carrier = CARRIERS[x.dtype.name]
    numbers = _empty(x.shape)
    for place in np.ndindex(x.shape):
        number = float(x[place])
        special = number == 0 or math.isinf(number) or math.isnan(number)
        numbers[place] = number if special else Fraction(number)
    return _Blocks(fmt, carrier, fmt.element.quantum).quantized(numbers, rounding, overflow)


# --- numbers --------------------------------------------------------------------------------


def carried(value: Value, carrier: Carrier) -> Value:
    """``value`` as the carrier has it: rounded to nearest even, beyond its range infinite."""
    return round_exact(value, TYPES[carrier.name], overflow="ieee")


def _sign(x: Value) -> int:
    return -1 if (math.copysign(1.0, x) if isinstance(x, float) else x) < 0 else 1


def _is_finite(x: Value) -> bool:
    return not isinstance(x, float) or math.isfinite(x)


def _product(x: Value, by: Value, carrier: Carrier) -> Value:
    """``x * by`` in the carrier."""
    if not (_is_finite(x) and _is_finite(by)):
        return float(x) * float(by)
    if x == 0 or by == 0:
        return 0.0 * _sign(x) * _sign(by)
    return carried(Fraction(x) * Fraction(by), carrier)


def _quotient(x: Value, by: Value, carrier: Carrier) -> Value:
    """``x / by`` in the carrier, for ``by`` above zero."""
    if not (_is_finite(x) and _is_finite(by)):
        return float(x) / float(by)
    return 0.0 * _sign(x) if x == 0 else carried(Fraction(x) / Fraction(by), carrier)


def _or_least(x: Value, scaled: Value, carrier: Carrier) -> Value:
    """What ``x`` was scaled to, or the smallest magnitude where either is tiny."""
    tiny = power(2 - carrier.bias)
    if x == 0 or not (_is_finite(x) and (abs(x) < tiny or abs(scaled) < tiny)):
        return scaled
    return _sign(x) * power(carrier.quantum)


def divided(x: Value, by: Value, carrier: Carrier) -> Value:
    """``x / by`` in the carrier; what is tiny counts as the smallest magnitude."""
    return _or_least(x, _quotient(x, by, carrier), carrier)


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, None, object)


@value_of.register
@code_of.register
@gap_at.register
def _(fmt: Block, x: object) -> None:
    raise ValueError(
        f"{fmt} says nothing of one number alone: qsim.quantize and qsim.encode_blocks take "
        f"arrays, and {fmt.element} is the format of its elements"
    )


# --- blocks ---------------------------------------------------------------------------------


class _Blocks:
    """One level of scales: the blocks of an array, and what they are scaled by.

    Args:
        quantum: of what is scaled in the end, where ``fmt`` is the format of scales.
    """

    def __init__(self, fmt: Block, carrier: Carrier, quantum: int):
        self.fmt, self.recipe, self.carrier, self.quantum = fmt, fmt.recipe, carrier, quantum

    def quantized(self, x: np.ndarray, rounding: str, overflow: str) -> Quantized:
        """An array of exact numbers on this format."""
        maxima = _empty(self._counts(x.shape))
        for block, members in self._members(x.shape):
            maxima[block] = self._maximum([x[place] for place in members])
        finite = np.vectorize(lambda a: Fraction(a) if _is_finite(a) else Fraction(0), [object])
        if self.recipe.is_power:
            scales = np.vectorize(self._power, [object])(finite(maxima))
            encode, stored = None, (scales,)
        elif self.recipe.order == "te":
            scales, encode, stored = self._te(finite(maxima))
        elif self.recipe.rule_name == "fixed":
            number = carried(self.recipe.parameter, self.carrier)
            wanted = np.full_like(maxima, number)
            (scales, stored), encode = self._scales(wanted, Fraction(1)), None
        else:
            largest = self.fmt.element.largest
            (scales, stored), encode = self._scales(finite(maxima), largest), None
        values, elements = _empty(x.shape), _empty(x.shape)
        for block, members in self._members(x.shape):
            for place in members:
                element, value = NAN, NAN
                if _is_finite(maxima[block]):
                    by = None if encode is None else encode[block]
                    scaled = self._scaled(x[place], scales[block], by)
                    element = round_exact(
                        scaled, self.fmt.element, rounding=rounding, overflow=overflow
                    )
                    value = _product(element, scales[block], self.carrier)
                elements[place], values[place] = element, value
        return Quantized(values, elements, scales, stored)

    def _counts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = self.recipe.sizes(shape)
        return tuple(math.ceil(n / size) for n, size in zip(shape, sizes, strict=True))

    def _members(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple, list[tuple]]]:
        """Every block's place in the array of scales, and the places of its numbers."""
        sizes, members = self.recipe.sizes(shape), {}
        for place in np.ndindex(shape):
            block = tuple(i // size for i, size in zip(place, sizes, strict=True))
            members.setdefault(block, []).append(place)
        yield from members.items()

    def _maximum(self, numbers: list[Value]) -> Value:
        """The largest magnitude; not finite if all of the block is to become NaN."""
        finite = [abs(x) for x in numbers if _is_finite(x)]
        if self.recipe.nonfinite == "nan" and len(finite) < len(numbers):
            return NAN
        return max(finite, default=Fraction(0))

    def _scaled(self, x: Value, scale: Value, encode: Value | None) -> Value:
        """A number over the scale of its block."""
        if self.fmt.moves:
            return Fraction(x) / scale if _is_finite(x) and x != 0 else x
        if encode is not None:
            return _or_least(x, _product(x, encode, self.carrier), self.carrier)
        return divided(x, scale or TYPES[self.carrier.name].largest, self.carrier)

    # --- rules -----------------------------------------------------------------------------

    def _power(self, amax: Fraction) -> Fraction:
        """A scale that is a power of two, within the scale format and the carrier."""
        element = self.fmt.element
        lowest, highest = exponent_of(self.fmt.scale.smallest), exponent_of(self.fmt.scale.largest)
        if self.fmt.moves and self.quantum == element.quantum:
            lowest = max(lowest, self.carrier.quantum - element.quantum)
        else:
            lowest = max(lowest, exponent_of(self._least_scale()))
        if amax == 0:
            return power(lowest)
        emax = exponent_of(element.largest)
        match self.recipe.rule:
            case "floor":
                exponent = exponent_of(amax) - emax
            case "ceil":
                exponent = _ceil_log2(amax) - emax
            case "rceil":
                exponent = _ceil_log2(amax / element.largest)
            case "even":
                gap = power(exponent_of(amax) - (element.precision - 1))
                exponent = exponent_of((amax + gap / 2) // gap * gap) - emax
        return power(max(lowest, min(exponent, highest)))

    def _scales(self, amax: np.ndarray, divisor: Fraction) -> tuple[np.ndarray, tuple]:
        """The scales ``amax / divisor`` on the scale format, and what is stored of them."""
        wanted = _empty(amax.shape)
        for block in np.ndindex(amax.shape):
            wanted[block] = divided(amax[block], divisor, self.carrier)
        if isinstance(self.fmt.scale, Block):
            inner = _Blocks(
                self.fmt.scale, self.carrier, self.quantum + self.fmt.scale.element.quantum
            )
            return inner.as_scales(wanted, amax, divisor, self.recipe.scale_rounding)
        scales = _empty(amax.shape)
        for block in np.ndindex(amax.shape):
            least = self._least_scale() if amax[block] > 0 else Fraction(0)
            scales[block] = round_exact(
                max(wanted[block], least), self.fmt.scale, rounding=self.recipe.scale_rounding
            )
        return scales, (scales,)

    def as_scales(self, wanted, amax, divisor: Fraction, rounding: str):
        """``wanted`` scales, which are ``amax / divisor``, on this format, as that of scales."""
        if self.recipe.rule != "absmax":
            found = self.quantized(wanted, rounding, "saturate")
            return found.values, (found.elements, *found.stored)
        tops = _empty(self._counts(amax.shape))
        for block, members in self._members(amax.shape):
            tops[block] = max(amax[place] for place in members)
        both = _product(divisor, self.fmt.element.largest, self.carrier)
        scales, stored = self._scales(tops, both)
        values, elements = _empty(wanted.shape), _empty(wanted.shape)
        for block, members in self._members(wanted.shape):
            for place in members:
                scaled = self._scaled(wanted[place], scales[block], None)
                element = round_exact(scaled, self.fmt.element, rounding=rounding)
                elements[place] = element
                values[place] = _product(element, scales[block], self.carrier)
        return values, (elements, *stored)

    def _te(self, amax: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """The order of operations of Transformer Engine, in its float32."""
        carrier, largest, scale = self.carrier, self.fmt.element.largest, self.fmt.scale
        both = _product(largest, scale.element.largest, carrier)
        top, encode = max(amax.flat), Fraction(1)
        if top > 0:
            inner = _Blocks(scale, carrier, self.quantum + scale.element.quantum)
            encode = _quotient(both, max(top, both * inner._least_scale()), carrier)
        decode = _quotient(Fraction(1), encode, carrier)
        stored, scales, factors = (_empty(amax.shape) for _ in range(3))
        for block in np.ndindex(amax.shape):
            wanted = _product(divided(amax[block], largest, carrier), encode, carrier)
            s = round_exact(wanted, scale.element, rounding=self.recipe.scale_rounding)
            stored[block], scales[block] = s, _product(s, decode, carrier)
            factors[block] = _quotient(encode, s, carrier) if s else Fraction(0)
        return scales, factors, (stored, np.full((1,) * amax.ndim, decode, object))

    def _least_scale(self) -> Fraction:
        """The smallest scale above zero: the finest gap times it is ``2**(4 - bias)``."""
        return power(max(4 - self.carrier.bias - self.quantum, 1 - self.carrier.bias))


def _ceil_log2(x: Fraction) -> int:
    exponent = exponent_of(x)
    return exponent if power(exponent) == x else exponent + 1
