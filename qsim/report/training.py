"""A training sweep as a person sees it: progress, a table, loss curves and files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qsim.numbers.catalogue import short_name
from qsim.numbers.formats import Format
from qsim.report import picture
from qsim.report.console import NO_PICTURE, show
from qsim.scales.blocks import Block
from qsim.simulate.policy import Policy, policy
from qsim.studies.evaluations import policies_from
from qsim.sweeps import store
from qsim.sweeps.evaluation import versions
from qsim.training import checkpoint, results, tasks
from qsim.training.results import Curve
from qsim.training.sweep import train_sweep

__all__ = ["draw", "loss_table", "named_policies", "train"]

FLOAT32 = "float32"


def named_policies(formats: Sequence[Format], texts: Sequence[str]) -> dict[str, Policy]:
    """The policies of a training sweep, by what they are called in its table.

    Args:
        formats: the formats.
        texts: policies; one with ``{}`` stands for as many as there are formats. Without any, each
            format is that of all operands of contractions, with one scale per tensor.

    Raises:
        ValueError: for a text that is no policy, or formats that no text asks for.
    """
    if not texts:
        return {short_name(fmt): _everywhere(fmt) for fmt in formats}
    swept = [text for text in texts if "{}" in text]
    if not swept and formats:
        raise ValueError("--policy has no {}, which stands for a format: leave the formats out")
    found = {text: policy(text) for text in texts if text not in swept}
    for text in swept:
        for fmt, made in zip(formats, policies_from(formats, text), strict=True):
            found[short_name(fmt) if len(texts) == 1 else str(made)] = made
    return found


def _everywhere(fmt: Format) -> Policy:
    made = policy(operands=fmt, scale="none" if isinstance(fmt, Block) else "absmax")
    made.lower()  # or the format cannot be carried
    return made


def train(
    name: str,
    policies: Mapping[str, Policy],
    *,
    seeds: Sequence[int],
    steps: int | None,
    rate: float | None,
    out: Path | None,
    resume: bool,
) -> list[Curve]:
    """Train a task in float32 and under policies, show progress and results, and write them.

    Args:
        name: the task's name.
        policies: the policies by name.
        seeds, steps, rate: of the training; the task's own steps and rate where they are None.
        out: the folder for ``training.parquet``, ``training.png`` and checkpoints; None writes
            nothing.
        resume: whether to go on with what the folder has; else it must hold no unfinished runs.

    Raises:
        ValueError: for an unknown name, a folder that cannot be written to, or runs that would be
            lost or mixed.
    """
    folder = _folder(out, resume)
    task = tasks.load(name)
    steps, rate = steps or task.steps, rate or task.rate
    course = tasks.course(task, rate=rate, steps=steps)
    _require_used(policies, course)
    with _progress() as tell:
        runs = train_sweep(
            course.init,
            course.step,
            [None, *policies.values()],
            batches=course.batches,
            seeds=seeds,
            steps=steps,
            evaluate=course.evaluate,
            progress=tell,
            checkpoint=None if folder is None else folder / "checkpoint",
        )
    found = results.curves(runs, [FLOAT32, *policies])
    show(loss_table(found, task.unit))
    if folder is not None:
        setting = {"task": name, "steps": str(steps), "rate": str(rate), "unit": task.unit}
        results.write(folder / "training.parquet", found, setting | versions())
        drawn = _save_curves(folder, found, f"{task.name}, {task.unit}")
        show(Text(f"{len(found)} runs: {folder / 'training.parquet'}, {drawn}"))
    return found


def _folder(out: Path | None, resume: bool) -> Path | None:
    """The folder for results, which has no checkpoint but one that is to be continued."""
    if out is None:
        if resume:
            raise ValueError("--resume continues what a folder has: say which, --out FOLDER")
        return None
    held = out / "checkpoint"
    if not resume:
        if checkpoint.is_unfinished(held):
            raise ValueError(f"{out} has runs that are not done: add --resume, or delete {held}")
        checkpoint.discard(held)
    return store.prepare(out)


def _require_used(policies: Mapping[str, Policy], course: tasks.Course) -> None:
    """Warns of rules that address nothing in the training step.

    Raises:
        ValueError: if all of a policy do.
    """
    params, states = jax.eval_shape(course.init, jax.random.key(0))
    batch = jax.eval_shape(course.batches, 0, jax.random.key(0))
    seen = set()
    for made in policies.values():
        kind = tuple(str(rule.select) for rule in made.rules)
        if kind in seen:
            continue
        seen.add(kind)
        found = made.explain(course.step, params, states, batch, params=0, states=1)
        unused = [found.rules[n] for n in found.unused]
        if len(unused) == len(found.rules):
            raise ValueError(
                f"no rule of {'; '.join(unused)!r} addresses anything in {course.task.name}"
            )
        for rule in unused:
            text = f"rule {rule!r} addresses nothing in {course.task.name}"
            show(Text(text, style="yellow"))


@contextmanager
def _progress() -> Iterator:
    """What tells how many steps are done, by a bar on the error stream."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("compiling", total=None)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, description="training"
        )


