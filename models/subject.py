"""What a subject is: a model with its weights, and data to judge it on."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Score = Literal["bits_per_byte", "perplexity", "top1", "similarity"]


class Subject(NamedTuple):
    """A model whose numerics can be studied: a pure function, its weights, and labelled data.

    - `name` is one word, for tables and file names.
    - `apply(variables, inputs)` returns logits `[..., classes]` in float32, or embeddings
      `[batch, width]` where the score is "similarity". It is pure, takes one batch, and can be
      jitted.
    - `variables` is a pytree of float32 arrays; for a Linen model the dict that `init` returns.
    - `inputs` has shape `[batches, batch, ...]`, or is a pytree of arrays that each have;
      `jax.tree.map(lambda x: x[i], inputs)` is what `apply` takes.
    - `labels` is int32 `[batches, batch, ...]`; `labels[i]` has the shape of the logits of batch i
      without their last axis. A label of -1 is not scored. For "similarity" it is float32
      `[batches, batch, batch]`: what people say of the likeness of two inputs of a batch, NaN for
      pairs that nobody rated or that stand there already the other way round.
    - `score` says how answers are judged: "bits_per_byte" is the mean of -log2 softmax(logits) at
      the label, a byte; "perplexity" is exp of the mean of -ln softmax(logits) at the label;
      "top1" is the share of labels whose logit is the largest; "similarity" is Pearson's
      correlation of the cosines between embeddings with the labels.

    Any object with these attributes is a subject; this type is a convenience. A module names its
    subject by a function without arguments, so that it can be written `package.module:subject`.
    """

    name: str
    apply: Callable[..., Any]
    variables: Any
    inputs: Any
    labels: jax.Array
    score: Score
