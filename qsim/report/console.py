"""The sweep as a person sees it: progress while it runs, then tables, a heat map and files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from qsim.analysis import laws
from qsim.analysis.values import element
from qsim.numbers.catalogue import Entry
from qsim.numbers.formats import Format
from qsim.report import comparison, picture, portrait
from qsim.report.site_tree import site_tree
from qsim.report.terminal import (
    heat_map,
    landmarks,
    result_table,
    summary,
    values,
    verdict_table,
)
from qsim.simulate.policy import Policy
from qsim.simulate.policy import policy as parse_policy
from qsim.simulate.sites import sites as site_list
from qsim.sweeps import store
from qsim.sweeps.scores import SCORES, Score
from qsim.sweeps.study import Row, judge, policies_for, policies_from, run, versions
from qsim.sweeps.subject import Subject, first_batch, load

__all__ = ["check", "compare", "show", "show_format", "sites", "sweep"]

NO_PICTURE = "no picture without matplotlib: pip install 'jax-qsim[plots]'"


def show(*things) -> None:
    """Print tables and text, one below the other; wide where the output is no terminal."""
    console = _console()
    for thing in things:
        console.print(thing)


def _console() -> Console:
    return Console(width=None if os.isatty(1) or "COLUMNS" in os.environ else 160)


def show_format(name: str, fmt: Format, out: Path) -> None:
    """Show the landmarks of a format, up to 8 bits its values, and draw it.

    Args:
        name: what the user calls it.
        fmt: the format.
        out: the picture, whose folder is made if need be.

    Raises:
        ValueError: if the picture cannot be written.
    """
    show(landmarks(fmt))
    drawn = element(fmt)
    if drawn.bits <= 8:
        show(values(drawn, _console().width))
    _draw(out, lambda path: portrait.draw(path, name, drawn))


def compare(formats: Mapping[str, Format], out: Path) -> None:
    """Show formats side by side, by the names that the user gave them, and draw them.

    Raises:
        ValueError: if the picture cannot be written.
    """
    noise = comparison.noise(formats)
    show(comparison.fact_table(formats))
    show(comparison.binade_table(formats))
    show(comparison.noise_table(noise))
    drawn = {name: element(fmt) for name, fmt in formats.items()}
    _draw(out, lambda path: portrait.draw_comparison(path, drawn, noise))


def _draw(out: Path, draw) -> None:
    if not picture.available():
        show(Text(NO_PICTURE))
        return
    store.prepare(out.parent)
    draw(out)
    show(Text(str(out)))


def check(file: Path, entries: Sequence[Entry]) -> bool:
    """Whether the formats of a file obey every law, after showing each verdict.

    Raises:
        ValueError: for a format that no carrier holds, or a landmark outside the schema.
    """
    held = True
    for entry in entries:
        verdicts = _verdicts(entry)
        broken = sum(verdict.state == "broken" for verdict in verdicts)
        held = held and not broken
        show(verdict_table(f"{entry.name}: {entry.format}", verdicts))
        words = f"{broken} of {len(verdicts)} laws broken" if broken else "every law holds"
        show(Text(f"{file}, {entry.name}: {words}"))
    return held


def _verdicts(entry: Entry) -> list[laws.Verdict]:
    """The verdicts on a format; a bar on the error stream shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    found = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(entry.name, total=len(laws.LAWS))
        for verdict in laws.check(entry.format, entry.landmarks):
            found.append(verdict)
            progress.update(task, completed=len(found))
    return found


def sites(subject: Subject, *, backward: bool, policy: str | None) -> None:
    """Show the operations of a subject as a tree, or which rule of a policy counts for each.

    Args:
        subject: the subject.
        backward: whether it is the gradient's, for the sum of the model's outputs.
        policy: a policy's text.
    """

    def total(variables, inputs):
        return jnp.sum(subject.apply(variables, inputs), dtype=jnp.float32)

    fn, arguments = (
        jax.grad(total) if backward else subject.apply,
        (subject.variables, first_batch(subject)),
    )
    if policy is None:
        show(site_tree(subject.name, site_list(fn, *arguments)))
    else:
        show(Text(str(parse_policy(policy).explain(fn, *arguments))))


def sweep(
    name: str, formats: Sequence[Format], setting: dict[str, str], *, seed: int, out: Path | None
) -> list[Row]:
    """Run a sweep of a subject, show its progress and its results, and write them to a folder.

    Args:
        name: the subject's name, ``package.module:attribute``.
        formats: the formats.
        setting: target, rounding, overflow and scale; or policy, a text with ``{}`` in the
            place of the format; and accumulator, if contractions have one.
        seed: seed of stochastic rounding.
        out: the folder for ``sweep.parquet`` and ``sweep.png``; None writes nothing.

    Raises:
        ValueError: for an unknown name, or a folder that cannot be written to.
    """
    policies = _policies(formats, setting)
    stochastic = any(policy.is_stochastic for policy in policies)
    folder = None if out is None else store.prepare(out)
    subject = load(name)
    _require_used(policies[0], subject)
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
    score = SCORES[subject.score]
    maps = heat_map(rows, score.headline)
    show(result_table(rows, subject.score), f"float32: {float32}", *maps)
    if folder is not None:
        words = ("policy", "target", "rounding", "scale", "accumulator")
        how = ", ".join(setting[word] for word in words if word in setting)
        drawn = _save_map(folder, rows, score, f"{subject.name} ({how}); float32: {float32}")
        show(Text(f"{len(rows)} formats: {folder / 'sweep.parquet'}, {drawn}"))
    return rows


def _require_used(chosen: Policy, subject: Subject) -> None:
    """Warns of rules that address nothing in a subject.

    Raises:
        ValueError: if all of them do.
    """
    explained = chosen.explain(subject.apply, subject.variables, first_batch(subject))
    unused = [explained.rules[n] for n in explained.unused]
    if len(unused) == len(explained.rules):
        raise ValueError(
            f"no rule of {'; '.join(unused)!r} addresses anything in {subject.name}: "
            "'qsim sites' shows its paths and roles"
        )
    for rule in unused:
        show(Text(f"rule {rule!r} addresses nothing in {subject.name}", style="yellow"))


def _policies(formats: Sequence[Format], setting: dict[str, str]) -> list[Policy]:
    """A policy for each format, from a text or from a target and modes."""
    rest = {name: value for name, value in setting.items() if name != "accumulator"}
    if "policy" in rest:
        made = policies_from(formats, rest["policy"])
    else:
        made = policies_for(formats, **rest)
    if "accumulator" in setting:
        adding = parse_policy(f"accumulators={setting['accumulator']}")
        made = [Policy((*adding.rules, *each.rules)) for each in made]
    return made


def _save_map(folder: Path, rows: Sequence[Row], score: Score, title: str) -> str:
    """Draws the heat map of a sweep; the file, or what is missing."""
    if not picture.available():
        return NO_PICTURE
    path = folder / "sweep.png"
    picture.heat_map(path, rows, score.headline, title, distance=score.distance)
    return str(path)


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
