"""Text to tokens and back: byte-level byte pair encoding, as in GPT-2.

A text is cut into words that keep the space before them. A word is UTF-8, one symbol a byte; then
the pair of neighbours that comes first in the list of merges becomes one symbol, again and again
until no pair is in the list. The file writes bytes as characters: printable ones of Latin-1 as
themselves, the others as the characters from U+0100 on, in order.

Sources: Radford et al. 2019, section 2.2; Sennrich et al. 2016.
"""

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

END, START, NO_TIMESTAMPS = 50_256, 50_257, 50_362
PROMPT = (START, NO_TIMESTAMPS)
FILE_LIMIT = 16 << 20  # bytes
WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
)  # GPT-2's, with numerals that are not decimal digits taken for letters


def byte_characters() -> dict[int, str]:
    """Returns the character that stands for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


class Tokenizer:
    """Encodes and decodes text with one vocabulary and its list of merges."""

    def __init__(self, vocabulary: dict[str, int], merges: Iterable[tuple[str, str]]):
        self.numbers = vocabulary
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.characters = byte_characters()
        byte = {character: byte for byte, character in self.characters.items()}
        self.content = {n: bytes(map(byte.__getitem__, text)) for text, n in vocabulary.items()}

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, special ones never among them."""
        return [self.numbers[symbol] for word in WORD.findall(text) for symbol in self.merge(word)]

    def merge(self, word: str) -> list[str]:
        """Returns the symbols of one word."""
        symbols = [self.characters[byte] for byte in word.encode()]
        while len(symbols) > 1:
            pairs = list(itertools.pairwise(symbols))
            first = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if first not in self.ranks:
                break
            symbols = join(symbols, first)
        return symbols

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of tokens; special ones leave no trace."""
        content = b"".join(self.content.get(int(token), b"") for token in tokens)
        return content.decode(errors="replace")


def join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Returns the symbols with every occurrence of the pair, from the left, made one."""
    joined = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def read(path: Path) -> Tokenizer:
    """Returns the tokenizer of a `tokenizer.json`.

    Raises ValueError when the file holds anything but byte-level pair encoding.
    """
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path.name}: larger than {FILE_LIMIT} bytes")
    try:
        model = json.loads(path.read_text("utf-8"))["model"]
        vocabulary = {text: checked(number, int) for text, number in model["vocab"].items()}
        merges = [pair(merge) for merge in model["merges"]]
        special = {"<|endoftext|>"}  # written in ASCII, and yet not these bytes
        return Tokenizer({t: n for t, n in vocabulary.items() if t not in special}, merges)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name}: not byte-level pair encoding: {error!r}") from error


def pair(merge: Any) -> tuple[str, str]:
    """Returns the two symbols of a merge, written with a space between them or as a list."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return checked(left, str), checked(right, str)


def checked(value: Any, kind: type) -> Any:
    """Returns the value if it is of the kind."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
