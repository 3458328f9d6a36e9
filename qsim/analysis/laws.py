"""The laws that every number format obeys, put to the test on one format.

What is computed on arrays (``quantize``, ``encode``, ``decode``) is compared with the exact
definitions, and both with what rounding means: a result is one of the two neighbours, nearest is
nearest, order is kept. A law that a format breaks is reported with its first counterexample.

The numbers tried are all values, all ties, two numbers of the carrier on either side of each (one
in formats of many values), the extremes of the carrier, and random ones, of both signs. Of formats
of more than 16 bits random values and those about powers of two stand for all.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from qsim.analysis.values import (
    LISTED_BITS,
    element,
    finite_values,
    is_finite,
    kind,
    listed_values,
    ties,
)
from qsim.numbers import codes, exact
from qsim.numbers.exact import Value
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, lower
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS, Rounding, suggest
from qsim.numbers.records import exponent_of
from qsim.numbers.rounding import quantize

__all__ = ["LAWS", "Evidence", "Verdict", "check", "landmark"]

MODES = tuple(mode for mode in ROUNDINGS if not Rounding.parse(mode).random_bits)
STOCHASTIC = tuple(mode for mode in ROUNDINGS if mode not in MODES)
NEAREST = tuple(mode for mode in MODES if mode.startswith("ties"))
ODD_MODES = ("ties_to_away", "ties_to_zero", "toward_zero", "away_from_zero")  # whatever the codes
OUTWARD_AND_INWARD = tuple(mode for mode in MODES if mode not in NEAREST[1:])
PARITY_MODES = ("ties_to_even", "ties_to_odd", "to_odd")

PIECE = 1 << 12  # arrays travel in pieces of one length, so that all formats share executables
RANDOM = 1 << 8
MANY = 1 << 15  # of more numbers each is compared with its exact result in an eighth of the modes


class Verdict(NamedTuple):
    """What became of a law; ``detail`` is the counterexample, or why the law does not apply."""

    law: str
    state: Literal["held", "broken", "does not apply"]
    detail: str = ""


class DoesNotApply(Exception):
    """Raised by a law that says nothing about a format; the message says why."""


def check(
    fmt: Format, landmarks: Mapping[str, object] | None = None, *, share: int | None = None
) -> Iterator[Verdict]:
    """The verdict of each of ``LAWS`` on a format, one after the other.

    Args:
        fmt: the format; of a block format it is the elements that are checked.
        landmarks: numbers of its source, as in a catalogue entry.
        share: one in how many numbers is compared with its exact result in each mode, in turns;
            by default all of up to 2**15 numbers, and one in eight of more.

    Raises:
        ValueError: if no carrier holds the format, or a landmark is not one of the schema.

    >>> from qsim import parse
    >>> next(check(parse("e2m1f")))
    Verdict(law='decode gives each code its exact value', state='held', detail='')
    """
    carrier = _carrier(element(fmt))
    evidence = Evidence(element(fmt), fmt, carrier, dict(landmarks or {}), share)
    for words, law in LAWS.items():
        with _available(carrier):
            verdict = _verdict(words, law, evidence)
        yield verdict


def _carrier(fmt: Format) -> str:
    try:
        lower(fmt)
        return "float32"
    except ValueError:
        with _available("float64"):
            lower(fmt, "float64")
        return "float64"


def _available(carrier: str):
    return jax.enable_x64(True) if carrier == "float64" else nullcontext()


def _verdict(words: str, law: "Law", evidence: "Evidence") -> Verdict:
    try:
        for counterexample in law(evidence):
            return Verdict(words, "broken", counterexample)
    except DoesNotApply as reason:
        return Verdict(words, "does not apply", str(reason))
    return Verdict(words, "held")


# --- what the laws look at ------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """The values of a format, numbers to round, and what they are rounded to.

    Attributes:
        fmt: the format of single numbers.
        whole: the format whose landmarks are given; another one where it has blocks.
        carrier: the name of the type in which its values travel.
        landmarks: numbers of its source.
        share: as for ``check``.
    """

    fmt: Format
    whole: Format
    carrier: str
    landmarks: dict[str, object]
    share: int | None

    @cached_property
    def listed(self) -> bool:
        """Whether the codes are all codes."""
        return self.fmt.bits <= LISTED_BITS

    @cached_property
    def codes(self) -> list[int]:
        """All codes in ascending order, or those that stand for them."""
        bits = self.fmt.bits
        if self.listed:
            return list(range(2**bits))
        random = np.random.default_rng(1).integers(0, 2**64, RANDOM, np.uint64)
        edges = [(1 << k) + step for k in range(bits) for step in (-2, -1, 0, 1)]
        edges += [2**bits - 1 - edge for edge in edges]
        return sorted({c % 2**bits for c in [*edges, *random.tolist()]})

    @cached_property
    def values(self) -> list[Value]:
        """The exact value of each of the codes."""
        if self.listed:
            return list(listed_values(self.fmt))
        return [exact.decode(self.fmt, code) for code in self.codes]

    @cached_property
    def finite(self) -> tuple[Fraction, ...]:
        """The finite values in ascending order, each once."""
        if self.listed:
            return finite_values(self.fmt)
        return tuple(sorted({Fraction(v) for v in self.values if is_finite(v)}))

    @cached_property
    def numbers(self) -> np.ndarray:
        """Finite numbers to round, in ascending order; minus zero is left out."""
        carrier = CARRIERS[self.carrier]
        gaps = ties(self.fmt) if self.listed else self._some_ties
        places = self.patterns([abs(x) for x in (*self.finite, *gaps)]).astype(np.int64)
        around = 2 if len(places) < MANY else 1
        near = (places[:, None] + np.arange(-around, around + 1)).reshape(-1)
        rng = np.random.default_rng(2)
        anywhere = rng.integers(0, carrier.infinity, RANDOM)
        inside = self.patterns((rng.random(RANDOM) * float(self.fmt.largest)).tolist())
        normal = 1 << carrier.mantissa_bits
        ends = np.array([0, 1, normal - 1, normal, carrier.infinity - 1])
        found = np.unique(np.concatenate([near, anywhere, inside.astype(np.int64), ends]))
        found = found[(found >= 0) & (found < carrier.infinity)].astype(carrier.word)
        magnitudes = found.view(self.carrier)
        return np.concatenate([-magnitudes[:0:-1], magnitudes])

    @property
    def _some_ties(self) -> list[Fraction]:
        """The tie just above each of the finite values."""
        some = [exact.gap_at(self.fmt, v * (1 + Fraction(1, 2**80))) for v in self.finite if v]
        return [gap.tie for gap in some]

    def patterns(self, numbers) -> np.ndarray:
        """The bit patterns of positive numbers; what the carrier does not hold is rounded."""
        edge = Fraction(float(np.finfo(self.carrier).max))
        found = [float(min(x, edge)) for x in numbers]
        return np.array(found, self.carrier).view(CARRIERS[self.carrier].word)

    @cached_property
    def inside(self) -> np.ndarray:
        """Those of the numbers between the lowest and the largest value."""
        x = self.numbers
        return x[(x >= float(self.fmt.lowest)) & (x <= float(self.fmt.largest))]

    def shared(self, numbers: np.ndarray, mode: str) -> np.ndarray:
        """Those of the numbers whose turn it is in a mode."""
        share = self.share or (8 if len(self.numbers) > MANY else 1)
        return numbers[list(ROUNDINGS).index(mode) % share :: share]

    def rounded(self, numbers: np.ndarray, mode: str, overflow: str = "saturate") -> np.ndarray:
        """The numbers as the kernel rounds them."""
        key = jax.random.key(0) if mode in STOCHASTIC else None
        how = {"rounding": mode, "overflow": overflow, "key": key}
        return self._in_pieces(lambda x: quantize(x, self.fmt, **how), numbers)

    def decoded(self) -> np.ndarray:
        """The values of the codes, as ``decode`` gives them."""
        words = np.array(self.codes, CARRIERS[self.carrier].word)
        return self._in_pieces(lambda c: codes.decode(c, self.fmt, dtype=self.carrier), words)

    def encoded(self, numbers: np.ndarray) -> np.ndarray:
        """The codes of the numbers, as ``encode`` gives them."""
        return self._in_pieces(
            lambda x: codes.encode(x, self.fmt, overflow="saturate_propagate", nan=0), numbers
        )

    def _in_pieces(self, function: Callable, array: np.ndarray) -> np.ndarray:
        pieces = []
        for start in range(0, len(array), PIECE):
            piece = np.zeros(PIECE, array.dtype)
            part = array[start : start + PIECE]
            piece[: len(part)] = part
            pieces.append(np.asarray(function(piece))[: len(part)])
        return np.concatenate(pieces) if pieces else np.zeros(0, array.dtype)


Law = Callable[[Evidence], Iterator[str]]


def _shown(x) -> str:
    """A number exactly: a fraction, or a hexadecimal float beside the decimal one."""
    if isinstance(x, Fraction):
        short = len(str(x)) <= 24
        return str(x) if short else f"about {float(x):.8g}"
    return f"{float(x)!r} ({float(x).hex()})" if math.isfinite(x) and x else repr(float(x))


def _differences(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where the bytes of two arrays of numbers differ, all NaNs being one."""
    word = f"u{actual.dtype.itemsize}"
    same = actual.view(word) == expected.astype(actual.dtype).view(word)
    return np.flatnonzero(~(same | (np.isnan(actual) & np.isnan(expected))))