# --- what is shown --------------------------------------------------------------------------


def loss_table(found: Sequence[Curve], unit: str) -> Table:
    """Curves as a table with a row for each name, of the runs that did not diverge."""
    table = Table(title=f"Losses in {unit}", header_style="bold")
    table.add_column("format", overflow="fold")
    for heading in ("training", "held out", "over seeds", "ratio to float32", "diverged at step"):
        table.add_column(heading, justify="right", no_wrap=True)
    by_name: dict[str, list[Curve]] = {}
    for curve in found:
        by_name.setdefault(curve.name, []).append(curve)
    plain = _mean([curve.heldout for curve in by_name[FLOAT32] if curve.diverged < 0])
    for name, some in by_name.items():
        well = [curve for curve in some if curve.diverged < 0]
        held = [curve.heldout for curve in well]
        ratio = _mean(held) / plain
        table.add_row(
            name,
            _shown(_mean([curve.final for curve in well])),
            _shown(_mean(held)),
            f"± {np.std(held):.3f}" if len(held) > 1 else "",
            Text(_shown(ratio), style="green" if ratio < 1.01 else ""),
            _diverged(some),
        )
    return table


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _diverged(some: Sequence[Curve]) -> Text:
    """The steps at which runs diverged; of several seeds also whose."""
    gone = [curve for curve in some if curve.diverged >= 0]
    words = [
        f"{curve.diverged}" + (f" (seed {curve.seed})" if len(some) > 1 else "") for curve in gone
    ]
    return Text(", ".join(words), style="red")


def _save_curves(folder: Path, found: Sequence[Curve], title: str) -> str:
    if not picture.available():
        return NO_PICTURE
    draw(folder / "training.png", found, title)
    return str(folder / "training.png")


def draw(path: Path, found: Sequence[Curve], title: str) -> None:
    """The losses of runs over their steps, a colour for each name, a cross where one diverged.

    Raises:
        ImportError: without matplotlib.
        OSError: if the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = list(dict.fromkeys(curve.name for curve in found))
    colours = {
        name: "black" if name == FLOAT32 else colormaps["turbo"](n / max(len(names) - 1, 1))
        for n, name in enumerate(names)
    }
    told = set()
    for curve in found:
        label = None if curve.name in told else curve.name
        told.add(curve.name)
        smooth = _smooth(curve.losses)
        axis.plot(smooth, color=colours[curve.name], label=label, linewidth=1.2, zorder=2)
        if curve.diverged >= 0:
            last = smooth[np.isfinite(smooth)]
            axis.plot(curve.diverged, last[-1] if len(last) else 0, "x", color=colours[curve.name])
    finite = np.concatenate(
        [_smooth(curve.losses) for curve in found if curve.diverged < 0] or [[1]]
    )
    if np.nanmin(finite) > 0:
        axis.set_yscale("log")
        axis.set_ylim(0.9 * np.nanmin(finite), 1.3 * np.nanmax(finite))
    axis.set_xlabel("step")
    axis.set_ylabel(title).set_parse_math(False)
    axis.grid(alpha=0.3, which="both")
    for text in axis.legend(fontsize=8, ncols=max(1, len(names) // 12)).get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=130)


def _smooth(losses: np.ndarray) -> np.ndarray:
    """The mean over the steps around, fewer at the ends; steps that were not done stay out."""
    reach = max(1, len(losses) // 50)
    done = np.flatnonzero(np.isfinite(losses))
    found = np.full(len(losses), np.nan)
    for n in done:
        found[n] = np.nanmean(losses[max(0, n - reach) : n + reach + 1].clip(max=3e38))
    return found
