"""The exact definition of accumulators: fractions, one product after the other.

Slow, and written to be read: ``qsim.arithmetic.matmul`` is tested to equal it. Numbers are as in
``qsim.arithmetic.exact``.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.exact import lmul, negated, product, total
from qsim.numbers.exact import Value, round_exact
from qsim.numbers.formats import Format, power
from qsim.numbers.records import exponent_of

__all__ = ["exact_dot"]

ZERO = Fraction(0)
Numbers = Sequence[Value]


def exact_dot(
    a: Numbers, b: Numbers, acc: Accumulator, *, formats: tuple[Format, Format] | None = None
) -> Value:
    """The sum of the products ``a[k] * b[k]`` as an accumulator makes it.

    Args:
        a, b: numbers, as many of either.
        acc: the accumulator; its roundings are deterministic.
        formats: of a and b, if ``align`` is to know which numbers are subnormal there.

    Raises:
        ValueError: for an accumulator whose order only back ends know.

    >>> ones = [Fraction(1)] * 5000
    >>> exact_dot(ones, ones, Accumulator.parse("e5m10"))
    Fraction(2048, 1)
    """
    if acc.order == "native":
        raise ValueError(f"order {acc.order!r} has no exact definition: it is the back end's own")
    if not acc.chunk:
        return _of_chunk(a, b, acc, formats)
    assert acc.outer is not None
    s: Value = ZERO
    for start in range(0, len(a), acc.chunk):
        part = slice(start, start + acc.chunk)
        s = round_exact(
            total(s, _of_chunk(a[part], b[part], acc, formats), down=False),
            acc.outer,
            rounding="ties_to_even",
            overflow="ieee",
        )
    return s


def _of_chunk(a: Numbers, b: Numbers, acc: Accumulator, formats) -> Value:
    if not a:
        return ZERO
    if acc.order == "align":
        return _aligned(a, b, acc, formats)
    times = product if acc.multiplier is None else partial(lmul, acc.multiplier)
    products = [times(x, y) for x, y in zip(a, b, strict=True)]
    if acc.product is not None:
        how = {"rounding": acc.rounding, "overflow": acc.overflow}
        products = [round_exact(x, acc.product, **how) for x in products]
    if acc.order == "normalise":
        operands = None if acc.alters_products else list(zip(a, b, strict=True))
        return _coarse(products, operands, acc)
    return ORDERS[acc.order](products, acc)


def _rounded(x: Value, acc: Accumulator) -> Value:
    return round_exact(x, acc.fmt, rounding=acc.rounding, overflow=acc.overflow)


def _plus(x: Value, y: Value, acc: Accumulator) -> Value:
    return _rounded(total(x, y, down=acc.rounding == "down"), acc)


def _sequential(products: Numbers, acc: Accumulator) -> Value:
    s: Value = ZERO
    for x in products:
        s = _plus(s, x, acc)
    return s


def _kahan(products: Numbers, acc: Accumulator) -> Value:
    s: Value = ZERO
    lost: Value = ZERO
    for x in products:
        corrected = _plus(x, negated(lost), acc)
        after = _plus(s, corrected, acc)
        lost = _plus(_plus(after, negated(s), acc), negated(corrected), acc)
        s = after
    return s


def _neumaier(products: Numbers, acc: Accumulator) -> Value:
    s: Value = ZERO
    lost: Value = ZERO
    for x in products:
        x = _plus(ZERO, x, acc)
        after = _plus(s, x, acc)
        big, small = (s, x) if abs(s) >= abs(x) else (x, s)
        error = _plus(_plus(big, negated(after), acc), small, acc)
        s, lost = after, _plus(lost, error, acc)
    return _plus(s, lost, acc)


def _lanes(products: Numbers, acc: Accumulator) -> Value:
    count = min(acc.count, len(products))
    return _levels([_sequential(products[n::count], acc) for n in range(count)], acc, 2, _of_two)


def _pairwise(products: Numbers, acc: Accumulator) -> Value:
    if len(products) == 1:
        return _plus(ZERO, products[0], acc)
    pairs = [products[n : n + 2] for n in range(0, len(products), 2)]
    first = [_plus(pair[0] if len(pair) == 2 else ZERO, pair[-1], acc) for pair in pairs]
    return _levels(first, acc, 2, _of_two)


def _tree(products: Numbers, acc: Accumulator) -> Value:
    groups = [products[n : n + acc.count] for n in range(0, len(products), acc.count)]
    return _levels([_node(group, acc) for group in groups], acc, acc.count, _node)


def _levels(sums: Numbers, acc: Accumulator, fan_in: int, node: Callable) -> Value:
    while len(sums) > 1:
        groups = [sums[n : n + fan_in] for n in range(0, len(sums), fan_in)]
        sums = [node(group, acc) for group in groups]
    return sums[0]


def _of_two(numbers: Numbers, acc: Accumulator) -> Value:
    """The sum of two numbers; one alone passes on."""
    return _plus(numbers[0], numbers[1], acc) if len(numbers) == 2 else numbers[0]


def _node(numbers: Numbers, acc: Accumulator) -> Value:
    """The sum of numbers rounded once; minus zero if all are."""
    only = all(isinstance(x, float) and x == 0 for x in numbers)
    return _rounded(-0.0 if only else _sum(numbers), acc)


def _coarse(products: Numbers, of: Sequence[Numbers] | None, acc: Accumulator) -> Value:
    """One after the other, leading zeros being removed as far as a coarse normaliser sees them.

    Exact products are ``of`` two operands each, whose exponents add up to theirs.
    """
    s: Value = ZERO
    place: int | None = None  # that of the sum's highest bit, zeros included
    for x, parts in zip(products, of or [[x] for x in products], strict=True):
        t = total(s, x, down=False)
        if t == 0 or (isinstance(t, float) and not math.isfinite(t)):
            s, place = _rounded(t, acc), None
            continue
        places = [] if place is None else [place]
        top = max(places + ([] if x == 0 else [sum(_exponent(y, None) for y in parts)]))
        leading = exponent_of(abs(t))
        place = max(top - _removed(top - leading, acc.shifts), leading)
        unit = power(max(place - acc.fmt.mantissa_bits, acc.fmt.quantum))
        s = _rounded(math.trunc(t / unit) * unit, acc)
        place = None if s == 0 else min(place, exponent_of(acc.fmt.largest))
    return s


def _removed(zeros: int, shifts: tuple[int, int]) -> int:
    """How many of some leading zeros are removed."""
    first, both = shifts[0], sum(shifts)
    return both if zeros >= both else first if zeros >= first else 0


def _exact(products: Numbers, acc: Accumulator) -> Value:
    return _rounded(_sum(products), acc)


def _sum(numbers: Numbers) -> Value:
    """The exact sum; a zero is plus zero."""
    special = [float(x) for x in numbers if isinstance(x, float) and not math.isfinite(x)]
    return sum(special) if special else sum((Fraction(x) for x in numbers), ZERO)


ORDERS: dict[str, Callable] = {
    "sequential": _sequential,
    "lanes": _lanes,
    "pairwise": _pairwise,
    "tree": _tree,
    "exact": _exact,
    "kahan": _kahan,
    "neumaier": _neumaier,
}


# --- aligned groups -----------------------------------------------------------------------------


def _aligned(a: Numbers, b: Numbers, acc: Accumulator, formats) -> Value:
    """Groups of products, and the sum so far, cut below the largest exponent among them."""
    s: Value = ZERO
    for start in range(0, len(a), acc.group):
        part = slice(start, start + acc.group)
        products = [product(x, y) for x, y in zip(a[part], b[part], strict=True)]
        numbers = [s, *products]
        if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
            s = _rounded(_sum(numbers), acc)
            continue
        exponents = [
            _exponent(x, formats and formats[0]) + _exponent(y, formats and formats[1])
            for x, y in zip(a[part], b[part], strict=True)
            if x != 0 and y != 0
        ]
        exponents += [_exponent(s, None)] if s != 0 else []
        unit = power(max(exponents) - acc.count) if exponents else Fraction(1)
        s = _rounded(sum((math.trunc(Fraction(x) / unit) * unit for x in numbers), ZERO), acc)
    return s


def _exponent(x: Value, fmt: Format | None) -> int:
    """The exponent of the leading bit; of numbers subnormal in a format that of normal ones."""
    leading = exponent_of(abs(Fraction(x)))
    return max(leading, getattr(fmt, "emin", leading))
