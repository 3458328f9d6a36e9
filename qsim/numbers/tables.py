"""Grids that are lists of values, and the rounding to them, bit for bit.

Bit patterns become integers in the order of the numbers, their *keys*: a positive pattern is its
own key, a negative one has all bits but the sign inverted. Between two neighbours of a list, a mode
of rounding changes from the lower to the higher one at a certain key, so that rounding counts how
many of these keys a number has reached::

    key(x) >= the first key above the lower neighbour      for a mode that rounds up here
    key(x) >= the key of the higher neighbour              for a mode that rounds down here
    key(x) >= the first key at, or above, the tie          for a mode that rounds to nearest

Ties need not be numbers of the carrier, nor need the gaps follow any rule. ``table_of`` makes the
grid of any format of at most 16 bits out of its exact definition.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers import exact
from qsim.numbers.formats import Format, power
from qsim.numbers.grid import Carrier, Grid, carrier_of, pattern, require_carried, word
from qsim.numbers.interpolation import moves
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS, Rounding
from qsim.numbers.pytrees import pytree
from qsim.numbers.records import exponent_of

__all__ = ["TableGrid", "table_of"]

MAX_BITS = 16
LEAST = 16  # values of the shortest table
POLICIES = tuple(policy for policy in OVERFLOWS if policy != "wrap")  # it is for integers only
COMPARED = 64  # values up to which a number is compared with every one
BUCKET_BITS = 12  # of a key, to look a number up among more values


@pytree
@dataclass(frozen=True, kw_only=True)
class TableGrid(Grid):
    """A grid that is a list of values, for any format of at most 16 bits.

    Patterns are words of the carrier, keys are signed integers of the same width. The n values are
    in ascending order, minus zero before zero; the last is repeated until n is a power of two. Step
    j of the n + 1 steps leads from value j - 1 to value j; the first and the last lead to the grid
    points beyond the ends.

    - ``values`` (words, ``[n]``): the patterns of the values;
    - ``above_low``, ``from_high``, ``from_tie``, ``above_tie`` (keys, ``[n + 1]``): the first key
      of a number above the lower neighbour, not below the higher one, not below the tie, above it;
    - ``low_is_near`` (``[n + 1]``): whether the lower neighbour is the one of smaller magnitude;
    - ``even`` (``[n + 1]``): whether the neighbour of smaller magnitude counts as even;
    - ``outer`` (words, ``[2]``): the grid points beyond the ends, or the ends if there are none;
    - ``outside`` (words, ``[policy, mode, 4]``): what becomes of -infinity, of what rounds to the
      lower outer grid point, to the higher one, and of infinity.
    """

    quantum: Any
    largest: Any
    values: Any
    above_low: Any
    from_high: Any
    from_tie: Any
    above_tie: Any
    low_is_near: Any
    even: Any
    outer: Any
    outside: Any

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``."""
        carrier, grid = carrier_of(self), jax.tree.map(jnp.asarray, self)
        bits = lax.bitcast_convert_type(x, carrier.word)
        key = _key(bits, carrier)
        if mode.is_stochastic:
            result = _stochastic(key, grid, mode, policy, random, carrier)
        elif policy == "saturate":
            result = _counted(key, _changes(grid, mode)[1:-1], grid.values)
        else:
            changes, results = _with_ends(_changes(grid, mode), grid, mode, policy, carrier)
            result = _counted(key, changes, results)
        is_nan = bits & word(carrier.sign - 1, carrier) > word(carrier.infinity, carrier)
        result = jnp.where(is_nan, word(carrier.nan, carrier), result)
        return lax.bitcast_convert_type(result, x.dtype)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``."""
        carrier = carrier_of(self)
        key = _key(lax.bitcast_convert_type(x, carrier.word), carrier)
        values = _key(jnp.asarray(self.values), carrier)
        minus_zero = -1
        return (key >= jnp.minimum(values[0], minus_zero)) & (key <= values[-1])


# --- the kernel -----------------------------------------------------------------------------


def _key(bits: UInt[Array, "..."], carrier: Carrier) -> Int[Array, "..."]:
    """Patterns as integers in the order of the numbers: minus zero is -1, zero is 0."""
    signed = lax.bitcast_convert_type(bits, f"int{carrier.bits}")
    return signed ^ (signed >> (carrier.bits - 1) & (carrier.sign - 1))


def _pattern(key: Int[Array, "..."], carrier: Carrier) -> UInt[Array, "..."]:
    """The inverse of ``_key``."""
    signed = key ^ (key >> (carrier.bits - 1) & (carrier.sign - 1))
    return lax.bitcast_convert_type(signed, carrier.word)


def _changes(grid: TableGrid, mode: Rounding) -> Int[Array, " steps"]:
    """The first key of each step that rounds to the higher neighbour."""
    match mode.mode:
        case "up":
            return grid.above_low
        case "down":
            return grid.from_high
        case "toward_zero":
            return jnp.where(grid.low_is_near, grid.from_high, grid.above_low)
        case "away_from_zero":
            return jnp.where(grid.low_is_near, grid.above_low, grid.from_high)
        case "to_odd":
            return jnp.where(grid.low_is_near == grid.even, grid.above_low, grid.from_high)
        case "ties_to_even":
            return jnp.where(grid.low_is_near == grid.even, grid.above_tie, grid.from_tie)
        case "ties_to_odd":
            return jnp.where(grid.low_is_near == grid.even, grid.from_tie, grid.above_tie)
        case "ties_to_away":
            return jnp.where(grid.low_is_near, grid.from_tie, grid.above_tie)
        case "ties_to_zero":
            return jnp.where(grid.low_is_near, grid.above_tie, grid.from_tie)
    raise AssertionError(mode)


def _counted(key: Array, changes: Int[Array, " steps"], results: UInt[Array, " values"]) -> Array:
    """The result whose place is the number of changes that a key has reached."""
    if len(results) > COMPARED + 4:
        return _at(results, _place(key, changes))
    result = jnp.broadcast_to(results[0], key.shape)
    for place in range(len(changes)):
        result = jnp.where(key >= changes[place], results[place + 1], result)
    return result


def _place(key: Array, changes: Int[Array, " steps"]) -> Int[Array, "..."]:
    """How many changes each key has reached, by the bucket of its top bits, then by halving."""
    shift = changes.dtype.itemsize * 8 - BUCKET_BITS
    half = 1 << (BUCKET_BITS - 1)
    first = jnp.arange(-half, half, dtype=changes.dtype) << shift
    least = jnp.searchsorted(changes, first, side="right")
    most = jnp.searchsorted(changes, first + ((1 << shift) - 1), side="right")
    within = jnp.max(most - least)
    halvings = 32 - lax.clz(within)

    def halved(turn, place):
        further = place + (1 << (halvings - 1 - turn))
        change = _at(changes, jnp.minimum(further, len(changes)) - 1)
        return jnp.where((key >= change) & (further <= len(changes)), further, place)

    return lax.fori_loop(0, halvings, halved, _at(least, (key >> shift) + half))


def _at(table: Array, place: Int[Array, "..."]) -> Array:
    return table.at[place].get(mode="promise_in_bounds")


def _outside(grid: TableGrid, mode: Rounding, policy: str) -> UInt[Array, " number"]:
    return grid.outside[POLICIES.index(policy), list(ROUNDINGS).index(mode.mode)]


def _infinities(carrier: Carrier, dtype) -> tuple[Array, Array]:
    """The first key above -infinity, and that of infinity."""
    return jnp.asarray([-carrier.infinity], dtype), jnp.asarray([carrier.infinity], dtype)


def _with_ends(changes, grid: TableGrid, mode: Rounding, policy: str, carrier: Carrier):
    """Changes and results, those beyond the ends included."""
    below, above = _infinities(carrier, changes.dtype)
    outside = _outside(grid, mode, policy)
    results = jnp.concatenate([outside[:2], grid.values, outside[2:]])
    return jnp.concatenate([below, changes, above]), results


def _stochastic(key, grid: TableGrid, mode: Rounding, policy: str, random, carrier: Carrier):
    """A neighbour, or what becomes of the outer grid points and of infinities."""
    outer, outside = grid.outer, _outside(grid, mode, policy)
    points = jnp.concatenate([outer[:1], grid.values, outer[1:]])
    step = jnp.minimum(_place(key, grid.from_high), len(points) - 2)
    low, high, low_is_near = _at(points, step), _at(points, step + 1), _at(grid.low_is_near, step)
    between = _pattern(jnp.clip(key, _key(low, carrier), _key(high, carrier)), carrier)
    near, far = jnp.where(low_is_near, low, high), jnp.where(low_is_near, high, low)
    moved = moves(between, near, far, random, mode=mode, carrier=carrier)
    results = jnp.concatenate([outside[1:2], grid.values, outside[2:3]])
    result = _at(results, step + (moved == low_is_near).astype(step.dtype))
    below, above = _infinities(carrier, key.dtype)
    result = jnp.where(key < below, outside[0], result)
    return jnp.where(key >= above, outside[3], result)


# --- the table of a format ------------------------------------------------------------------


class _Step(NamedTuple):
    """The way from one value to the next, as the leaves of a table say it."""

    above_low: int
    from_high: int
    from_tie: int
    above_tie: int
    low_is_near: bool
    even: bool


@lru_cache(maxsize=256)
def table_of(fmt: Format, carrier: Carrier) -> TableGrid:
    """The table of a format of at most 16 bits, made from its exact definition.

    Raises:
        ValueError: if the format has more than 16 bits, the carrier cannot hold its values, or
            numbers between two neighbours go elsewhere than to these.

    >>> from qsim import parse
    >>> from qsim.numbers.grid import CARRIERS
    >>> table = table_of(parse("e2m1f"), CARRIERS["float32"])
    >>> table.values.view("float32")[8:].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    if fmt.bits > MAX_BITS:
        raise ValueError(
            f"{fmt} has {fmt.bits} bits, but a table holds at most {MAX_BITS}: take a format whose "
            "rounding needs no table, or fewer bits"
        )
    require_carried(fmt, carrier)
    values = _values(fmt)
    # a number beyond an end, but nearer than any of the carrier
    beyond = power(carrier.quantum - 1)
    bottom, below = _bottom(fmt, values[0], beyond, carrier)
    top, above = _top(fmt, values[-1], beyond, carrier)
    steps = [bottom, *_inner(fmt, values, carrier)]
    patterns = [_word_of(value, carrier) for value in _with_minus_zero(fmt, values)]
    missing = max(LEAST, 1 << (len(patterns) - 1).bit_length()) - len(patterns)
    steps += [_at_once(_keys(values[-1], carrier).at)] * missing + [top]
    patterns += patterns[-1:] * missing
    return TableGrid(
        quantum=np.asarray(fmt.quantum, np.int32),
        largest=np.asarray(pattern(max(fmt.largest, Fraction(0)), carrier), carrier.word),
        values=np.array(patterns, carrier.word),
        outer=np.array([_word_of(value, carrier) for value in (below, above)], carrier.word),
        outside=_outsides(fmt, below, above, carrier),
        **_leaves(steps, carrier),
    )


