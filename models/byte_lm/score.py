"""Bits per byte of the byte model on a text of any length."""

import math
from typing import Any

import jax
import numpy as np
import optax

from models.byte_lm.model import Config, apply

BATCH = 8


def windows(text_N: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs, labels), int32 [W, length]: whole windows side by side, and their shift.

    Every byte of the text is a label at most once; what does not fill a window is left out.
    """
    count = (text_N.size - 1) // length
    cut = text_N[: count * length + 1].astype(np.int32)
    return cut[:-1].reshape(count, length), cut[1:].reshape(count, length)


@jax.jit
def nats(variables: Any, input_BxL: jax.Array, label_BxL: jax.Array) -> jax.Array:
    """Returns -ln p(label), float32 [B, L]."""
    logits_BxLxV = apply(variables, input_BxL)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, label_BxL)


def bits_per_byte(variables: Any, text_N: np.ndarray) -> float:
    """Returns the mean of -log2 p(next byte) over `text_N` (uint8 [N]) in windows of 256.

    Windows start afresh, so the model sees 128 bytes of context on average.
    """
    input_WxL, label_WxL = windows(text_N, Config().context)
    if len(input_WxL) == 0:
        raise ValueError(f"{text_N.size} bytes do not fill one window of {Config().context} + 1")
    cuts = range(BATCH, len(input_WxL), BATCH)
    batches = zip(np.split(input_WxL, cuts), np.split(label_WxL, cuts), strict=True)
    total = sum(float(nats(variables, inputs, labels).sum()) for inputs, labels in batches)
    return total / label_WxL.size / math.log(2)
