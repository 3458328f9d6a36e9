"""The two recordings, as Whisper hears them, and what is said in them.

The texts are those of the books (Beckett, Worstward Ho, 1983; Dickens, A Tale of Two Cities, 1859)
with their punctuation, in today's case: nobody hears that Dickens wrote "Light" and "Heaven". The
second recording is longer than the thirty seconds that Whisper hears, and its text ends where they
do, in a pause.
"""

from typing import NamedTuple

import numpy as np

from models.whisper_tiny import files
from models.whisper_tiny.audio import log_mel, read_wav
from models.whisper_tiny.tokenizer import END, PROMPT

UNSCORED = -1


class Clip(NamedTuple):
    """A recording and the words in its first thirty seconds."""

    name: str
    said: str


CLIPS = (
    Clip("beckett.wav", "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."),
    Clip(
        "two_cities.wav",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
        "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was "
        "the season of light, it was the season of darkness, it was the spring of hope, it was the "
        "winter of despair, we had everything before us, we had nothing before us, we were all "
        "going direct to heaven, we were all going direct the other way.",
    ),
)


def signal(clip: Clip) -> np.ndarray:
    """Returns the recording, float32 [samples], 16,000 a second."""
    return read_wav(files.recording(clip.name))


def spectrogram(clip: Clip) -> np.ndarray:
    """Returns the log-mel spectrogram of the first thirty seconds, float32 [3000, 80]."""
    return log_mel(signal(clip))


def next_tokens(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (tokens, labels), int32 [texts, longest + 2]: the prompt, the text, and what follows.

    The text and its END are scored. What is within the prompt or behind END is not: there the label
    is -1, and behind the text the token is END.
    """
    length = len(PROMPT) + max(map(len, texts))
    tokens = np.full((len(texts), length), END, np.int32)
    labels = np.full((len(texts), length), UNSCORED, np.int32)
    for row, text in enumerate(texts):
        end = len(PROMPT) + len(text)
        tokens[row, :end] = [*PROMPT, *text]
        labels[row, len(PROMPT) - 1 : end] = [*text, END]
    return tokens, labels
