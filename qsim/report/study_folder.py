"""The folder of a study as a person sees it: what is planned, how far it is, what it says."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from qsim.report import picture, study_figures, study_page
from qsim.report.console import NO_PICTURE, require_used, show, waiting
from qsim.studies import export
from qsim.studies.conditions import differing
from qsim.studies.database import Database
from qsim.studies.description import described
from qsim.studies.evaluations import Evaluation
from qsim.studies.lock import writer
from qsim.studies.manifest import MANIFEST, read_manifest
from qsim.studies.result import STATES, Result, key_of
from qsim.studies.run import Work, pending, plans
from qsim.studies.study import Study
from qsim.sweeps.planner import Program
from qsim.sweeps.store import replaced

__all__ = [
    "counts",
    "plan",
    "report",
    "require_all_used",
    "status",
    "study_of",
    "write_export",
]

SUFFIXES = (".html", ".png", ".svg", ".pdf")


def study_of(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        ValueError: if it holds none.
    """
    if (manifest := read_manifest(folder)) is None:
        raise ValueError(f"{folder} holds no study: it has no {MANIFEST}")
    if "study" not in manifest:
        raise ValueError(f"{folder} holds no study that qsim run has made: choose another folder")
    return Study.of(manifest["study"])


def plan(study: Study, folder: Path | None, how: Mapping[str, Any]) -> None:
    """Show how what is left of a study would run, and how long it would take.

    Every program is compiled, and run for one policy on each device. Nothing is written.

    Args:
        study: the study.
        folder: its folder, which may not be there yet.
        how: ``batch``, ``devices`` and ``chunk``, see ``qsim.studies.run.found``.

    Raises:
        ValueError: for a study that cannot be run.
    """
    work = Work(study)
    left = work.evaluations
    if folder is not None and (folder / MANIFEST).exists():
        with Database.open(folder) as database:
            left = pending(work, database)
    require_all_used(work)
    began = time.perf_counter()
    with waiting("compiling"):
        made, failed = [], []
        for group, found in plans(work, left, **how):
            if isinstance(found, str):
                failed.append(f"{len(group)} will fail ({_shared(group)}): {found}")
            else:
                made += [(group, each) for each in found.programs]
    spent = time.perf_counter() - began
    seconds = sum(program.seconds or 0.0 for _, program in made)
    show(
        _plan_table(made),
        *(Text(line, style="red") for line in failed),
        Text(
            f"{len(left)} of {len(work.evaluations)} evaluations are left, about "
            f"{_duration(spent + seconds)}: {_duration(spent)} to compile {len(made)} programs, "
            f"and {_duration(seconds)} to run them"
        ),
    )


def require_all_used(work: Work) -> None:
    """Warns of rules that address nothing in a study's subject, wherever only formats differ.

    Raises:
        ValueError: if all rules of a policy do.
    """
    ways = {}
    for each in work.evaluations:
        point = {axis: v for axis, v in each.point.items() if axis in ("policy", "target", "path")}
        ways.setdefault(key_of(point), each.policy)
    for policy in ways.values():
        require_used(policy, work.subject)


def _plan_table(made: Sequence[tuple[list[Evaluation], Program]]) -> Table:
    table = Table(title="Programs, one after the other", header_style="bold")
    table.add_column("what its evaluations share", overflow="fold")
    for heading in ("evaluations", "side by side", "in a call", "devices", "memory", "of", "time"):
        table.add_column(heading, justify="right")
    for group, program in made:
        table.add_row(
            Text(_shared(group)),
            str(program.policies),
            str(program.batch),
            str(program.chunk),
            str(program.devices),
            Text(decimal(program.bytes), style="" if program.fits else "red"),
            "" if program.room is None else decimal(program.room),
            "" if program.seconds is None else _duration(program.seconds),
        )
    return table


def _shared(group: Sequence[Evaluation]) -> str:
    """The coordinates that all evaluations of a group have, and how many formats there are."""
    first = group[0].point
    same = [str(first[a]) for a in first if len({each.point.get(a) for each in group}) == 1]
    formats = {each.point.get("format") for each in group}
    return ", ".join([*same, *([f"{len(formats)} formats"] if len(formats) > 1 else [])])


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(0.5), _duration(75.0), _duration(7300.0)
    ('0.5 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def status(folder: Path) -> None:
    """Show how far a study is, what failed, and what its results depend on."""
    with Database.open(folder) as database:
        manifest, results = described(database), database.results()
        bad, met = database.quarantined(), database.conditions()
    show(Text(f"{manifest['name']}: {manifest['subject']}", style="bold"))
    if (running := writer(folder)) is not None:
        show(Text(f"being written by {running}"))
    show(counts(results, manifest["total"]))
    show(*(Text(line) for line in study_figures.failures(results)))
    for what in bad:
        show(Text(f"quarantined: {what}"))
    for other in met[1:]:
        show(Text(f"mixed conditions: {'; '.join(differing(met[0], other))}"))


def counts(results: Sequence[Result], total: int) -> Table:
    """How many evaluations are in which state."""
    table = Table(show_header=False)
    for state, meaning in STATES.items():
        count = sum(result.state == state for result in results)
        table.add_row(state, str(count), Text(meaning, style="dim"))
    table.add_row("left", str(total - len(results)), "")
    return table


def report(folder: Path, out: Path) -> list[Path]:
    """Show a study in the terminal, and write it as a page or as pictures.

    Args:
        folder: of the study.
        out: the page, ``.html``; or ``.png``, ``.svg`` or ``.pdf``, whose name without the suffix
            is that of a folder for pictures.

    Returns:
        The files that were written.

    Raises:
        ValueError: if the folder holds no study, for a file of another kind, if it cannot be
            written, or if what it needs is not installed.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out} is no report: give a name that ends in {' '.join(SUFFIXES)}")
    manifest, results = study_page.page_of(folder)
    show(*study_figures.view(manifest, results))
    written = list(_written(out, manifest, results))
    show(*(Text(str(path)) for path in written))
    return written


def _written(out: Path, manifest: dict[str, Any], results: list[Result]) -> Iterator[Path]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".html":
            replaced(out, lambda path: study_page.write(path, manifest, results))
            yield out
            return
        if not picture.available():
            raise ValueError(NO_PICTURE)
        folder = out.with_suffix("")
        folder.mkdir(exist_ok=True)
        yield from study_figures.draw(folder, manifest, results, suffix=out.suffix)
    except ImportError as error:
        raise ValueError("a page needs Jinja2: pip install 'jax-qsim[report]'") from error
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror or error}") from error


def write_export(folder: Path, path: Path) -> None:
    """Write the results of a study as a table, whose kind is that of the file's name."""
    with Database.open(folder) as database:
        export.write(path, database.results(), described(database))
    show(Text(str(path)))
