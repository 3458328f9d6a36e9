"""Greedy transcription: the likeliest token, step by step, with a cache of keys and values."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.whisper_tiny import files, tokenizer
from models.whisper_tiny.audio import log_mel
from models.whisper_tiny.model import Cache, Config, start, step
from models.whisper_tiny.tokenizer import END, PROMPT

LIMIT = 224  # tokens, half of the context, as in openai/whisper


def transcribe(variables: Any, signal_N: np.ndarray) -> str:
    """Returns the words in the first thirty seconds of a signal, float32, 16,000 samples a second.

    Raises FileNotFoundError, with the remedy, when the package of the vocabulary is missing.
    """
    text_BxN = greedy(variables, jnp.asarray(log_mel(signal_N))[None])
    return tokenizer.read(files.vocabulary()).decode(np.asarray(text_BxN[0])).strip()


@functools.partial(jax.jit, static_argnames=("limit", "config"))
def greedy(
    variables: Any, mel_BxTxC: jax.Array, limit: int = LIMIT, config: Config = Config()
) -> jax.Array:
    """Returns the tokens of the text after the prompt, int32 [B, limit], END after its end."""
    prompt_BxL = jnp.broadcast_to(jnp.array(PROMPT, jnp.int32), (len(mel_BxTxC), len(PROMPT)))
    length = len(PROMPT) + limit
    logits_BxLxV, cache = start(variables, prompt_BxL, mel_BxTxC, length=length, config=config)
    text_BxN = jnp.full((len(mel_BxTxC), limit), END, jnp.int32)

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array, Cache]) -> jax.Array:
        count, next_B, _, _ = state
        return (count < limit) & (next_B != END).any()

    def advance(state: tuple[jax.Array, jax.Array, jax.Array, Cache]) -> tuple:
        count, next_B, text_BxN, cache = state
        text_BxN = jax.lax.dynamic_update_slice(text_BxN, next_B[:, None], (0, count))
        position = len(PROMPT) + count
        logits_Bx1xV, cache = step(variables, next_B[:, None], cache, position, config=config)
        following_B = jnp.where(next_B == END, END, likeliest(logits_Bx1xV[:, -1]))
        return count + 1, following_B, text_BxN, cache

    first = (jnp.int32(0), likeliest(logits_BxLxV[:, -1]), text_BxN, cache)
    return jax.lax.while_loop(unfinished, advance, first)[2]


def likeliest(logits_BxV: jax.Array) -> jax.Array:
    """Returns the token with the largest logit, int32 [B], among those of text and END."""
    return jnp.argmax(logits_BxV[:, : END + 1], axis=-1).astype(jnp.int32)


def word_errors(heard: str, said: str) -> tuple[int, int]:
    """Returns (the fewest words to change, leave out or put in to get what was said, its words).

    Case and punctuation do not count. The quotient of the two is the word error rate.
    """
    heard_words, said_words = words(heard), words(said)
    distance = list(range(len(said_words) + 1))  # from the words heard so far to the first n said
    for i, word in enumerate(heard_words):
        diagonal, distance[0] = distance[0], i + 1
        for n, other in enumerate(said_words):
            best = min(distance[n + 1] + 1, distance[n] + 1, diagonal + (word != other))
            diagonal, distance[n + 1] = distance[n + 1], best
    return distance[-1], len(said_words)


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without what is not a letter, digit or space."""
    kept = (
        c if c.isalnum() or c.isspace() else "" if c in "'\u2019" else " " for c in text.lower()
    )
    return "".join(kept).split()
