"""What a rule of a policy addresses: selectors, and their text form.

A selector is written as words, in any order; every word narrows it down:

- a path: a regular expression that matches the whole path of an operation, such as ``.*mlp.*``;
  where it could be taken for another word it is written ``path:add``;
- a class of operations (``contraction``, ``elementwise``, ``function``, ``reduction``,
  ``collective``, ``transform``), a primitive such as ``dot_general``, or ``all``;
- a direction: ``forward``, ``backward`` (the whole pass), ``input_gradient``, ``weight_gradient``
  or ``update``;
- a dtype, such as ``bfloat16:`` with a colon behind it;
- what is rounded: ``operands``, or those of one role (``weights``, ``activations``, ``gradients``,
  ``states``, ``caches``); ``outputs``, the results of contractions; ``accumulators``, how they add
  up products; or ``stored``, what the program is given, and writes into caches. Without such a word
  it is results.

Operands are those of contractions unless a class, a primitive or ``all`` is named; results without
one are those of every operation. ``weights`` includes what depends on no argument, ``activations``
includes what is read from caches.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from qsim.numbers.modes import suggest
from qsim.numbers.records import shown
from qsim.simulate.primitives import ROUNDED, known
from qsim.simulate.program import DIRECTIONS
from qsim.simulate.slots import Slot

__all__ = ["Selector"]

ROLE_WORDS = {
    "weights": "weight",
    "activations": "activation",
    "gradients": "gradient",
    "states": "state",
    "caches": "cache",
}
PARTS: dict[str, dict[str, str | None]] = {
    "operands": {"part": "operand"},
    "outputs": {"part": "result", "operation": "contraction"},
    "accumulators": {"part": "accumulator", "operation": "contraction"},
    "stored": {"part": "stored"},
    "all": {"operation": None},
}
INCLUDED = {"weight": ("weight", "constant"), "activation": ("activation", "cache")}
BACKWARD = ("backward", "input_gradient", "weight_gradient")
DTYPES = ("float16", "bfloat16", "float32", "float64")
WORDS = (*ROLE_WORDS, *PARTS, *DIRECTIONS, *ROUNDED)
NAME = re.compile("[A-Za-z_-]+")
MAX_PATH = 500  # letters


@dataclass(frozen=True, kw_only=True)
class Selector:
    """What a rule addresses; None is anything.

    Attributes:
        path: a regular expression for the whole of a path.
        operation: a class or a primitive.
        direction: one of the directions of a program.
        dtype: of the value.
        part: ``operand``, ``accumulator``, ``result`` or ``stored``.
        role: of an operand or of what is stored.

    Raises:
        ValueError: for a path that is no regular expression, and for unknown words.
    """

    path: str | None = None
    operation: str | None = None
    direction: str | None = None
    dtype: str | None = None
    part: str = "result"
    role: str | None = None

    def __post_init__(self):
        if self.path is not None:
            _compiled(self.path)
        for name, value, words in (
            ("operation", self.operation, (*ROUNDED, *known)),
            ("direction", self.direction, DIRECTIONS),
            ("dtype", self.dtype, DTYPES),
            ("part", self.part, ("operand", "accumulator", "result", "stored")),
            ("role", self.role, tuple(ROLE_WORDS.values())),
        ):
            if value is not None and value not in words:
                raise ValueError(f"no {name} {shown(value)}; {suggest(str(value), list(words))}")

    def matches(self, slot: Slot) -> bool:
        """Whether a slot is addressed; what hides its numbers only where it is named."""
        hidden = slot.kind in ("opaque", "unknown")
        return (
            (not hidden or self.operation == slot.primitive)
            and self.part == slot.part
            and (self.role is None or slot.role in INCLUDED.get(self.role, (self.role,)))
            and self.operation in (None, slot.kind, slot.primitive)
            and self._is_direction(slot.direction)
            and self.dtype in (None, slot.dtype)
            and (self.path is None or bool(_compiled(self.path).fullmatch(slot.path)))
        )

    def _is_direction(self, direction: str) -> bool:
        wanted = BACKWARD if self.direction == "backward" else (self.direction,)
        return self.direction is None or direction in wanted

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """The selector that words stand for.

        Raises:
            ValueError: for words that contradict each other.

        >>> Selector.parse("decoder/.* weights input_gradient")
        Selector(path='decoder/.*', operation='contraction', direction='input_gradient', \
dtype=None, part='operand', role='weight')
        """
        said: dict[str, Any] = {}
        for word in text.split():
            for key, value in _meaning(word).items():
                if said.setdefault(key, value) != value:
                    raise ValueError(f"{shown(text)} says twice what {key} it is for: {word!r}")
        part = said.setdefault("part", "operand" if "role" in said else "result")
        if part in ("result", "accumulator") and "role" in said:
            raise ValueError(f"{shown(text)}: {part}s are of every role; drop the word for it")
        if part == "stored" and said.get("role") in ("activation", "gradient"):
            raise ValueError(f"{shown(text)}: stored are weights, states and caches")
        if part == "operand":
            said.setdefault("operation", "contraction")
        return cls(**said)

    def __str__(self) -> str:
        words: list[str | None] = [self.path]
        if self.path and not _is_path(self.path):
            words = [f"path:{self.path}"]
        words += [self.direction, self.dtype and f"{self.dtype}:"]
        role = next((word for word, role in ROLE_WORDS.items() if role == self.role), None)
        if self.part == "operand":
            if self.operation != "contraction":
                words.append(self.operation or "all")
            words.append(role or "operands")
        elif self.part == "accumulator":
            words += [self.operation if self.operation != "contraction" else None, "accumulators"]
        elif self.part == "stored":
            words += [self.operation, "stored", role]
        else:
            words.append(self.operation)
        return " ".join(filter(None, words)) or "all"


def _meaning(word: str) -> dict[str, str | None]:
    """The fields of a selector that a word sets."""
    if word in ROLE_WORDS:
        return {"role": ROLE_WORDS[word]}
    if word in PARTS:
        return PARTS[word]
    if word in ROUNDED or word in known:
        return {"operation": word}
    if word in DIRECTIONS:
        return {"direction": word}
    if word.endswith(":") and word[:-1] in DTYPES:
        return {"dtype": word[:-1]}
    if word == "path:":
        raise ValueError("a path pattern is empty: write path:PATTERN, or leave it out")
    if word in DTYPES:
        raise ValueError(f"a dtype is written with a colon behind it: {word}:")
    if NAME.fullmatch(word) and (
        near := difflib.get_close_matches(word.lower(), WORDS, n=1, cutoff=0.8)
    ):
        raise ValueError(
            f"no word {word!r} for what a rule addresses; did you mean {near[0]!r}? A path of that "
            f"name is written path:{word}"
        )
    return {"path": word.removeprefix("path:")}


def _is_path(word: str) -> bool:
    """Whether a word by itself is read as a path."""
    try:
        return _meaning(word) == {"path": word}
    except ValueError:
        return False


@cache
def _compiled(path: str) -> re.Pattern:
    if len(path) > MAX_PATH:
        raise ValueError(f"a path pattern has at most {MAX_PATH} letters, this one {len(path)}")
    try:
        return re.compile(path)
    except (re.error, OverflowError) as error:
        raise ValueError(f"path pattern {shown(path)} is no regular expression: {error}") from None