# --- laws of codes --------------------------------------------------------------------------


def _decode_is_exact(e: Evidence) -> Iterator[str]:
    decoded, expected = e.decoded(), np.array([float(v) for v in e.values], e.carrier)
    for at in _differences(decoded, expected):
        if not _is_carried(e.values[at], expected[at].item()):
            continue
        yield f"code {e.codes[at]:#x} is {_shown(e.values[at])}, decode gives {decoded[at]!r}"


def _codes_return(e: Evidence) -> Iterator[str]:
    expected = np.array([float(v) for v in e.values], e.carrier)
    encoded = e.encoded(expected)
    rows = zip(e.codes, e.values, expected.tolist(), encoded.tolist(), strict=True)
    for code, value, number, found in rows:
        if not _is_used(e.fmt, value) or not _is_carried(value, number):
            continue
        try:
            own = exact.encode(e.fmt, value)
        except ValueError:
            yield f"{_shown(value)}, of code {code:#x}, has no code exactly"
            continue
        # zero may have codes that are read as zero
        if own != code and value != 0 and e.fmt.codes_are_unique:
            yield f"{_shown(value)} has the code {code:#x}, and exactly {own:#x}"
        if found != own:
            yield f"{_shown(value)} has the code {own:#x}, encode gives {found:#x}"