def _values(fmt: Format) -> list[Fraction]:
    """The finite values in ascending order; an unused code below the lowest value is not one."""
    finite = {Fraction(value) for value in exact.values(fmt) if abs(value) < exact.INF}
    return sorted(value for value in finite if value >= fmt.lowest)


def _with_minus_zero(fmt: Format, values: Sequence[Fraction]) -> list[exact.Value]:
    zero = [exact.MINUS_ZERO] if fmt.has_negative_zero else []
    return [both for value in values for both in ([*zero, value] if value == 0 else [value])]


def _leaves(steps: Sequence[_Step], carrier: Carrier) -> dict[str, np.ndarray]:
    key = f"int{carrier.bits}"
    columns = dict(zip(_Step._fields, zip(*steps, strict=True), strict=True))
    return {
        name: np.array(column, bool if type(column[0]) is bool else key)
        for name, column in columns.items()
    }


def _inner(fmt: Format, values: Sequence[Fraction], carrier: Carrier) -> list[_Step]:
    """The steps between the values."""
    steps, below = [], _keys(values[0], carrier)
    for low, high in pairwise(values):
        gap, above = exact.gap_at(fmt, (low + high) / 2), _keys(high, carrier)
        if gap[:2] not in ((low, high), (high, low)):
            raise ValueError(f"{fmt} has no gap from {low} to {high}, which a table would need")
        steps.append(_step(below, above, gap, low, carrier))
        steps += [_at_once(0)] if fmt.has_negative_zero and high == 0 else []
        below = above
    return steps


