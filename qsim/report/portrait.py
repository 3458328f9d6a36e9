"""Pictures of formats: number lines, precision against magnitude, and what each code is.

Matplotlib is an extra, imported where it is used. Everything is drawn from the exact values, so
that every family of formats can be drawn.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsim.analysis.noise import DISTRIBUTIONS, Noise
from qsim.analysis.values import (
    KINDS,
    LISTED_BITS,
    binades,
    count_per_binade,
    finite_values,
    kind,
    listed_values,
    precision_at,
)
from qsim.numbers.formats import Format, power
from qsim.numbers.records import log2
from qsim.report.terminal import number

__all__ = ["draw", "draw_comparison"]

COLOURS = {
    "zero": "#fde725",
    "subnormal": "#8fd3a8",
    "normal": "#9ec9e8",
    "infinity": "#f4a261",
    "NaN": "#d65a5a",
    "unused": "#cccccc",
}


def draw(path: Path, name: str, fmt: Format) -> None:
    """A format's number line, linear and logarithmic, its precision, and a table of its codes.

    Of formats of more than 16 bits only the precision is drawn.

    Raises:
        ImportError: without matplotlib; see ``picture.available``.
        OSError: if the file cannot be written.
    """
    listed = fmt.bits <= LISTED_BITS
    figure = _figure(14 if listed else 7, 7 if listed else 4)
    title = name if name == str(fmt) or len(str(fmt)) > 60 else f"{name} = {fmt}"
    figure.suptitle(title, fontsize=12).set_parse_math(False)
    if not listed:
        _precision(figure.subplots(), fmt)
    else:
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
        linear, logarithmic, precision = left.subplots(3, 1, height_ratios=(1, 1, 3))
        _number_line(linear, finite_values(fmt), "linear")
        _number_line(logarithmic, _log2_of_positive(fmt), "log2 of the positive values")
        _precision(precision, fmt)
        _code_table(right.subplots(), fmt)
    figure.savefig(path, dpi=130)


def draw_comparison(
    path: Path, formats: Mapping[str, Format], noise: Mapping[str, Mapping[str, Noise | None]]
) -> None:
    """Formats side by side: logarithmic number lines, values per binade, quantization noise.

    Raises:
        ImportError: without matplotlib; see ``picture.available``.
        OSError: if the file cannot be written.
    """
    figure = _figure(13, 3 + 4 + 0.35 * len(formats))
    lines, below = figure.subfigures(2, 1, height_ratios=(1.2 + 0.35 * len(formats), 5))
    _number_lines(lines.subplots(), formats)
    counts, bars = below.subplots(1, 2)
    for name, fmt in formats.items():
        used = {e: count for e, count in count_per_binade(fmt).items() if count}
        counts.step(list(used), list(used.values()), where="post", label=name, marker=".")
    counts.set_yscale("log", base=2)
    counts.set_xlabel("binade: log2 of the magnitude")
    counts.set_ylabel("positive values per binade")
    counts.legend(fontsize=8)
    _noise_bars(bars, noise)
    figure.savefig(path, dpi=130)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# --- number lines and precision -------------------------------------------------------------


def _log2_of_positive(fmt: Format) -> list[float]:
    return [log2(value) for value in finite_values(fmt) if value > 0]


def _number_line(axis, values: Sequence, title: str) -> None:
    """A tick for each value; what double precision cannot hold is drawn relative to the largest."""
    edge = max(abs(value) for value in values)
    if edge > 2**1000:
        values, title = [value / edge for value in values], f"{title}, relative to the largest"
    axis.eventplot([float(value) for value in values], linewidths=0.6, colors="#31688e")
    axis.set_title(title, fontsize=9)
    axis.set_yticks([])


def _number_lines(axis, formats: Mapping[str, Format]) -> None:
    """The logarithmic number lines of formats, one above the other; wide formats are bars."""
    for place, fmt in enumerate(formats.values()):
        colour = f"C{place % 10}"
        if fmt.bits <= LISTED_BITS:
            at = _log2_of_positive(fmt)
            axis.eventplot(at, lineoffsets=-place, linelengths=0.8, linewidths=0.6, colors=colour)
        else:
            low = log2(fmt.smallest)
            axis.barh(-place, log2(fmt.largest) - low, left=low, height=0.8, color=colour)
    axis.set_yticks([-place for place in range(len(formats))], list(formats))
    axis.set_xlabel("log2 of the positive values")


def _precision(axis, fmt: Format) -> None:
    """Bits of precision at the beginning of each binade."""
    exponents = [*binades(fmt)]
    bits = [precision_at(fmt, max(power(e), fmt.smallest)) for e in exponents]
    heights = np.array([*bits, bits[-1]], float)  # None is NaN
    axis.axhline(0, color="0.8", linewidth=0.5)
    axis.step([*exponents, exponents[-1] + 1], heights, where="post", color="#31688e")
    axis.set_xlabel("log2 of the magnitude")
    axis.set_ylabel("bits of precision")


def _noise_bars(axis, noise: Mapping[str, Mapping[str, Noise | None]]) -> None:
    width, places = 0.8 / len(noise), np.arange(len(DISTRIBUTIONS))
    for index, (name, found) in enumerate(noise.items()):
        heights = [np.nan if one is None else one.decibels for one in found.values()]
        axis.bar(places + (index - (len(noise) - 1) / 2) * width, heights, width, label=name)
    titles = [distribution.title.replace(", ", "\n") for distribution in DISTRIBUTIONS.values()]
    axis.set_xticks(places, titles, fontsize=7)
    axis.set_ylabel("signal-to-noise ratio, dB")


# --- the table of codes ---------------------------------------------------------------------


def _code_table(axis, fmt: Format) -> None:
    """A cell for each code, coloured by its kind; up to 8 bits with its value."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    listed = listed_values(fmt)
    columns = 2 ** ((fmt.bits + 1) // 2)
    kinds = [kind(fmt, value) for value in listed]
    cells = np.array([KINDS.index(name) for name in kinds]).reshape(-1, columns)
    shades = ListedColormap([COLOURS[name] for name in KINDS])
    axis.imshow(cells, cmap=shades, vmin=-0.5, vmax=len(KINDS) - 0.5, aspect="auto")
    if fmt.bits <= 8:
        size = {1: 12, 2: 12, 4: 10, 8: 8}.get(columns, 5)
        for code, value in enumerate(listed):
            row, column = divmod(code, columns)
            text = number(value, 4 if fmt.bits > 6 else 6)
            axis.text(column, row, text, ha="center", va="center", fontsize=size)
        axis.set_xticks(range(columns), [f"{code:X}" for code in range(columns)], fontsize=7)
        starts = [f"{row * columns:0{math.ceil(fmt.bits / 4)}X}" for row in range(len(cells))]
        axis.set_yticks(range(len(cells)), starts, fontsize=7)
    axis.set_title("codes: the row's first code plus the column", fontsize=9)
    present = [name for name in KINDS if name in kinds]
    patches = [Patch(color=COLOURS[name], label=name) for name in present]
    axis.legend(handles=patches, ncols=len(patches), loc="upper center", fontsize=8,
                bbox_to_anchor=(0.5, -0.04), frameon=False)  # fmt: skip