def _is_used(fmt: Format, value: Value) -> bool:
    """Whether a value is a number of the format's range or an infinity."""
    return kind(fmt, value) not in ("NaN", "unused")


def _is_carried(value: Value, number: float) -> bool:
    return isinstance(value, float) or Fraction(number) == value


def _codes_in_order(e: Evidence) -> Iterator[str]:
    if not e.fmt.codes_in_order:
        raise DoesNotApply("its definition orders them otherwise")
    pairs = [
        (code, v)
        for code, v in zip(e.codes, e.values, strict=True)
        if v != 0 and _is_used(e.fmt, v)
    ]
    for side in ([p for p in pairs if p[1] > 0], [p for p in pairs if p[1] < 0]):
        falling = len(side) > 1 and side[0][1] > side[-1][1]
        for (code, value), (following, after) in pairwise(side):
            if value == after or (value > after) != falling:
                yield (
                    f"code {code:#x} is {_shown(value)}, and the next of that sign, "
                    f"{following:#x}, is {_shown(after)}"
                )


def _facts(e: Evidence) -> Iterator[str]:
    _require_listed(e)
    fmt, values = e.fmt, e.values
    finite, kinds = e.finite, [kind(fmt, v) for v in values]
    found = {
        "largest": (fmt.largest, max(finite)),
        "lowest": (fmt.lowest, min(finite)),
        "smallest": (fmt.smallest, min(v for v in finite if v > 0)),
        "nan_count": (fmt.nan_count, kinds.count("NaN")),
        "infinities": (bool(fmt.infinities), "infinity" in kinds),
        "has_zero": (fmt.has_zero, 0 in finite),
        "has_negative_zero": (fmt.has_negative_zero, "-0.0" in map(repr, values)),
    }
    for name, (said, listed) in found.items():
        if said != listed:
            yield f"{name} is {said}, and by the codes {listed}"
    for value in finite:
        if (value / Fraction(2) ** fmt.quantum).denominator != 1:
            yield f"{_shown(value)} is no multiple of 2^{fmt.quantum}, the quantum"


