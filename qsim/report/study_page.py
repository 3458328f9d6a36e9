"""A study as one HTML file that people look at: maps, fronts, intervals, a table, downloads.

The file needs nothing else, neither a network nor a server: style, script and data are in it, and
its content security policy allows these, by their hashes, and nothing more. Whatever comes from a
study is text: the template escapes it, and the script writes it as text nodes. The figures are
drawn by the script from the data, so that they follow the filters; without JavaScript there are a
picture and a table.

The data are JSON, made by ``data_of``; numbers of figures have six digits, those of results all.
"""

import base64
import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from qsim.analysis.paired import Interval
from qsim.analysis.values import element, finite_values
from qsim.numbers.records import log2
from qsim.numbers.specs import parse
from qsim.report import picture, study_figures
from qsim.report.study_view import (
    MORE_IS_BETTER,
    Configuration,
    axes_of,
    comparisons,
    configurations,
    intervals,
    measures_of,
    title,
    written,
)
from qsim.report.terminal import COLUMNS
from qsim.studies.database import Database
from qsim.studies.description import described
from qsim.studies.result import STATES, Result
from qsim.sweeps.scores import SCORES

__all__ = ["data_of", "page_of", "policy_of", "render", "write"]

SCRIPTS = ("figures.js", "table.js", "study.js")
LINE_BITS = 8  # formats of more bits have too many values to be seen on a line
LINES = 64
STATIC_ROWS = 1000  # of the table without JavaScript


def write(path: Path, manifest: Mapping[str, Any], results: Sequence[Result]) -> None:
    """A study as one HTML file.

    Args:
        path: the file.
        manifest: of the study: ``name``, ``subject`` and ``score``; where they are known ``total``,
            how many evaluations there are, ``study``, what its file says, ``reference``, the
            measures of float32, ``reference_examples``, their sums over examples, ``counts``, what
            these are over, and ``conditions``, texts by name.
        results: what was found so far.

    Raises:
        ImportError: without Jinja2, which is of the extra ``report``.
        OSError: if the file cannot be written.
    """
    path.write_text(render(manifest, results), encoding="utf-8")


