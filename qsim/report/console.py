"""What commands show: formats, their comparison and their laws, the operations of a subject."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from qsim.analysis import laws
from qsim.analysis.values import element
from qsim.numbers.catalogue import Entry
from qsim.numbers.formats import Format
from qsim.report import comparison, picture, portrait
from qsim.report.site_tree import site_tree
from qsim.report.terminal import (
    landmarks,
    values,
    verdict_table,
)
from qsim.simulate.policy import Policy
from qsim.simulate.policy import policy as parse_policy
from qsim.simulate.sites import sites as site_list
from qsim.sweeps import store
from qsim.sweeps.subject import Subject, first_batch

__all__ = [
    "NO_PICTURE",
    "check",
    "compare",
    "require_used",
    "show",
    "show_format",
    "sites",
    "waiting",
]

NO_PICTURE = "no picture without matplotlib: pip install 'jax-qsim[plots]'"


def show(*things) -> None:
    """Print tables and text, one below the other; wide where the output is no terminal."""
    console = _console()
    for thing in things:
        console.print(thing)


def waiting(text: str) -> AbstractContextManager:
    """A context that shows what is being waited for, on the error stream."""
    return Console(stderr=True).status(text)


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


def require_used(chosen: Policy, subject: Subject) -> None:
    """Warns of rules that address nothing in a subject.

    Raises:
        ValueError: if all of them do.
    """
    explained = chosen.explain(subject.apply, subject.variables, first_batch(subject))
    unused = [explained.rules[n] for n in explained.unused]
    if len(unused) == len(explained.rules):
        raise ValueError(
            f"no rule of {'; '.join(unused)!r} addresses anything in {subject.name}: 'qsim sites "
            "PACKAGE.MODULE:SUBJECT' shows its paths and roles; a path matches as a whole, '.*name'"
        )
    for rule in unused:
        show(Text(f"rule {rule!r} addresses nothing in {subject.name}", style="yellow"))
