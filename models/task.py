"""What a task is: a model that is trained from scratch, with its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Task(NamedTuple):
    """Something to train: fresh weights, a loss, and batches to train and to judge it on.

    - `name` is one word, for tables and file names.
    - `init(key)` returns weights, a pytree of float32 arrays.
    - `loss(weights, batch)` returns one number, float32: the mean loss of a batch. It is pure.
    - `draw(key)` returns a batch of the training data. It can be traced.
    - `heldout` is data that is not trained on: a pytree of arrays `[batches, ...]`, of which
      `jax.tree.map(lambda x: x[i], heldout)` is a batch.
    - `unit` says what the loss is, and `scale` by what it is multiplied to be in that unit.
    - `rate` and `steps` are a peak learning rate of AdamW and a number of steps that are enough to
      see learning in float32.

    Any object with these attributes is a task.
    """

    name: str
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    draw: Callable[[jax.Array], Any]
    heldout: Any
    unit: str
    scale: float
    rate: float
    steps: int
