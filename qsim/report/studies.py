"""Running studies as a person sees it: progress, and tables and a map after."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from qsim.report import picture
from qsim.report.console import NO_PICTURE, show
from qsim.report.study_figures import failures
from qsim.report.study_folder import counts, require_all_used
from qsim.report.terminal import heat_map, result_table, summary
from qsim.studies import export
from qsim.studies.conditions import conditions, differing
from qsim.studies.database import Database
from qsim.studies.result import Result
from qsim.studies.run import Work, follow, found, opened, pending, store
from qsim.studies.stopping import Stop, stopping
from qsim.studies.study import Study
from qsim.sweeps.scores import SCORES

__all__ = ["run", "sweep"]

Tell = Callable[[Sequence[Result]], None]


def sweep(study: Study, *, out: Path | None, fresh: bool) -> int:
    """Run a study of formats, show its results as tables and maps, and write files.

    Args:
        study: the study.
        out: a folder for the study, ``sweep.parquet`` and ``sweep.png``; None keeps nothing.
        fresh: whether the results that the folder has are discarded.

    Returns:
        The exit code, see ``run``.
    """
    work = Work(study)
    if out is None:
        require_all_used(work)
        results: list[Result] = []
        with _progress(len(work.evaluations)) as tell:
            for part in found(work, work.evaluations):
                results += part
                tell(part)
        _show_results(work, results)
        return _code(results)
    code, results = _run(work, out, fresh=fresh, mixed=False, how={})
    _show_results(work, results)
    export.write(out / "sweep.parquet", results, work.manifest())
    drawn = _save_map(out, work, results)
    show(Text(f"{len(results)} evaluations: {out / 'sweep.parquet'}, {drawn}"))
    return code


def run(study: Study, out: Path, *, mixed: bool, how: dict) -> int:
    """Run a study in a folder, from where it is, on the devices of all processes that take part.

    Args:
        study: the study.
        out: its folder, to which process 0 writes.
        mixed: whether results of other versions and flags may stand beside new ones.
        how: ``batch`` and ``chunk``.

    Returns:
        The exit code: 0; 1 if an evaluation failed; 130 or 143 if a signal stopped it.

    Raises:
        ValueError: for a study that cannot be run, or a folder of another one.
    """
    work, how = Work(study), {**how, "devices": jax.devices()}
    if jax.process_index():
        with stopping():  # process 0 says when
            follow(work, **how)
        return 0
    code, results = _run(work, out, fresh=False, mixed=mixed, how=how)
    show(counts(results, len(work.evaluations)), *map(Text, failures(results)))
    show(Text(f"{out}: qsim report {out} draws it, qsim export {out} writes tables"))
    return code


# --- while it runs --------------------------------------------------------------------------


def _run(work: Work, out: Path, *, fresh: bool, mixed: bool, how: dict) -> tuple[int, list[Result]]:
    """The exit code, and all results of the folder that are of this study."""
    now = conditions() | {"float32_answers": work.answers}
    require_all_used(work)
    if fresh:
        Database.discard(out)
    with opened(work, out) as database, stopping() as stop:
        _require_same(database, now, mixed)
        for what in database.repaired:
            show(Text(f"quarantined: {what}", style="yellow"))
        left = len(pending(work, database))
        with _progress(len(work.evaluations), len(work.evaluations) - left) as tell:
            store(work, database, now, told=tell, stopped=stop, notice=_notice, **how)
        asked = {evaluation.key for evaluation in work.evaluations}
        results = [result for result in database.results() if result.key in asked]
    return _stopped(stop) or _code(results), results


def _notice(text: str) -> None:
    Console(stderr=True).print(Text(text, style="yellow"))


def _stopped(stop: Stop) -> int:
    if stop():
        show(Text("stopped; everything that finished is stored, and the same command goes on"))
    return stop.code


def _require_same(database: Database, now: dict[str, str], mixed: bool) -> None:
    """Results that are there were computed under the conditions of now.

    Raises:
        ValueError: if they were not, and may not be mixed.
    """
    for before in database.conditions():
        if (lines := differing(before, now)) and not mixed:
            raise ValueError(
                f"results in {database.folder} depend on other conditions ({'; '.join(lines)}): "
                "--allow-mixed goes on all the same and records both, another folder begins anew"
            )


@contextlib.contextmanager
def _progress(total: int, done: int = 0) -> Iterator[Tell]:
    """What tells how many evaluations are done; a bar on the error stream."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("compiling", total=total, completed=done)

        def tell(results: Sequence[Result]) -> None:
            progress.update(task, advance=len(results), description=results[-1].spec)

        yield tell


def _code(results: Sequence[Result]) -> int:
    return int(any(result.state == "failed" for result in results))


# --- after it -------------------------------------------------------------------------------


def _show_results(work: Work, results: Sequence[Result]) -> None:
    subject = work.subject
    good = [result for result in results if result.measures]
    for error in dict.fromkeys(result.error for result in results if result.error):
        show(Text(f"failed: {error}", style="red"))
    if good:
        float32 = summary(work.reference.measures, subject.score)
        maps = heat_map(good, SCORES[subject.score].headline)
        show(result_table(good, subject.score), f"float32: {float32}", *maps)


def _save_map(folder: Path, work: Work, results: Sequence[Result]) -> str:
    """Draws the heat map of a sweep; the file, or what is missing."""
    good = [result for result in results if result.measures]
    if not picture.available() or not good:
        return "no picture" if not good else NO_PICTURE
    score = SCORES[work.subject.score]
    own = {axis: v for axis, v in good[0].point.items() if axis not in ("format", "overflow")}
    float32 = summary(work.reference.measures, work.subject.score)
    title = f"{work.subject.name} ({', '.join(map(str, own.values()))}); float32: {float32}"
    path = folder / "sweep.png"
    picture.heat_map(path, good, score.headline, title, distance=score.distance)
    return str(path)
