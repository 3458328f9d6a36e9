r"""Text to tokens: byte-pair encoding over bytes, as SmolLM2 was trained with.

A text is cut into words, a word into bytes, and the bytes of a word are joined pair by pair, always
the pair that stands earliest in the list of merges, until no pair stands there. Words are

- one digit each (whatever Unicode calls a number), and between digits
- the endings 's 't 're 've 'm 'll 'd, letters, or other characters, the latter two with one space
  before them, and white space, whose last character goes to a word that follows.

In the vocabulary a byte is written as one printable character: itself if it is one in Latin-1, else
one of those from U+0100 on.

Source: Sennrich et al. 2016, algorithm 1; Radford et al. 2019, section 2.2; the pattern and the
characters for bytes are those of GPT-2's encoder.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTERS = r"[^\W\d_]+"  # where there are no numbers, these are the characters of category L
OTHERS = rf"(?:[^\w{SPACE}]|_)+"
WORD = re.compile(
    rf"'(?:[stmd]|re|ve|ll)| ?{LETTERS}| ?{OTHERS}|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
)


class Tokenizer(NamedTuple):
    """The vocabulary, and the rank of every pair that is joined, in characters for bytes."""

    tokens: dict[str, int]
    ranks: dict[tuple[str, str], int]


def make(tokens: Sequence[str], merges: Sequence[str]) -> Tokenizer:
    """Returns the tokenizer of a vocabulary and of merges, each two tokens with a space between.

    Raises ValueError when a token occurs twice, or what a merge makes is no token.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError("a token occurs twice in the vocabulary")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    if missing := {left + right for left, right in pairs} - set(ids):
        raise ValueError(f"merges make {min(missing)!r}, which is no token")
    return Tokenizer(ids, {pair: rank for rank, pair in reversed([*enumerate(pairs)])})


def characters_for_bytes() -> str:
    """Returns the 256 characters that stand for bytes."""
    latin = [chr(byte) for byte in range(256)]
    shown = {c for c in latin if c.isprintable() and not c.isspace()}
    spare = iter(chr(256 + i) for i in range(256))
    return "".join(c if c in shown else next(spare) for c in latin)


BYTES = characters_for_bytes()


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Returns the tokens of a text, int32 [N], without any that marks a beginning or an end.

    Raises ValueError for a byte without a token; SmolLM2 lacks 21, all rare, such as 0x04.
    """
    known: dict[str, list[int]] = {}
    found: list[int] = []
    for word in words(text):
        if word not in known:
            known[word] = encode_word(tokenizer, word)
        found += known[word]
    return np.array(found, np.int32)


def encode_word(tokenizer: Tokenizer, word: str) -> list[int]:
    """Returns the tokens of one word."""
    pieces = join(tokenizer, [BYTES[byte] for byte in word.encode()])
    for piece in pieces:
        if piece not in tokenizer.tokens:
            raise ValueError(f"there is no token for byte 0x{BYTES.index(piece):02x}")
    return [tokenizer.tokens[piece] for piece in pieces]


def words(text: str) -> Iterator[str]:
    """Yields the words of a text, which are the text when put together."""
    start = 0
    for end in [i for i, c in enumerate(text) if unicodedata.category(c)[0] == "N"]:
        yield from WORD.findall(text[start:end])
        yield text[end]
        start = end + 1
    yield from WORD.findall(text[start:])


def join(tokenizer: Tokenizer, pieces: list[str]) -> list[str]:
    """Returns the pieces of one word when no pair of neighbours is left that merges."""
    never = len(tokenizer.ranks)
    while len(pieces) > 1:
        ranks = [tokenizer.ranks.get(pair, never) for pair in pairwise(pieces)]
        best = min(ranks)
        if best == never:
            break
        place = ranks.index(best)
        pieces = [*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :]]
    return pieces


def count_bytes(tokenizer: Tokenizer, token_N: np.ndarray) -> int:
    """Returns how many bytes of text the tokens stand for."""
    lengths = np.array([len(token) for token in tokenizer.tokens])
    return int(lengths[token_N].sum())
