"""Formats side by side in a terminal: facts, values per binade and quantization noise."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from rich.table import Table
from rich.text import Text

from qsim.analysis.noise import DISTRIBUTIONS, Noise, sqnr
from qsim.analysis.values import (
    binades,
    count_per_binade,
    dynamic_range,
    element,
    precision_at,
)
from qsim.numbers.formats import Format
from qsim.report.terminal import number

__all__ = ["binade_table", "fact_table", "noise", "noise_table"]

NONE = "-"

Noises = Mapping[str, Mapping[str, Noise | None]]


def fact_table(formats: Mapping[str, Format]) -> Table:
    """Bits, range, precision and special values of formats, a row for each.

    Of block formats it is those of the elements, but the bits count the scales too.
    """
    table = Table(title="formats", header_style="bold")
    table.add_column("format", no_wrap=True)
    headings = ("bits", "lowest", "largest", "smallest > 0", "binades", "precision at 1")
    for heading in (*headings, "zero", "infinities", "NaN codes"):
        table.add_column(heading, justify="right")
    for name, whole in formats.items():
        fmt = element(whole)
        edges = (number(fmt.lowest), number(fmt.largest), number(fmt.smallest))
        at_one = precision_at(fmt, Fraction(1))
        precision = NONE if at_one is None else f"{at_one:.4g}"
        zero = ("+0, -0" if fmt.has_negative_zero else "yes") if fmt.has_zero else "no"
        specials = (zero, "yes" if fmt.infinities else "no", str(fmt.nan_count))
        shape = (f"{dynamic_range(fmt):.1f}", precision)
        bits = number(Fraction(getattr(whole, "bits_per_value", whole.bits)))
        table.add_row(Text(name), bits, *edges, *shape, *specials)
    return table


def binade_table(formats: Mapping[str, Format]) -> Table:
    """How many positive values each binade has.

    Binades share a row where each format's count stays the same or doubles from each to the next,
    and where no format has more than one value in a binade.
    """
    table = Table(title="positive values per binade", header_style="bold")
    table.add_column("binades", no_wrap=True)
    for name in formats:
        table.add_column(Text(name), justify="right")
    for exponents, counts in _runs([element(fmt) for fmt in formats.values()]):
        ends = dict.fromkeys(f"2^{e}" for e in (exponents[-1], exponents[0]))
        table.add_row(" .. ".join(ends), *map(_span, zip(*counts, strict=True)))
    return table


def _span(counts: Sequence[int]) -> str:
    """``1 .. 8``, or a single number where all are the same."""
    low, high = min(counts), max(counts)
    return f"{low} .. {high}" if low < high else str(low or NONE)


def _runs(formats: Sequence[Format]) -> Iterator[tuple[list[int], list[tuple[int, ...]]]]:
    """Neighbouring binades and their counts, from the largest down."""
    found = [count_per_binade(fmt) for fmt in formats]
    low = min(binades(fmt)[0] for fmt in formats)
    high = max(binades(fmt)[-1] for fmt in formats)
    exponents, counts, trend = [], [], None
    for exponent in range(high, low - 1, -1):
        here = tuple(per_binade.get(exponent, 0) for per_binade in found)
        step = _trend(counts[-1], here) if counts else None
        if counts and (step is None or trend not in (None, step)):
            yield exponents, counts
            exponents, counts, step = [], [], None
        trend = step
        exponents, counts = [*exponents, exponent], [*counts, here]
    yield exponents, counts


def _trend(above: tuple[int, ...], here: tuple[int, ...]) -> tuple[bool, ...] | None:
    """What binades in one row have in common; None if these two have nothing.

    Whether each format's count is half of that above, and not the same; or that all are sparse.
    """
    if max(*above, *here) <= 1:
        return ()
    halves = tuple(0 < 2 * low == high for low, high in zip(here, above, strict=True))
    like = (half or low == high for half, low, high in zip(halves, here, above, strict=True))
    return halves if all(like) else None


def noise(formats: Mapping[str, Format]) -> dict[str, dict[str, Noise | None]]:
    """The noise of each format on each distribution; None for formats too wide for that."""
    return {name: {key: _noise(fmt, key) for key in DISTRIBUTIONS} for name, fmt in formats.items()}


def _noise(fmt: Format, distribution: str) -> Noise | None:
    try:
        return sqnr(element(fmt), distribution)
    except ValueError:  # more values than can be listed, or a range too wide to integrate over
        return None


def noise_table(found: Noises) -> Table:
    """The signal-to-noise ratio of each format on each distribution; the best is bold."""
    table = Table(title="signal-to-noise ratio at the best scale, dB", header_style="bold")
    table.caption = "one scale for all numbers: of block formats it is the elements'"
    table.add_column("distribution")
    for name in found:
        table.add_column(Text(name), justify="right")
    for key, distribution in DISTRIBUTIONS.items():
        row = [found[name][key] for name in found]
        best = max((noise.decibels for noise in row if noise), default=None)
        table.add_row(distribution.title, *(_cell(noise, best) for noise in row))
    return table


def _cell(noise: Noise | None, best: float | None) -> Text:
    if noise is None:
        return Text(NONE)
    return Text(f"{noise.decibels:.2f}", style="bold" if noise.decibels == best else "")