def page_of(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """The manifest and the results of a folder, as ``write`` takes them.

    Where results depend on several conditions, all are told.

    Raises:
        ValueError: if the folder holds no study.
    """
    with Database.open(folder) as database:
        met, bad = database.conditions(), database.quarantined()
        results = database.results(examples=True)
        manifest = described(database)
    measures = {*SCORES[manifest["score"]].measures}
    shown = [each for each in results if not each.measures or each.measures.keys() == measures]
    names = dict.fromkeys(name for each in met for name in each)
    conditions = {
        name: " or ".join(dict.fromkeys(each.get(name, "unknown") or "none" for each in met))
        for name in names
    }
    if bad:
        conditions["quarantined"] = f"{len(bad)} damaged rows or files, which are not shown"
    if len(shown) < len(results):
        conditions["left out"] = f"{len(results) - len(shown)} results with other measures"
    return {**manifest, "conditions": conditions}, shown


def render(manifest: Mapping[str, Any], results: Sequence[Result], *, live: bool = False) -> str:
    """The HTML of a study.

    Args:
        manifest, results: as for ``write``.
        live: whether the page is to ask its server for what is new; it has no data of its own.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qsim.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = data_of(manifest, [] if live else results)
    return environment.get_template("study.html").render(
        csp=policy_of(live=live),
        style=Markup(_asset("study.css")),
        scripts=[Markup(_asset(name)) for name in SCRIPTS],
        data=Markup(_json(data)),
        live=live,
        manifest=manifest,
        progress=study_figures.progress(manifest, results),
        failures=study_figures.failures(results),
        reference=_reference(manifest),
        conditions=_conditions(manifest),
        picture=None if live else _picture(manifest, results),
        table=_static_table(manifest, results),
        left_out=max(0, len(results) - STATIC_ROWS),
    )


def policy_of(*, live: bool) -> str:
    """The content security policy of a page: its own style and scripts by hash, nothing else.

    >>> policy_of(live=False).startswith("default-src 'none'; script-src 'sha256-")
    True
    """
    scripts = " ".join(_hash(_asset(name)) for name in SCRIPTS)
    rules = [
        "default-src 'none'",
        f"script-src {scripts}",
        f"style-src {_hash(_asset('study.css'))}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return "; ".join(rules)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _asset(name: str) -> str:
    return (resources.files("qsim.report") / "templates" / name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that is safe inside a script element: it has no character that HTML or scripts mind."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# --- data -----------------------------------------------------------------------------------


def data_of(manifest: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """What the page's script shows.

    ``rows`` are the results, with their place among ``configurations``; ``values`` are in the order
    of ``measures``, and null where they are infinite or no number. ``comparisons`` have, for every
    baseline, the difference of every configuration and its interval; baseline -1 is float32.
    """
    found, measures = configurations(results), measures_of(manifest)
    place = {result.key: n for n, each in enumerate(found) for result in each.results}
    score, axes = SCORES[manifest["score"]], axes_of(results)
    return {
        "name": manifest["name"],
        "headline": score.headline,
        "distance": score.distance,
        "measures": {
            name: {
                "heading": COLUMNS[name][0],
                "title": title(name),
                "more": name in MORE_IS_BETTER,
            }
            for name in measures
        },
        "axes": axes,
        "reference": {
            name: _number(value) for name, value in (manifest.get("reference") or {}).items()
        },
        "rows": [_row(result, place[result.key], measures) for result in results],
        "configurations": _configurations(found, measures, manifest),
        "comparisons": _comparisons(found, measures, manifest),
        "lines": _lines(axes.get("format", [])),
        "progress": _progress(manifest, results),
    }


def _row(result: Result, place: int, measures: Sequence[str]) -> dict[str, Any]:
    values = [result.measures.get(name) for name in measures]
    return {
        "of": place,
        "point": result.point,
        "facts": result.facts,
        "state": result.state,
        "seconds": _number(result.seconds),
        "values": [_finite(value) for value in values],
        "texts": [
            "" if v is None else written(n, v) for n, v in zip(measures, values, strict=True)
        ],
        "error": result.error,
    }


def _configurations(
    found: Sequence[Configuration], measures: Sequence[str], manifest: Mapping[str, Any]
) -> list[dict[str, Any]]:
    spread = [intervals(found, measure, manifest) for measure in measures]
    each = zip(found, zip(*spread, strict=True), strict=True)
    return [
        {
            "label": one.label,
            "point": one.point,
            "facts": one.facts,
            "state": one.state,
            "seeds": len(one.results),
            "values": [_number(one.measures.get(name)) for name in measures],
            "texts": [
                written(name, one.measures[name]) if name in one.measures else ""
                for name in measures
            ],
            "intervals": [i and [_number(i.low), _number(i.high)] for i in own],
        }
        for one, own in each
    ]


def _comparisons(
    found: Sequence[Configuration], measures: Sequence[str], manifest: Mapping[str, Any]
) -> dict[str, list]:
    """By measure; the loss only where it is not shown in other units."""
    same = {"loss_difference"} | ({"loss"} if "bits_per_byte" in measures else set())
    compared = {name: comparisons(found, name, manifest) for name in measures if name not in same}
    return {
        name: [
            {
                "baseline": -1 if one.baseline is None else one.baseline,
                "differences": [_triple(each) for each in one.intervals],
            }
            for one in some
        ]
        for name, some in compared.items()
        if some
    }


def _triple(interval: Interval | None) -> list | None:
    return interval and [_number(each) for each in interval]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> float | None:
    """A number of a figure, in six digits."""
    return None if _finite(value) is None else float(f"{value:.6g}")


def _lines(formats: Sequence[Any]) -> list[dict[str, Any]]:
    """The values of formats of a few bits: log2 of the positive ones."""
    lines = []
    for text in formats:
        try:
            fmt = element(parse(str(text)))
        except ValueError:
            continue  # a format of a file of one's own: its name alone does not tell its values
        if fmt.bits <= LINE_BITS and len(lines) < LINES:
            values = [float(f"{log2(value):.4g}") for value in finite_values(fmt) if value > 0]
            lines.append({"format": str(text), "log2": values, "bits": fmt.bits})
    return lines


def _progress(manifest: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """How many results there are, of how many, in which states, and what is left at this pace."""
    states, total = [result.state for result in results], manifest.get("total", len(results))
    left = max(0, total - len(results))
    pace = sum(result.seconds for result in results) / max(1, len(results))
    return {
        "found": len(results),
        "total": total,
        "seconds_left": _number(left * pace),
        **{state: states.count(state) for state in STATES},
    }


# --- what is there without JavaScript ----------------------------------------------------------


def _reference(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = manifest.get("reference") or {}
    judge = SCORES[manifest["score"]]
    return [
        (COLUMNS[name][0], written(name, known[name]))
        for name in measures_of(manifest)
        if name in known and name not in (judge.distance, "loss_difference")
    ]


def _conditions(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, and under which conditions; lists with commas."""
    study = manifest.get("study") or {}
    facts = {**{k: v for k, v in study.items() if k != "axes"}, **study.get("axes", {})}
    facts = {k: v for k, v in facts.items() if k not in ("name", "subject")}
    facts |= dict(manifest.get("conditions") or {})
    return [
        (str(name).replace("_", " "), _said(value)) for name, value in facts.items() if value != []
    ]


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _static_table(manifest: Mapping[str, Any], results: Sequence[Result]) -> dict[str, list]:
    axes, measures = axes_of(results), measures_of(manifest)
    return {
        "headings": [*axes, "bits", *(COLUMNS[name][0] for name in measures), "state"],
        "rows": [
            [
                *(result.point.get(axis, "") for axis in axes),
                result.facts.get("bits") or "",
                *(written(n, result.measures[n]) if result.measures else "" for n in measures),
                result.error or result.state,
            ]
            for result in results[:STATIC_ROWS]
        ],
    }


def _picture(manifest: Mapping[str, Any], results: Sequence[Result]) -> str | None:
    """Accuracy against bits as a data URI; None without matplotlib or anything to draw."""
    found = [each for each in configurations(results) if each.state == "done"]
    if not picture.available() or not any(each.facts.get("bits") for each in found):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accuracy.png"
        study_figures.draw_accuracy(path, manifest, found)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