def _landmarks_are_met(e: Evidence) -> Iterator[str]:
    if not e.landmarks:
        raise DoesNotApply("no landmarks are given")
    for key, said in e.landmarks.items():
        if key == "values":
            yield from _listed_landmarks(e, said)
        elif key not in LANDMARKS:
            raise ValueError(f"no landmark {key!r}; {suggest(key, [*LANDMARKS, 'values'])}")
        elif (found := _found_landmark(e.whole, key)) != landmark(said):
            shown = "nothing of the kind" if found is None else found
            yield f"{key} is said to be {said}, and the definition gives {shown}"


def _found_landmark(fmt: Format, key: str) -> object:
    try:
        return LANDMARKS[key](fmt)
    except AttributeError:  # not every family has every landmark
        return None


def _listed_landmarks(e: Evidence, said) -> Iterator[str]:
    if not isinstance(said, list):
        raise ValueError(f"the landmark 'values' lists every value by code, got {said!r}")
    expected = [landmark(text) for text in said]
    if len(expected) != len(e.values):
        yield f"{len(expected)} values are said, and there are {len(e.values)} codes"
    for code, (value, wanted) in enumerate(zip(e.values, expected, strict=False)):
        if repr(value) != repr(wanted):
            yield f"code {code:#x} is said to be {said[code]}, and is {_shown(value)}"


LANDMARKS: dict[str, Callable[[Any], object]] = {
    "max": lambda fmt: fmt.largest,
    "lowest": lambda fmt: fmt.lowest,
    "min_normal": lambda fmt: fmt.smallest_normal,
    "min_subnormal": lambda fmt: fmt.smallest,
    "nans": lambda fmt: fmt.nan_count,
    # of block formats
    "bits_per_value": lambda fmt: fmt.bits_per_value,
    "max_element": lambda fmt: fmt.element.largest,
    "emax_element": lambda fmt: exponent_of(fmt.element.largest),
    "max_scale": lambda fmt: element(fmt.scale).largest,
    "min_scale": lambda fmt: element(fmt.scale).smallest,
}


def landmark(text: object) -> Value:
    """The exact number of a landmark: a product of decimals, fractions and powers.

    Raises:
        ValueError: for anything else.

    >>> landmark("255/128 * 2^127") == Fraction(255, 128) * 2**127, landmark("-0")
    (True, -0.0)
    """
    if str(text).strip() in ("-0", "inf", "-inf", "nan"):
        return float(str(text))
    product = Fraction(1)
    try:
        for factor in str(text).split("*"):
            base, _, power = factor.strip().partition("^")
            if abs(int(power or 1)) > 2**16:
                raise ValueError(power)
            product *= Fraction(base) ** int(power or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"landmark {text!r} is no number; write '448', '2^-9' or '255/128 * 2^127'"
        ) from None
    return product


# --- laws of rounding -----------------------------------------------------------------------


def _values_stay(e: Evidence) -> Iterator[str]:
    own = [v for v in e.values if _is_used(e.fmt, v)]
    numbers = np.array([float(v) for v in own], e.carrier)
    for mode in MODES:
        rounded = e.rounded(numbers, mode, "saturate_propagate")
        for at in _differences(rounded, numbers):
            yield f"{_shown(own[at])} is a value, and rounds {mode} to {_shown(rounded[at])}"


def _order_is_kept(e: Evidence) -> Iterator[str]:
    for mode in MODES:
        rounded = e.rounded(e.numbers, mode)
        for at in np.flatnonzero(rounded[1:] < rounded[:-1]):
            low, high = (_shown(x) for x in e.numbers[at : at + 2])
            ends = " and ".join(_shown(x) for x in rounded[at : at + 2])
            yield f"{low} < {high}, but {mode} they become {ends}"


