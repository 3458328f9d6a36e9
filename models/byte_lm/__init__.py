"""A byte-level language model trained on State of the Union speeches, and speeches it never saw.

The weights and the held-out text are in this folder; `train` makes both again.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from models.byte_lm.model import Config, apply
from models.byte_lm.score import windows
from models.subject import Subject

HERE = Path(__file__).parent
BATCHES, BATCH = 8, 4


def load_variables(path: Path = HERE / "weights.safetensors") -> dict[str, Any]:
    """Returns {"params": ...} in float32, as `ByteLM` names them."""
    flat = {name: jnp.asarray(array) for name, array in load_file(path).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def heldout() -> np.ndarray:
    """Returns the bytes of the held-out text, uint8 [N]."""
    return np.frombuffer((HERE / "heldout.txt").read_bytes(), np.uint8)


@functools.cache
def subject() -> Subject:
    """Returns the subject: 32 windows of 256 bytes spread evenly over the held-out text.

    `inputs` and `labels` are int32 [8, 4, 256]; a label is the byte that follows.
    """
    length = Config().context
    inputs_WxL, labels_WxL = windows(heldout(), length)
    stride = len(inputs_WxL) // (BATCHES * BATCH)
    chosen = slice(0, BATCHES * BATCH * stride, stride)
    return Subject(
        name="byte_lm",
        apply=apply,
        variables=load_variables(),
        inputs=jnp.asarray(inputs_WxL[chosen]).reshape(BATCHES, BATCH, length),
        labels=jnp.asarray(labels_WxL[chosen]).reshape(BATCHES, BATCH, length),
        score="bits_per_byte",
    )
