"""Pictures of results. Matplotlib is an extra, imported where it is used."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsim.studies.result import Result, on_the_map

__all__ = ["available", "heat_map"]

TITLES = {
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "kl": "KL divergence from float32, nats",
    "cosine_distance": "cosine distance from float32",
}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def heat_map(
    path: Path, rows: Sequence[Result], measure: str, title: str, *, distance: str = "kl"
) -> None:
    """The exponent x mantissa map of the float formats as a PNG, all others in a strip below.

    The number is ``measure``, the colour is the logarithm of ``distance``, which is a distance from
    the answers of float32.

    Raises:
        ImportError: without matplotlib; see ``available``.
        OSError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    floats, others = on_the_map(rows)
    exponents = sorted({row.facts["exponent_bits"] for row in floats})
    mantissas = sorted({row.facts["mantissa_bits"] for row in floats})
    heights = [len(exponents) or 0.01, 1 if others else 0.01]
    width = max(len(mantissas), len(others), 4)
    figure = Figure(figsize=(1.6 + 0.85 * width, 2.2 + 0.55 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, height_ratios=heights)
    figure.suptitle(title, fontsize=11).set_parse_math(False)
    norm = _norm([row.measures[distance] for row in rows])
    image = None
    if floats:
        cells = {(row.facts["exponent_bits"], row.facts["mantissa_bits"]): row for row in floats}
        grid = [[cells.get((e, m)) for m in mantissas] for e in exponents]
        image = _draw(axes[0], grid, measure, distance, norm)
        axes[0].set_xticks(range(len(mantissas)), mantissas)
        axes[0].set_yticks(range(len(exponents)), exponents)
        axes[0].set_xlabel("mantissa bits")
        axes[0].set_ylabel("exponent bits")
    if others:
        image = _draw(axes[1], [others], measure, distance, norm)
        axes[1].set_xticks(range(len(others)), [row.spec for row in others])
        axes[1].set_yticks([])
    for axis, used in zip(axes, (floats, others), strict=True):
        axis.set_visible(bool(used))
    figure.colorbar(image, ax=axes, label=TITLES[distance], shrink=0.8)
    axes[0].set_title(TITLES[measure], fontsize=9)
    figure.savefig(path, dpi=130)


def _norm(distances: Sequence[float]):
    from matplotlib.colors import LogNorm

    positive = [far for far in distances if np.isfinite(far) and far > 0] or [1.0]
    low, high = (min(max(each, 1e-300), 1e300) for each in (min(positive), max(positive)))
    return LogNorm(vmin=low, vmax=high if high > low else 10 * low)


def _draw(axis, grid: Sequence[Sequence[Result | None]], measure: str, distance: str, norm):
    """A grid of cells, each with its number; diverged formats are grey.

    A format as good as float32 has the lowest colour: its distance is zero, or what rounding errors
    of sums make of zero.
    """
    far = [[np.nan if row is None else row.measures[distance] for row in line] for line in grid]
    axis.set_facecolor("0.8")
    shown = np.maximum(np.array(far, float), norm.vmin)
    image = axis.imshow(shown, norm=norm, cmap="viridis_r", aspect="auto")
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            if row is not None:
                dark = np.isfinite(far[y][x]) and far[y][x] > 0 and norm(far[y][x]) > 0.5
                text = f"{row.measures[measure]:.4g}"
                colour = "white" if dark else "black"
                axis.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    return image
