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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qsim.numbers.exact import Value, code_of, gap_at, round_exact, value_of
from qsim.numbers.formats import Float, Integer
from qsim.numbers.grid import CARRIERS, Carrier
from qsim.numbers.records import Format, exponent_of, power
from qsim.scales.blocks import Block

__all__ = ["FRACTION_BITS", "Quantized", "carried", "quantize_exact"]

NAN = math.nan
FRACTION_BITS = 20  # of errors that are compared
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
    if isinstance(value, Fraction) and abs(value) < power(carrier.bias):
        number = Fraction(float(np.dtype(carrier.name).type(float(value))))
        if number == value != 0:
            return value  # is one of the carrier's
    return round_exact(value, TYPES[carrier.name], overflow="ieee")


@lru_cache(maxsize=2**14)
def _rounded(x: Fraction, fmt: Format, rounding: str, overflow: str) -> Value:
    """``round_exact``, which blocks of other scales ask for the same numbers."""
    return round_exact(x, fmt, rounding=rounding, overflow=overflow)


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


@value_of.register(Block)
@code_of.register(Block)
@gap_at.register(Block)
def _(fmt: Block, x: object) -> Any:
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
        self.largest = fmt.element.largest

    def quantized(self, x: np.ndarray, rounding: str, overflow: str) -> Quantized:
        """An array of exact numbers on this format."""
        scaling = self._scaling(x)
        values, elements = _empty(x.shape), _empty(x.shape)
        for block, members in _members(x.shape, self._sizes(x.shape)):
            for place, _ in members:
                element, value = NAN, NAN
                if not scaling.bad[block]:
                    side = len(scaling.scales) - 1 if _sign(x[place]) < 0 else 0
                    scale = scaling.scales[side][block]
                    by = None if scaling.encode is None else scaling.encode[block]
                    zero = None if scaling.zero is None else scaling.zero[block]
                    element = self._element(x[place], scale, by, zero, rounding, overflow)
                    value = _product(element, scale, self.carrier)
                elements[place], values[place] = element, value
        return Quantized(values, elements, scaling.scales[0], scaling.stored)

    def _element(self, x: Value, scale: Value, encode, zero, rounding: str, overflow: str) -> Value:
        """A number over its scale, rounded to the element format."""
        if self.fmt.moves:
            scaled = Fraction(x) / scale if _is_finite(x) and x != 0 else x
        elif encode is not None:
            scaled = _or_least(x, _product(x, encode, self.carrier), self.carrier)
        else:
            scaled = divided(x, scale or TYPES[self.carrier.name].largest, self.carrier)
        fmt = self.fmt.element if zero is None else Integer(bits=self.fmt.element.bits + 1)
        exactly = _rounded if isinstance(scaled, Fraction) else round_exact
        rounded = exactly(scaled, fmt, rounding=rounding, overflow=overflow)
        if zero is None:
            return rounded
        if isinstance(rounded, float) and math.isnan(rounded):
            return NAN
        return max(-zero, min(rounded, self.largest - zero))

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of what has a scale: blocks, or the groups in them."""
        sizes = self.recipe.sizes(shape)
        if not self.recipe.micro:
            return sizes
        return tuple(self.recipe.micro if n == self.recipe.shape[0] else n for n in sizes)

    # --- what of a block counts ------------------------------------------------------------

    def _scaling(self, x: np.ndarray) -> "_Scaling":
        """The scales of the blocks of an array."""
        sizes = self._sizes(x.shape)
        blocks = {
            block: [x[place] for place, _ in members] for block, members in _members(x.shape, sizes)
        }
        bad, above, below = (_empty(_counts(x.shape, sizes)) for _ in range(3))
        for block, numbers in blocks.items():
            finite = [n if _is_finite(n) else Fraction(0) for n in numbers if n == n]
            finite += [Fraction(0)] * (len(numbers) - len(finite))
            is_bad = self.recipe.nonfinite == "nan" and not all(map(_is_finite, numbers))
            bad[block] = is_bad
            one_sided = not (self.recipe.two_sided or self.recipe.zero_point)
            up = [abs(n) if n > 0 or one_sided else Fraction(0) for n in finite]
            down = [abs(n) if n < 0 else Fraction(0) for n in finite]
            above[block] = Fraction(0) if is_bad else self._extent(up)
            below[block] = Fraction(0) if is_bad else self._extent(down)
        if self.recipe.micro:
            return self._in_groups(x.shape, above, bad)
        return self._chosen(x, above, below)._replace(bad=bad)

    def _extent(self, magnitudes: list[Value]) -> Fraction:
        """The magnitude that decides on the scale of a block."""
        ascending = sorted(map(Fraction, magnitudes))
        if self.recipe.rule_name != "percentile":
            return ascending[-1]
        return ascending[math.ceil(self.recipe.parameters[0] * len(ascending) / 100) - 1]

    def _chosen(self, x: np.ndarray, above: np.ndarray, below: np.ndarray) -> "_Scaling":
        sides = [above, below] if self.recipe.two_sided else [above]
        if self.recipe.is_power:
            scales = tuple(_each(self._power, side) for side in sides)
            return _Scaling(scales, scales)
        if self.recipe.order == "te":
            return self._te(above)
        if self.recipe.zero_point:
            return self._about_zero_point(above, below)
        targets = self._targets()
        if len(targets) > 1:
            return self._best(x, above, targets)
        if self.recipe.rule_name == "fixed":
            number = carried(self.recipe.parameters[0], self.carrier)
            sides, targets = [np.full_like(above, number)], [Fraction(1)]
        found = [self._scales(side, targets[0]) for side in sides]
        return _Scaling(
            tuple(scales for scales, _ in found), sum((stored for _, stored in found), ())
        )

    def _targets(self) -> list[Fraction]:
        """What the largest magnitude of a block becomes: candidates, of which one is taken."""
        numbers = self.recipe.parameters
        if self.recipe.rule_name == "mse":
            n = int(numbers[0])
            steps = [Fraction(n, k) for k in range(n, 0, -1) if 2 * k >= n]
            ratios = [carried(step, self.carrier) for step in steps]
            return [_product(self.largest, ratio, self.carrier) for ratio in ratios]
        if self.recipe.rule_name == "absmax" and numbers:
            return [carried(number, self.carrier) for number in numbers]
        return [self.largest]

    # --- powers of two ---------------------------------------------------------------------

    def _power(self, amax: Fraction) -> Fraction:
        """A scale that is a power of two, within the scale format and the carrier."""
        element, emax = self.fmt.element, exponent_of(self.largest)
        lowest, highest = exponent_of(self.fmt.scale.smallest), exponent_of(self.fmt.scale.largest)
        if self.fmt.moves and self.quantum == element.quantum:
            lowest = max(lowest, self.carrier.quantum - element.quantum + bool(self.recipe.micro))
        else:
            lowest = max(lowest, exponent_of(self._least_scale()))
        if amax == 0:
            return power(lowest)
        match self.recipe.rule:
            case "floor":
                exponent = exponent_of(amax) - emax
            case "ceil":
                exponent = _ceil_log2(amax) - emax
            case "rceil":
                exponent = _ceil_log2(amax / self.largest)
            case "even":
                gap = power(exponent_of(amax) - (element.precision - 1))
                exponent = exponent_of((amax + gap / 2) // gap * gap) - emax
        return power(max(lowest, min(exponent, highest)))

    def _in_groups(self, shape: tuple[int, ...], amax: np.ndarray, bad: np.ndarray) -> "_Scaling":
        """Scales of blocks; those of groups that would fit into half their range are halved."""
        ratio = [
            block // group
            for block, group in zip(self.recipe.sizes(shape), self._sizes(shape), strict=True)
        ]
        ratio = tuple(max(n, 1) for n in ratio)
        scales, halved, all_bad = (_empty(amax.shape) for _ in range(3))
        stored = _empty(_counts(amax.shape, ratio))
        for block, members in _members(amax.shape, ratio):
            groups = [place for place, _ in members]
            is_bad = any(bad[group] for group in groups)
            top = Fraction(0) if is_bad else max(amax[group] for group in groups)
            stored[block] = self._power(top)
            for group in groups:
                fits = top > 0 and (amax[group] == 0 or exponent_of(amax[group]) < exponent_of(top))
                halved[group], all_bad[group] = Fraction(fits), is_bad
                scales[group] = stored[block] / 2 if fits else stored[block]
        return _Scaling((scales,), (stored, halved), bad=all_bad)

    # --- by the largest magnitudes ---------------------------------------------------------

    def _scales(
        self, amax: np.ndarray, divisor: Fraction, first: Fraction | None = None
    ) -> tuple[np.ndarray, tuple]:
        """The scales ``amax / divisor`` on the scale format, and what is stored of them.

        Args:
            first: the divisor that decides on the scales of scales, if it is another one.
        """
        stores_amax, mode = self.recipe.stores == "amax", self.recipe.scale_rounding
        wanted = _each(lambda a: a if stores_amax else divided(a, divisor, self.carrier), amax)
        if isinstance(self.fmt.scale, Block):
            inner = self.fmt.scale
            level = _Blocks(inner, self.carrier, self.quantum + inner.element.quantum)
            of_top = Fraction(1) if stores_amax else divisor if first is None else first
            scales, stored = level.as_scales(wanted, amax, of_top, mode)
            scales = _each(self._at_least, scales)
        else:
            if not stores_amax:
                wanted = _each(self._at_least, wanted)
            if not self.fmt.scale.has_zero:
                wanted = _each(lambda s: max(s, self._least_scale()), wanted)
            scales = _each(lambda s: round_exact(s, self.fmt.scale, rounding=mode), wanted)
            stored = (scales,)
        if stores_amax:
            scales = _each(lambda s: self._at_least(divided(s, divisor, self.carrier)), scales)
        return scales, stored

    def as_scales(self, wanted, amax, divisor: Fraction, rounding: str):
        """``wanted`` scales, which are ``amax / divisor``, on this format, as that of scales."""
        if self.recipe.centred:
            mean = self._mean(wanted)
            wanted = _each(lambda s: self._unless_tiny(carried(s - mean, self.carrier)), wanted)
        if self.recipe.centred or self.recipe.rule_name != "absmax" or len(self._targets()) > 1:
            found = self.quantized(wanted, rounding, "saturate")
            values, stored = found.values, (found.elements, *found.stored)
            if self.recipe.centred:
                values = _each(lambda v: self._uncentred(v, mean), values)
                stored = (*stored, np.full((1,) * wanted.ndim, mean, object))
            return values, stored
        sizes = self._sizes(wanted.shape)
        tops = _empty(_counts(wanted.shape, sizes))
        for block, members in _members(amax.shape, sizes):
            tops[block] = max(amax[place] for place, _ in members)
        scales, stored = self._scales(tops, _product(divisor, self._targets()[0], self.carrier))
        values, elements = _empty(wanted.shape), _empty(wanted.shape)
        for block, members in _members(wanted.shape, sizes):
            for place, _ in members:
                element = self._element(
                    wanted[place], scales[block], None, None, rounding, "saturate"
                )
                elements[place] = element
                values[place] = _product(element, scales[block], self.carrier)
        return values, (elements, *stored)

    def _mean(self, numbers: np.ndarray) -> Fraction:
        """The mean; what is tiny counts as zero, and every step is the carrier's."""
        total = self._total([self._unless_tiny(number) for number in numbers.flat])
        count = carried(Fraction(numbers.size), self.carrier)
        return Fraction(_quotient(total, count, self.carrier))

    def _uncentred(self, value: Value, mean: Fraction) -> Fraction:
        total = carried(Fraction(value) + mean, self.carrier)
        return self._unless_tiny(total) if total > 0 else Fraction(0)

    def _unless_tiny(self, number: Value) -> Fraction:
        return Fraction(number) if abs(number) >= power(2 - self.carrier.bias) else Fraction(0)

    def _te(self, amax: np.ndarray) -> "_Scaling":
        """The order of operations of Transformer Engine, in its float32."""
        carrier, scale = self.carrier, self.fmt.scale
        both = _product(self.largest, scale.element.largest, carrier)
        top, encode = max(amax.flat), Fraction(1)
        if top > 0:
            inner = _Blocks(scale, carrier, self.quantum + scale.element.quantum)
            encode = _quotient(both, max(top, both * inner._least_scale()), carrier)
        decode = _quotient(Fraction(1), encode, carrier)
        stored, scales, factors = (_empty(amax.shape) for _ in range(3))
        for block in np.ndindex(amax.shape):
            wanted = _product(divided(amax[block], self.largest, carrier), encode, carrier)
            s = round_exact(wanted, scale.element, rounding=self.recipe.scale_rounding)
            stored[block], scales[block] = s, _product(s, decode, carrier)
            factors[block] = _quotient(encode, s, carrier) if s else Fraction(0)
        outer = np.full((1,) * amax.ndim, decode, object)
        return _Scaling((scales,), (stored, outer), encode=factors)

    def _about_zero_point(self, above: np.ndarray, below: np.ndarray) -> "_Scaling":
        """Unsigned integers from the lowest number, or zero, to the largest one."""
        extent, zero = _empty(above.shape), _empty(above.shape)
        for block in np.ndindex(above.shape):
            up, down = above[block], below[block]
            both = carried(self._unless_tiny(up) + self._unless_tiny(down), self.carrier)
            extent[block] = max(both, up, down)
        scales, stored = self._scales(extent, self.largest)
        signed = Integer(bits=self.fmt.element.bits + 1)
        for block in np.ndindex(above.shape):
            by = scales[block] or TYPES[self.carrier.name].largest
            zero[block] = Fraction(round_exact(divided(below[block], by, self.carrier), signed))
        return _Scaling((scales,), (*stored, zero), zero=zero)

    def _least_scale(self) -> Fraction:
        """The smallest scale above zero: the finest gap times it is ``2**(4 - bias)``."""
        return power(max(4 - self.carrier.bias - self.quantum, 1 - self.carrier.bias))

    def _at_least(self, scale: Value) -> Value:
        return max(scale, self._least_scale()) if scale > 0 else scale

    # --- the best of several ---------------------------------------------------------------

    def _best(self, x: np.ndarray, amax: np.ndarray, targets: list[Fraction]) -> "_Scaling":
        """In each block the scale of least squared error, the first of equals."""
        found = [self._scales(amax, target, targets[0]) for target in targets]
        scales, (first, *rest) = found[0]
        scales, stored = scales.copy(), [first.copy(), *rest]
        sizes = self._sizes(x.shape)
        for block, members in _members(x.shape, sizes):
            errors = []
            for candidate, _ in found:
                squares = [Fraction(0)] * math.prod(sizes)
                for place, number in members:
                    squares[number] = self._squared_error(x[place], candidate[block], amax[block])
                errors.append(self._total(squares))
            best = errors.index(min(errors))
            scales[block] = found[best][0][block]
            for level, values in enumerate(found[best][1]):
                if values.shape == amax.shape:
                    stored[level][block] = values[block]
        return _Scaling((scales,), tuple(stored))

    def _squared_error(self, x: Value, scale: Value, amax: Fraction) -> Fraction:
        """The squared error of one number, in units that the largest magnitude sets."""
        if x == 0 or amax == 0 or not _is_finite(x):
            return Fraction(0)
        element = self._element(x, scale, None, None, "ties_to_even", "saturate")
        unit = power(exponent_of(amax) - FRACTION_BITS)
        fixed = [
            min(abs(Fraction(v)) // unit, 2**24) if _is_finite(v) else 2**24
            for v in (x, _product(element, scale, self.carrier))
        ]
        return carried(Fraction((fixed[0] - fixed[1]) ** 2), self.carrier)

    def _total(self, numbers: list[Fraction]) -> Fraction:
        """The sum: halves are added to each other until one number is left."""
        full = 1 << max(len(numbers) - 1, 0).bit_length()
        numbers = [*numbers, *[Fraction(0)] * (full - len(numbers))]
        while full > 1:
            full //= 2
            pairs = zip(numbers[:full], numbers[full:], strict=True)
            numbers = [Fraction(carried(a + b, self.carrier)) for a, b in pairs]
        return numbers[0]


class _Scaling(NamedTuple):
    """What the blocks of an array are scaled by: arrays of exact values."""

    scales: tuple[np.ndarray, ...]
    stored: tuple[np.ndarray, ...]
    encode: np.ndarray | None = None
    zero: np.ndarray | None = None
    bad: Any = None


def _each(function: Callable[[Value], Value], values: np.ndarray) -> np.ndarray:
    """A function of each value of an array."""
    result = _empty(values.shape)
    for place in np.ndindex(values.shape):
        result[place] = function(values[place])
    return result


def _counts(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // max(size, 1)) for n, size in zip(shape, sizes, strict=True))


def _members(
    shape: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], list[tuple[tuple[int, ...], int]]]]:
    """Every block's place in the array of scales, and its numbers: their places in the array, and
    in the block, filled up, counted row by row."""
    members: dict[tuple[int, ...], list] = {}
    for place in np.ndindex(shape):
        block = tuple(i // size for i, size in zip(place, sizes, strict=True))
        number = 0
        for i, size in zip(place, sizes, strict=True):
            number = number * size + i % size
        members.setdefault(block, []).append((place, number))
    yield from members.items()


def _ceil_log2(x: Fraction) -> int:
    exponent = exponent_of(x)
    return exponent if power(exponent) == x else exponent + 1
