"""The sweep as a person sees it: progress while it runs, then tables, a heat map and files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from qsim.numbers.formats import Format
from qsim.numbers.modes import Rounding
from qsim.report import picture
from qsim.report.terminal import heat_map, result_table, summary
from qsim.sweeps import store
from qsim.sweeps.study import Row, judge, policies_for, run, versions
from qsim.sweeps.subject import load

__all__ = ["show", "sweep"]


def show(*things) -> None:
    """Print tables and text, one below the other; wide where the output is no terminal."""
    width = None if os.isatty(1) or "COLUMNS" in os.environ else 160
    console = Console(width=width)
    for thing in things:
        console.print(thing)


def sweep(
    name: str, formats: Sequence[Format], setting: dict[str, str], *, seed: int, out: Path | None
) -> list[Row]:
    """Run a sweep of a subject, show its progress and its results, and write them to a folder.

    Args:
        name: the subject's name, ``package.module:attribute``.
        formats: the formats.
        setting: target, rounding, overflow and scale.
        seed: seed of stochastic rounding.
        out: the folder for ``sweep.parquet`` and ``sweep.png``; None writes nothing.

    Raises:
        ValueError: for an unknown name, or a folder that cannot be written to.
    """
    policies = policies_for(formats, **setting)
    stochastic = Rounding.parse(setting["rounding"]).is_stochastic
    folder = None if out is None else store.prepare(out)
    subject = load(name)
    reference = judge(subject)
    parts = run(
        subject, reference, formats, policies, key=jax.random.key(seed) if stochastic else None
    )
    known = {"subject": name, **setting, "seed": str(seed), **versions()}
    rows: list[Row] = []
    for rows in _with_progress(parts, len(formats)):
        if folder is not None:  # after every part, so that an interruption loses nothing
            store.write(folder / "sweep.parquet", rows, known)
    float32 = summary(reference.measures, subject.score)
    measure = "bits_per_byte" if subject.score == "bits_per_byte" else "kl"
    show(result_table(rows, subject.score), f"float32: {float32}", *heat_map(rows, measure))
    if folder is not None:
        how = ", ".join(setting[word] for word in ("target", "rounding", "scale"))
        title = f"{subject.name} ({how}); float32: {float32}"
        files = [str(folder / "sweep.parquet")]
        if picture.available():
            picture.heat_map(folder / "sweep.png", rows, measure, title)
            files.append(str(folder / "sweep.png"))
        else:
            files.append("no picture without matplotlib: pip install 'jax-qsim[plots]'")
        show(Text(f"{len(rows)} formats: {', '.join(files)}"))
    return rows


def _with_progress(parts: Iterator[list[Row]], total: int) -> Iterator[list[Row]]:
    """All rows so far, after every part; a bar on the error stream shows how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    rows: list[Row] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("compiling", total=total)
        for part in parts:
            rows = [*rows, *part]
            progress.update(task, completed=len(rows), description=rows[-1].spec)
            yield rows
