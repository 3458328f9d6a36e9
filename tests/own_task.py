"""A task as a user would write it: learn which arm of a spiral a point lies on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.own_subject import Spiral, points


class Task(NamedTuple):
    name: str
    init: Any
    loss: Any
    draw: Any
    heldout: Any
    unit: str
    scale: float
    rate: float
    steps: int


def task() -> Task:
    model = Spiral()
    inputs, arms = (jnp.asarray(x, t) for x, t in zip(points(512, seed=1), "fi", strict=True))
    heldout = (jnp.asarray(x, t) for x, t in zip(points(128, seed=2), "fi", strict=True))

    def loss(variables, batch):
        point, arm = batch
        logits = model.apply(variables, point)
        return optax.softmax_cross_entropy_with_integer_labels(logits, arm).mean()

    def draw(key):
        which = jax.random.randint(key, (32,), 0, len(inputs))
        return inputs[which], arms[which]

    return Task(
        name="spiral",
        init=lambda key: model.init(key, jnp.zeros((1, 2))),
        loss=loss,
        draw=draw,
        heldout=tuple(x.reshape(2, 64, *x.shape[1:]) for x in heldout),
        unit="nats",
        scale=1.0,
        rate=0.03,
        steps=30,
    )


class Nothing:
    """No task: it has a loss and nothing else."""

    loss = None


nothing = Nothing()