def _nearest_is_nearest(e: Evidence) -> Iterator[str]:
    _require_listed(e)
    if any(tie != (a + b) / 2 for tie, (a, b) in zip(ties(e.fmt), pairwise(e.finite), strict=True)):
        raise DoesNotApply("its ties are not in the middle between neighbours")
    for mode in NEAREST:
        for x, found in _pairs(e, mode, e.shared(e.inside, mode)):
            below, above = _neighbours(e.finite, x)
            if abs(found - x) > min(x - below, above - x):
                yield f"{_shown(x)} becomes {_shown(found)} {mode}, and a nearer value exists"


def _directed_modes_bracket(e: Evidence) -> Iterator[str]:
    _require_no_flush(e)
    numbers = e.shared(e.inside, "down")
    modes = ("down", "up", "toward_zero", "away_from_zero")
    for (x, down), (_, up), (_, inward), (_, outward) in zip(
        *(_pairs(e, mode, numbers) for mode in modes), strict=True
    ):
        if not down <= x <= up:
            yield f"{_shown(x)} is not between {_shown(down)}, down, and {_shown(up)}, up"
        if abs(inward) > abs(x) and e.fmt.has_zero:
            yield f"{_shown(x)} becomes {_shown(inward)} toward zero, which is further out"
        if abs(outward) < abs(x):
            yield f"{_shown(x)} becomes {_shown(outward)} away from zero, which is nearer to it"


def _neighbours_enclose(e: Evidence) -> Iterator[str]:
    _require_listed(e)
    _require_no_flush(e)
    numbers = e.shared(e.inside, "up")
    pairs = zip(_pairs(e, "down", numbers), _pairs(e, "up", numbers), strict=True)
    for (x, down), (_, up) in pairs:
        below, above = _neighbours(e.finite, x)
        if (down, up) != (below, above):
            yield (
                f"{_shown(x)} lies between {_shown(below)} and {_shown(above)}, but becomes "
                f"{_shown(down)} down and {_shown(up)} up"
            )


def _chance_chooses_a_neighbour(e: Evidence) -> Iterator[str]:
    _require_listed(e)
    _require_no_flush(e)
    for mode in STOCHASTIC:
        for x, found in _pairs(e, mode, e.shared(e.inside, mode)):
            if found not in (neighbours := _neighbours(e.finite, x)):
                ends = " and ".join(map(_shown, neighbours))
                yield f"{_shown(x)} lies between {ends}, but becomes {_shown(found)} {mode}"


def _signs_are_alike(e: Evidence) -> Iterator[str]:
    mirrored_values = tuple(-v for v in reversed(e.finite))
    if e.fmt.lowest != -e.fmt.largest or (e.listed and mirrored_values != e.finite):
        raise DoesNotApply("it does not have the negative of each of its values")
    modes = (*ODD_MODES, *(PARITY_MODES if _parities_are_alike(e) else ()))
    # without a zero, the negative one of its two neighbours counts as the one nearer to it
    least = 0.0 if e.fmt.has_zero else float(e.fmt.smallest)
    numbers = e.numbers[(e.numbers != 0) & (np.abs(e.numbers) >= least)]
    for mode, mirrored in [(mode, mode) for mode in modes] + [("up", "down")]:
        rounded, back = e.rounded(numbers, mode), e.rounded(-numbers, mirrored)
        for at in np.flatnonzero(rounded != -back):
            yield (
                f"{_shown(numbers[at])} becomes {_shown(rounded[at])} {mode}, its negative "
                f"{_shown(back[at])} {mirrored}"
            )


def _parities_are_alike(e: Evidence) -> bool:
    positive = [v for v in e.finite if v > 0]
    return all(
        exact.encode(e.fmt, v) % 2 == exact.encode(e.fmt, -v) % 2
        for v in (positive if e.listed else positive[:RANDOM])
    )


def _nan_stays(e: Evidence) -> Iterator[str]:
    carrier = CARRIERS[e.carrier]
    nans = [carrier.nan, carrier.infinity + 1, carrier.nan | carrier.sign, carrier.sign * 2 - 1]
    numbers = np.array(nans, carrier.word).view(e.carrier)
    for mode in MODES:
        for pattern, found in zip(nans, e.rounded(numbers, mode), strict=True):
            if not math.isnan(found):
                yield f"NaN {pattern:#x} becomes {_shown(found)} {mode}"