def _step(below: "_Keys", above: "_Keys", gap: exact.Gap, low: Fraction, carrier: Carrier) -> _Step:
    tie = _keys(gap.tie, carrier)
    # a tie point may be a neighbour itself, which stays where it is
    from_tie, above_tie = max(tie.at, below.above), min(tie.above, above.at)
    return _Step(below.above, above.at, from_tie, above_tie, gap.near == low, gap.even)


def _at_once(key: int) -> _Step:
    """A step without numbers between its ends: whatever the mode, it is made at one key."""
    return _Step(key, key, key, key, True, True)


def _bottom(fmt: Format, lowest: Fraction, beyond: Fraction, carrier: Carrier):
    """The step to the lowest value, and the grid point that it comes from."""
    gap = exact.gap_at(fmt, lowest - beyond)
    if gap.far < lowest:
        ends = _keys(gap.far, carrier), _keys(lowest, carrier)
        return _step(*ends, gap, gap.far, carrier), gap.far
    if lowest > 0 and exact.gap_at(fmt, -beyond).near < 0:  # what is below zero is beyond the end
        return _at_once(_keys(Fraction(0), carrier).at), exact.MINUS_ZERO
    return _at_once(-carrier.infinity), lowest


def _top(fmt: Format, largest: Fraction, beyond: Fraction, carrier: Carrier):
    """The step from the largest value, and the grid point that it leads to."""
    gap = exact.gap_at(fmt, largest + beyond)
    if gap.far > largest:
        ends = _keys(largest, carrier), _keys(gap.far, carrier)
        return _step(*ends, gap, largest, carrier), gap.far
    return _at_once(carrier.infinity), largest


