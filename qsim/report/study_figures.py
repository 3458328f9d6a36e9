"""Pictures of a study as files, and its terminal view.

Heat maps are those of sweeps. The others show the mean over seeds with 95 % intervals over examples
and seeds. Matplotlib is an extra, imported where it is used.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from qsim.report import picture, terminal
from qsim.report.study_view import (
    Configuration,
    configurations,
    front,
    intervals,
    measures_of,
    title,
    written,
)
from qsim.studies.result import Result
from qsim.sweeps.scores import SCORES

__all__ = ["draw", "draw_accuracy", "draw_layers", "failures", "progress", "sides", "view"]

MARKS = "os^DvP*X"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A00", "#444444")
MAPS = 6  # in a terminal
FAR = 1e100  # as far as is drawn
SOME = 6  # formats that are named
LABELS = 24  # marks beyond so many have no label


def sides(found: Sequence[Configuration]) -> dict[str, list[Configuration]]:
    """Configurations by all their coordinates but the format: a map for each, by its title.

    Those without measures are on none.
    """
    known = [each for each in found if each.measures]
    axes = [axis for axis in dict.fromkeys(a for each in known for a in each.point)]
    told = [
        axis
        for axis in axes
        if axis != "format" and len({each.point.get(axis) for each in known}) > 1
    ]
    parts: dict[str, list[Configuration]] = {}
    for each in known:
        words = [str(each.point[axis]) for axis in told if axis in each.point]
        parts.setdefault(", ".join(words), []).append(each)
    return parts


def view(manifest: Mapping[str, Any], results: Sequence[Result]) -> list[Table | Text]:
    """A study for a terminal: what became of it, its maps and its Pareto front."""
    found, headline = configurations(results), SCORES[manifest["score"]].headline
    parts: list[Table | Text] = [Text(f"{manifest['name']}: {progress(manifest, results)}")]
    if reference := manifest.get("reference"):
        parts.append(Text(f"float32: {terminal.summary(reference, manifest['score'])}"))
    every = sides(found)
    for name, some in list(every.items())[:MAPS]:
        parts += [Text(name, style="bold")] * bool(name)
        parts += terminal.heat_map([each.mean for each in some], headline)
    if len(every) > MAPS:
        parts.append(Text(f"{len(every) - MAPS} more maps are on the page", style="dim"))
    for measure in dict.fromkeys([headline, SCORES[manifest["score"]].distance]):
        if front(found, measure):
            parts.append(_front_table(found, measure, manifest))
    return parts + [Text(line, style="red") for line in failures(results)]


def failures(results: Sequence[Result]) -> list[str]:
    """What failed and why, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            reasons.setdefault(result.error, []).append(result.spec)
    return [
        f"{len(specs)} failed ({', '.join(list(dict.fromkeys(specs))[:SOME])}): {error}"
        for error, specs in reasons.items()
    ]


def progress(manifest: Mapping[str, Any], results: Sequence[Result]) -> str:
    """How far a study is, in a line."""
    states = [result.state for result in results]
    words = [f"{len(results)} of {manifest.get('total', len(results))} evaluations"]
    words += [
        f"{states.count(state)} {state}" for state in ("diverged", "failed") if state in states
    ]
    return ", ".join(words)


def _front_table(
    found: Sequence[Configuration], measure: str, manifest: Mapping[str, Any]
) -> Table:
    table = Table(title=f"Pareto front of bits and {title(measure)}", header_style="bold")
    table.add_column("configuration", overflow="fold")
    for heading in ("bits", title(measure), "95 % interval"):
        table.add_column(heading, justify="right")
    kept = front(found, measure)
    for each, interval in zip(kept, intervals(kept, measure, manifest), strict=True):
        ends = interval and [written(measure, end) for end in interval[1:]]
        table.add_row(
            Text(each.label),
            str(each.facts["bits"]),
            written(measure, each.measures[measure]),
            " to ".join(ends) if ends else "",
        )
    return table


# --- files ----------------------------------------------------------------------------------


def draw(
    folder: Path, manifest: Mapping[str, Any], results: Sequence[Result], *, suffix: str = ".png"
) -> list[Path]:
    """The pictures of a study: its maps, accuracy against bits, and layers if there are several.

    Args:
        folder: where they are written to, which exists.
        manifest, results: the study.
        suffix: ``.png``, ``.svg`` or ``.pdf``.

    Returns:
        The files that were written.

    Raises:
        ImportError: without matplotlib; see ``picture.available``.
        OSError: if a file cannot be written.
    """
    found, score = configurations(results), SCORES[manifest["score"]]
    drawn = []
    for number, (name, some) in enumerate(sides(found).items()):
        drawn.append(folder / f"map{number or ''}{_slug(name)}{suffix}")
        heading = ", ".join(filter(None, (manifest["name"], name)))
        means = [each.mean for each in some]
        picture.heat_map(drawn[-1], means, score.headline, heading, distance=score.distance)
    if any(each.state == "done" and each.facts.get("bits") for each in found):
        drawn.append(folder / f"accuracy{suffix}")
        draw_accuracy(drawn[-1], manifest, found)
    if len({each.point.get("path") for each in found}) > 1:
        drawn.append(folder / f"layers{suffix}")
        draw_layers(drawn[-1], manifest, found)
    return drawn