def _equals_exact(mode: str) -> Law:
    def law(e: Evidence) -> Iterator[str]:
        yield from _unlike_exact(e, e.shared(e.numbers, mode), mode, "saturate")

    return law


def _overflow_equals_exact(e: Evidence) -> Iterator[str]:
    x = e.numbers
    outside = x[(x < float(e.fmt.lowest)) | (x > float(e.fmt.largest))]
    some = outside[:: max(1, len(outside) // 24)]
    edges = e.patterns([float(abs(end)) for end in (e.fmt.largest, e.fmt.lowest)])
    near = (edges[:, None].astype(np.int64) + np.arange(-1, 3)).reshape(-1).clip(0)
    near = near.astype(edges.dtype).view(e.carrier)
    specials = np.array([0.0, -0.0, np.inf, -np.inf], e.carrier)
    numbers = np.concatenate([some, near, -near, specials])
    for overflow in (policy for policy in OVERFLOWS if policy != "wrap" or e.fmt.wraps):
        # how ties go makes no difference to overflow, and no mode to the first two policies
        for mode in MODES[:1] if overflow.startswith("saturate") else OUTWARD_AND_INWARD:
            yield from _unlike_exact(e, numbers, mode, overflow)


def _unlike_exact(e: Evidence, numbers: np.ndarray, mode: str, overflow: str) -> Iterator[str]:
    """What the kernel makes of numbers where the exact definition says otherwise."""
    rounded = e.rounded(numbers, mode, overflow)
    expected = np.array(
        [
            float(exact.round_exact(_exactly(x), e.fmt, rounding=mode, overflow=overflow))
            for x in numbers.tolist()
        ],
        e.carrier,
    )
    for at in _differences(rounded, expected):
        yield (
            f"{_shown(numbers[at])} rounds to {_shown(expected[at])}, the kernel gives "
            f"{_shown(rounded[at])} ({mode}, {overflow})"
        )


def _exactly(x: float) -> Value:
    return Fraction(x) if math.isfinite(x) and x else x


def _pairs(e: Evidence, mode: str, numbers: np.ndarray) -> Iterator[tuple[Fraction, Fraction]]:
    """Numbers within the format's range and what they round to, exactly."""
    rounded = e.rounded(numbers, mode)
    return zip(map(Fraction, numbers.tolist()), map(Fraction, rounded.tolist()), strict=True)


def _neighbours(ordered: tuple[Fraction, ...], x: Fraction) -> tuple[Fraction, Fraction]:
    """The values on either side of a number within the range; itself twice, if it is a value."""
    at = bisect_left(ordered, x)
    return (x, x) if ordered[at] == x else (ordered[at - 1], ordered[at])


def _require_listed(e: Evidence) -> None:
    if not e.listed:
        raise DoesNotApply(f"of {e.fmt.bits} bits, too many values to list")


def _require_no_flush(e: Evidence) -> None:
    if getattr(e.fmt, "subnormals", None) in ("flush_after", "flush_before", "read_as_zero"):
        raise DoesNotApply("what lies below its normal values is flushed to zero")


LAWS: dict[str, Law] = {
    "decode gives each code its exact value": _decode_is_exact,
    "encode gives each value its code back": _codes_return,
    "codes of one sign are in the order of their values": _codes_in_order,
    "largest, lowest, smallest and specials are those of the codes": _facts,
    "landmarks are met": _landmarks_are_met,
    "each value rounds to itself": _values_stay,
    "rounding keeps order": _order_is_kept,
    "nearest is nearest": _nearest_is_nearest,
    "down and up enclose the number, toward and away from zero too": _directed_modes_bracket,
    "down and up are neighbours": _neighbours_enclose,
    "stochastic rounding chooses one of the two neighbours": _chance_chooses_a_neighbour,
    "a number and its negative round alike": _signs_are_alike,
    "NaN stays NaN": _nan_stays,
    **{f"{mode} equals its exact definition": _equals_exact(mode) for mode in MODES},
    "overflow equals its exact definition": _overflow_equals_exact,
}