def _outsides(fmt: Format, below, above, carrier: Carrier) -> np.ndarray:
    """What becomes of infinities and of the outer grid points, of shape [policy, mode, 4]."""
    # in a format without zero every number below zero is beyond the end
    first_below = -fmt.smallest if isinstance(below, float) else below
    numbers = (-exact.INF, first_below, above, exact.INF)

    def result(number, mode: str, policy: str) -> int:
        return _word_of(exact.round_exact(number, fmt, rounding=mode, overflow=policy), carrier)

    rows = [
        [[result(number, mode, policy) for number in numbers] for mode in ROUNDINGS]
        for policy in POLICIES
    ]
    return np.array(rows, carrier.word)


# --- numbers as patterns and keys -------------------------------------------------------------


def _word_of(value: exact.Value, carrier: Carrier) -> int:
    """The pattern of a value, or of the power of two that infinity's exponent field would mean."""
    if isinstance(value, float):
        sign = carrier.sign if np.signbit(value) else 0
        return carrier.nan if value != value else sign | (carrier.infinity if value else 0)
    magnitude = abs(value)
    infinite = magnitude == power(carrier.bias + 1)
    word = carrier.infinity if infinite else pattern(magnitude, carrier)
    return word | (carrier.sign if value < 0 else 0)


def _count(magnitude: Fraction, carrier: Carrier) -> tuple[int, bool]:
    """How many numbers above zero are not above a magnitude, and whether it is one of them."""
    if magnitude == 0:
        return 0, True
    exponent = exponent_of(magnitude)
    if exponent > carrier.bias:
        return carrier.infinity - 1, False
    binade = max(exponent, 1 - carrier.bias)
    units = magnitude / power(binade - carrier.mantissa_bits)
    count = (binade + carrier.bias - 1 << carrier.mantissa_bits) + units.__floor__()
    return count, units.denominator == 1


class _Keys(NamedTuple):
    """The keys of the least numbers not below a value, and above it; zeros are two numbers."""

    at: int
    above: int


def _keys(value: Fraction, carrier: Carrier) -> _Keys:
    count, held = _count(abs(value), carrier)
    at = ~count if value <= 0 else count + (not held)
    return _Keys(at, count + 1 if value >= 0 else ~(count - held))
