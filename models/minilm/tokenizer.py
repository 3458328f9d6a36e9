"""Text to tokens: BERT's rules for uncased English, and the longest pieces of a vocabulary.

A text is cleaned of control characters, taken apart into letters and accents, which are dropped,
and put in lower case. It is split at white space, and around every punctuation mark and Chinese
character. Each word is then read from the left: the longest piece in the vocabulary that fits, and
again from where it ends, where pieces are written with ## in front. A word that cannot be read to
its end is one unknown token.

Sources: Devlin et al. 2019, section 3; Wu et al. 2016, section 4.1 (the pieces).
"""

import json
import string
import unicodedata
from pathlib import Path
from typing import NamedTuple

LIMIT = 8 << 20  # bytes of the file
WORD_LIMIT = 100  # characters
CHINESE = (  # first and last characters of the blocks of ideographs
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Tokenizer(NamedTuple):
    """The vocabulary: pieces and their tokens, the special ones among them."""

    vocabulary: dict[str, int]

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text between [CLS] and [SEP].

        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "##ab", "!"]
        >>> Tokenizer({piece: n for n, piece in enumerate(pieces)}).encode("Unable? UN!")
        [2, 4, 5, 1, 4, 7, 3]
        """
        pieces = [piece for word in words(text) for piece in self.split(word)]
        return [self.vocabulary[piece] for piece in ("[CLS]", *pieces, "[SEP]")]

    def split(self, word: str) -> list[str]:
        """Returns the pieces of a word, or the unknown one."""
        pieces, start = [], 0
        while start < len(word) <= WORD_LIMIT:
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            fits = (end for end in ends if prefix + word[start:end] in self.vocabulary)
            end = next(fits, None)
            if end is None:
                return ["[UNK]"]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces or ["[UNK]"]


def read(path: Path) -> Tokenizer:
    """Returns the tokenizer of a `tokenizer.json`.

    Raises ValueError when the file is no uncased WordPiece tokenizer, or too large.
    """
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path.name}: larger than {LIMIT} bytes")
    try:
        found = json.loads(path.read_text("utf-8"))
        model, normalizer = found["model"], found["normalizer"]
        vocabulary = model["vocab"]
        kind = (model["type"], model["continuing_subword_prefix"], normalizer["type"])
        if kind != ("WordPiece", "##", "BertNormalizer") or normalizer["lowercase"] is not True:
            raise ValueError("not an uncased WordPiece tokenizer of BERT's")
        missing = [piece for piece in SPECIAL if piece not in vocabulary]
        if missing or {*vocabulary.values()} != {*range(len(vocabulary))}:
            raise ValueError("the vocabulary does not count from 0, or lacks a special token")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return Tokenizer(vocabulary)


def words(text: str) -> list[str]:
    """Returns words, punctuation marks and Chinese characters of a text, in lower case.

    >>> words("Naïve, isn't it?")
    ['naive', ',', 'isn', "'", 't', 'it', '?']
    """
    kept = (c for c in text if not is_control(c))
    spaced = "".join(f" {c} " if is_chinese(c) else c for c in kept)
    letters = (c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    plain = "".join(letters).lower()
    return "".join(f" {c} " if is_punctuation(c) else c for c in plain).split()


def is_control(c: str) -> bool:
    """Whether a character is dropped: controls other than white space, and private characters."""
    hidden = unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") or c == "\N{REPLACEMENT CHARACTER}"
    return hidden and c not in "\t\n\r"


def is_chinese(c: str) -> bool:
    """Whether a character is an ideograph, which is a word by itself."""
    return any(first <= ord(c) <= last for first, last in CHINESE)


def is_punctuation(c: str) -> bool:
    """Whether a character is punctuation in Unicode's sense, or an ASCII symbol such as $ or +."""
    return c in string.punctuation or unicodedata.category(c).startswith("P")
