"""A small byte model, trained from scratch on the text that is in this folder.

The text is the held-out one of the trained model: here its first part is trained on, and the rest,
speeches of later years, is what the loss is taken of.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.byte_lm import heldout
from models.byte_lm.model import ByteLM, Config
from models.byte_lm.score import windows
from models.task import Task

SMALL = Config(context=64, layers=2, heads=2, head_width=32)
BATCH = 8
SHARE = 0.9  # of the text is trained on


@functools.cache
def task(config: Config = SMALL, batch: int = BATCH) -> Task:
    """Returns the task: windows of 64 bytes and the byte after them, in batches of 8."""
    text_N, length = heldout(), config.context
    cut = int(SHARE * text_N.size)
    model, train_N = ByteLM(config), text_N[:cut].astype(np.int32)
    inputs_WxL, labels_WxL = windows(text_N[cut:], length)
    count = len(inputs_WxL) // batch

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, length), jnp.int32))

    def loss(variables: Any, window: tuple[jax.Array, jax.Array]) -> jax.Array:
        input_BxL, label_BxL = window
        logits_BxLxV = model.apply(variables, input_BxL)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, label_BxL).mean()

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_B = jax.random.randint(key, (batch,), 0, cut - length)
        window_BxL1 = jnp.asarray(train_N)[start_B[:, None] + np.arange(length + 1)]
        return window_BxL1[:, :-1], window_BxL1[:, 1:]

    return Task(
        name="byte_lm",
        init=init,
        loss=loss,
        draw=draw,
        heldout=tuple(
            each_WxL[: count * batch].reshape(count, batch, length)
            for each_WxL in (inputs_WxL, labels_WxL)
        ),
        unit="bits per byte",
        scale=1 / math.log(2),
        rate=3e-3,
        steps=200,
    )
