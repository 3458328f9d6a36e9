"""What a subject is: a model with its weights, and data to judge it on."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Score = Literal["bits_per_byte", "perplexity", "top1"]


class Subject(NamedTuple):
    """A model whose numerics can be studied: a pure function, its weights, and labelled data.

    - `name` is one word, for tables and file names.
    - `apply(variables, inputs)` returns logits `[..., classes]` in float32. It is pure, takes one
      batch, and can be jitted.
    - `variables` is a pytree of float32 arrays; for a Linen model the dict that `init` returns.
    - `inputs` has shape `[batches, batch, ...]`, and `inputs[i]` is what `apply` takes.
    - `labels` is int32 `[batches, batch, ...]`; `labels[i]` has the shape of the logits of
      `inputs[i]` without their last axis.
    - `score` says how logits are judged: "bits_per_byte" is the mean of -log2 softmax(logits) at
      the label, a byte; "perplexity" is the exponential of the mean of -ln softmax(logits) at the
      label, a token; "top1" is the share of labels whose logit is the largest.

    Any object with these attributes is a subject; this type is a convenience. A module names its
    subject by a function without arguments, so that it can be written `package.module:subject`.
    """

    name: str
    apply: Callable[..., Any]
    variables: Any
    inputs: jax.Array
    labels: jax.Array
    score: Score