def draw_accuracy(path: Any, manifest: Mapping[str, Any], found: Sequence[Configuration]) -> None:
    """The headline against bits, with intervals, and the Pareto front as a line.

    Args:
        path: the file, or a binary stream for a PNG.
        manifest: of the study.
        found: its configurations.
    """
    measure = measures_of(manifest)[0]
    known = [each for each in found if each.state == "done" and each.facts.get("bits")]
    figure, axis = _figure(9.0, 5.0)
    spread = intervals(known, measure, manifest)
    reach = {each.label: one for each, one in zip(known, spread, strict=True)}
    for place, (name, some) in enumerate(sides(known).items()):
        _with_intervals(axis, some, reach, measure, place, name)
    best = front(known, measure)
    bits = [each.facts["bits"] for each in best]
    axis.step(bits, [_drawn(each, measure) for each in best], "k-", where="post", linewidth=0.8)
    for each in best[:LABELS]:
        at = (each.facts["bits"], _drawn(each, measure))
        axis.annotate(
            each.label, at, (4, 4), textcoords="offset points", fontsize=7, parse_math=False
        )
    _scale(axis.set_yscale, [_drawn(each, measure) for each in known])
    axis.set_xlabel("bits per value, scales of blocks included")
    axis.set_ylabel(title(measure)).set_parse_math(False)
    _finish(figure, axis, path, manifest["name"])


def _with_intervals(axis, some, spread, measure: str, place: int, name: str) -> None:
    values = [_drawn(each, measure) for each in some]
    reach = [
        (0.0, 0.0) if each is None else (_reach(value - each.low), _reach(each.high - value))
        for value, each in zip(values, [spread[each.label] for each in some], strict=True)
    ]
    axis.errorbar(
        [each.facts["bits"] for each in some],
        values,
        yerr=list(zip(*reach, strict=True)),
        fmt=MARKS[place % len(MARKS)],
        color=COLOURS[place % len(COLOURS)],
        label=name or None,
        markersize=4,
        elinewidth=0.7,
    )


def draw_layers(path: Any, manifest: Mapping[str, Any], found: Sequence[Configuration]) -> None:
    """The distance from float32 that each path alone makes, a mark for each format.

    Args:
        path: the file, or a binary stream for a PNG.
        manifest: of the study.
        found: its configurations.
    """
    measure = SCORES[manifest["score"]].distance
    known = [each for each in found if each.state == "done"]
    paths = list(dict.fromkeys(str(each.point.get("path", "all of it")) for each in known))
    figure, axis = _figure(9.0, 1.5 + 0.3 * len(paths))
    for place, fmt in enumerate(dict.fromkeys(each.mean.spec for each in known)):
        some = [each for each in known if each.mean.spec == fmt]
        axis.plot(
            [_drawn(each, measure) for each in some],
            [paths.index(str(each.point.get("path", "all of it"))) for each in some],
            MARKS[place % len(MARKS)],
            color=COLOURS[place % len(COLOURS)],
            label=fmt,
            markersize=5,
        )
    axis.set_yticks(range(len(paths)), paths)
    for text in axis.get_yticklabels():
        text.set_parse_math(False)
    axis.invert_yaxis()
    _scale(axis.set_xscale, [_drawn(each, measure) for each in known])
    axis.set_xlabel(title(measure)).set_parse_math(False)
    _finish(figure, axis, path, manifest["name"])


def _slug(name: str) -> str:
    """What a file's name has of a map's title."""
    return "-" * bool(name) + re.sub(r"[^\w.+]+", "-", name)[:60].strip("-")


def _drawn(each: Configuration, measure: str) -> float:
    """A value within what axes can reach."""
    return min(max(each.measures[measure], -FAR), FAR)


def _reach(distance: float) -> float:
    return min(max(distance, 0.0), FAR)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _scale(set_scale, values: Sequence[float]) -> None:
    """A logarithmic axis where the values are positive and lie far apart."""
    if values and min(values) > 0 and math.log10(max(values) / min(values)) > 1:
        set_scale("log")


def _finish(figure, axis, path: Any, heading: str) -> None:
    axis.grid(alpha=0.3)
    axis.set_title(heading, fontsize=10, parse_math=False)
    handles, labels = axis.get_legend_handles_labels()
    if 1 < len(labels) <= LABELS:
        for text in axis.legend(handles, labels, fontsize=8).get_texts():
            text.set_parse_math(False)
    figure.savefig(path, dpi=130)
