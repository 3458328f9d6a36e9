"""What reproductions have in common: training a task under policies, and findings to be stored."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import lax

import qsim
from benchmarks import record
from models.task import Task
from qsim.training.sweep import Runs, train_sweep

RESULTS = record.RESULTS / "papers"


def trainer(
    loss: Callable,
    optimizer: optax.GradientTransformation,
    init: Callable,
    measure: Callable | None = None,
):
    """What ``train_sweep`` takes: ``init(key)`` and ``step(weights, states, batch)``.

    ``measure(weights, batch)`` returns a dict of further metrics, before the step.
    """

    def start(key):
        weights = init(key)
        return weights, optimizer.init(weights)

    def step(weights, states, batch):
        value, slope = jax.value_and_grad(loss)(weights, batch)
        updates, states = optimizer.update(slope, states, weights)
        metrics = {} if measure is None else measure(weights, batch)
        return optax.apply_updates(weights, updates), states, {"loss": value, **metrics}

    return start, step


def heldout_loss(task: Task, loss: Callable | None = None) -> Callable:
    """``evaluate(weights, states)`` of the mean loss of a task's held-out batches."""

    def evaluate(weights, states):
        losses = lax.map(lambda batch: (loss or task.loss)(weights, batch), task.heldout)
        return {"heldout": losses.mean()}

    return evaluate


def trained(
    task: Task,
    policies: Sequence[Any],
    *,
    seeds: Sequence[int],
    steps: int,
    optimizer: optax.GradientTransformation | None = None,
    measure: Callable | None = None,
    way: tuple[Callable, Callable] | None = None,
    **options: Any,
) -> Runs:
    """The task trained under every policy from every seed, Adam by default; see ``heldout``.

    ``measure`` is that of ``trainer``, ``way`` takes the place of what that gives; options are
    those of ``train_sweep``.
    """
    adam = optax.adam(task.rate)
    start, step = way or trainer(task.loss, optimizer or adam, task.init, measure)
    return train_sweep(
        start,
        step,
        policies,
        batches=lambda number, key: task.draw(key),
        seeds=list(seeds),
        steps=steps,
        **{"evaluate": heldout_loss(task), **options},
    )


def run(way: tuple[Callable, Callable], draw: Callable, steps: int, key: jax.Array) -> tuple:
    """The weights after some steps of what ``trainer`` gives, and the metrics of every step.

    Under no policy, and for ``jit``: what the step closes over may be traced.
    """
    start, step = way

    def once(state, number):
        weights, states, metrics = step(*state, draw(jax.random.fold_in(key, number)))
        return (weights, states), metrics

    (weights, _), metrics = lax.scan(once, start(key), np.arange(steps))
    return weights, metrics


def layers_by(products: Mapping[type, Callable]) -> AbstractContextManager:
    """A context in which layers of Flax compute ``product(x, kernel)``, to which a bias is added.

    ``products`` has a function for each class of layers, such as ``nn.Dense``.
    """

    def multiplied(following, args, options, context):
        layer = context.module
        if type(layer) not in products:
            return following(*args, **options)
        kernel, bias = (layer.get_variable("params", name) for name in ("kernel", "bias"))
        y = products[type(layer)](*args, kernel)
        return y if bias is None else y + bias

    return nn.intercept_methods(multiplied)


def heldout(runs: Runs) -> np.ndarray:
    """The held-out losses ``[policies, seeds]``; infinite for runs that diverged."""
    losses = np.asarray(runs.evaluated["heldout"], np.float64)
    return np.where((runs.diverged >= 0) | ~np.isfinite(losses), np.inf, losses)


def rounded(tree: Any, fmt: Any) -> Any:
    """Every array of a tree on a format, to nearest, with the infinities of IEEE 754."""
    return jax.tree.map(lambda x: qsim.quantize(x, fmt, overflow="ieee"), tree)


def reproduce(name: str, doc: str, measured: Callable[..., dict[str, Any]], **sizes: int) -> None:
    """Runs a reproduction with sizes that options can change, prints what is found, stores it.

    Args:
        name: of the paper.
        doc: the script's docstring, whose first line is the claim.
        measured: takes the sizes, returns sections and targets.
        sizes: the options and their defaults.
    """
    parser = argparse.ArgumentParser(description=record.claim(doc))
    for option, default in sizes.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the data file")
    options = parser.parse_args()
    options.repeats, options.plain_allocator = 1, True
    given = {option: getattr(options, option) for option in sizes}
    record.run(name, doc, options, lambda: {"absent": [], **measured(**given)}, **given)


def findings(title: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A section whose columns are the keys of its first row."""
    return record.section(title, {key: key for key in rows[0]}, list(rows))


def table(title: str, columns: dict[str, Iterable[Any]]) -> dict[str, Any]:
    """A section of columns by heading, all of one length."""
    rows = zip(*columns.values(), strict=True)
    return findings(title, [dict(zip(columns, row, strict=True)) for row in rows])
