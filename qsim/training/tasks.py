"""Tasks: models to train from scratch, with their data, named ``package.module:attribute``.

Any object with the attributes of ``Task`` is one; the attribute may also be a function without
arguments that returns it. The bundled ones have short names.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import optax
from jax import lax

from qsim.sweeps.subject import found_at

__all__ = ["BUNDLED", "Course", "Task", "course", "load", "optimizer"]

BUNDLED = {"byte_lm": "models.byte_lm.task:task", "digits": "models.digits:task"}


@runtime_checkable
class Task(Protocol):
    """What a task has.

    Attributes:
        name: one word, for tables and file names.
        init: ``init(key)`` returns weights, a tree of float32 arrays.
        loss: ``loss(weights, batch)`` returns one number, the mean loss of a batch.
        draw: ``draw(key)`` returns a batch of the training data; it is traced.
        heldout: a tree of arrays ``[batches, ...]`` that are not trained on.
        unit, scale: what the loss is called, and by what it is multiplied to be that.
        rate, steps: a peak learning rate of AdamW, and a number of steps.
    """

    name: str
    init: Callable[..., Any]
    loss: Callable[..., Any]
    draw: Callable[..., Any]
    heldout: Any
    unit: str
    scale: float
    rate: float
    steps: int


def load(name: str) -> Task:
    """The task of a name, ``package.module:attribute`` or that of a bundled one.

    Raises:
        ValueError: if the name names none.

    >>> load("digit")
    Traceback (most recent call last):
    ValueError: task 'digit' has no attribute part: write package.module:attribute, for example \
models.byte_lm.task:task, or byte_lm or digits
    """
    example = BUNDLED["byte_lm"]
    found = found_at(
        BUNDLED.get(name, name), "task", f"{example}, or {' or '.join(BUNDLED)}", "loss"
    )
    missing = [word for word in Task.__annotations__ if not hasattr(found, word)]
    if missing:
        raise ValueError(f"{name} is no task: it lacks {', '.join(missing)}")
    return found


class Course:
    """How a task is trained: the functions that ``train_sweep`` takes.

    ``init(key)``, ``step(params, states, batch)``, ``batches(number, key)`` and
    ``evaluate(params, states)``, which gives the mean loss of the held-out data; losses are in the
    task's unit.
    """

    def __init__(self, task: Task, optimizer: optax.GradientTransformation):
        self.task, self.optimizer = task, optimizer

    def init(self, key):
        params = self.task.init(key)
        return params, self.optimizer.init(params)

    def step(self, params, states, batch):
        loss, slope = jax.value_and_grad(self.task.loss)(params, batch)
        change, states = self.optimizer.update(slope, states, params)
        params = optax.apply_updates(params, change)
        return params, states, {"loss": loss * self.task.scale}

    def batches(self, number, key):
        return self.task.draw(key)

    def evaluate(self, params, states):
        losses = lax.map(lambda batch: self.task.loss(params, batch), self.task.heldout)
        return {"loss": losses.mean() * self.task.scale}


def optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with a linear warm-up, a cosine decay to a tenth, and gradients clipped to norm 1."""
    warmup = min(100, max(1, steps // 10))
    schedule = optax.warmup_cosine_decay_schedule(
        rate / warmup, rate, warmup, max(steps, 2), rate / 10
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))


def course(task: Task, *, rate: float | None = None, steps: int | None = None) -> Course:
    """The course of a task, with its own learning rate and steps or with others."""
    return Course(task, optimizer(rate or task.rate, steps or task.steps))
