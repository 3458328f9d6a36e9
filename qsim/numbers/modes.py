"""The names of rounding modes and overflow policies, and what each of them means.

Rounding moves an exact number to one of the two neighbours that enclose it on the format's grid,
which is continued beyond the largest value with the same precision. Overflow then decides what
becomes of a result beyond the largest value. The two are independent choices.

A stochastic mode compares the fraction, in [0, 1), of the gap between the lower neighbour and the
number with a random integer R of n bits. With few bits its expectation is off by less than 2**-n of
a gap (``stochastic``, which errs toward zero) or by half of that at most (``_b`` and ``_c``);
``_equal`` ignores the fraction. A value of the format never moves, whatever R is.

Sources: IEEE 754-2019, 4.3 and 7.4; IEEE P3109 draft, projection and stochastic rounding A, B, C;
OCP OFP8 1.0, 5.2; Croci et al., Stochastic rounding: implementation, error analysis and
applications, R. Soc. Open Sci. 9 (2022), whose mode 2 is ``stochastic_equal``.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from qsim.numbers.records import shown

__all__ = ["OVERFLOWS", "ROUNDINGS", "Rounding", "require_one_of", "suggest"]

ROUNDINGS = {
    "ties_to_even": "nearest; a tie goes to the neighbour whose code is even",
    "ties_to_away": "nearest; a tie goes away from zero",
    "ties_to_zero": "nearest; a tie goes toward zero",
    "ties_to_odd": "nearest; a tie goes to the neighbour whose code is odd",
    "up": "toward +infinity",
    "down": "toward -infinity",
    "toward_zero": "the neighbour of smaller magnitude",
    "away_from_zero": "the neighbour of larger magnitude",
    "to_odd": "an inexact number goes to the neighbour whose code is odd (jamming)",
    "stochastic": "up in magnitude if floor(fraction * 2**n) + R >= 2**n, R uniform in 0..2**n-1",
    "stochastic_b": "up in magnitude if floor(fraction * 2**(n+1)) + 2*R + 1 >= 2**(n+1)",
    "stochastic_c": "up in magnitude if fraction * 2**n, rounded to nearest even, + R >= 2**n",
    "stochastic_equal": "an inexact number goes up or down in magnitude, with one half each",
}

OVERFLOWS = {
    "saturate": "the largest finite value, also for infinite input",
    "saturate_propagate": "as saturate, but infinite input stays infinite where the format can",
    "ieee": "infinity, or NaN without infinities, or the largest value without either; "
    "a directed mode that points inward gives the largest value",
    "p3109": "as ieee, but the largest value in a format without infinities, and NaN for what "
    "lies below zero in an unsigned format that has a NaN",
    "wrap": "the bits beyond the width are dropped, as two's complement does; for integers and "
    "fixed point that use all their codes; NaN for infinite input",
}

MAX_RANDOM_BITS = 32

LISTED = 20  # known words that a message lists


def suggest(word: str, known: list[str]) -> str:
    """A clause that names the known words nearest to ``word``, or else some of them."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return "known are " + ", ".join(known[:LISTED]) + more


def require_one_of(what: str, value: object, known: Iterable[str]) -> None:
    """Refuses what is not among the known names of something.

    Raises:
        ValueError: naming the near ones.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"no {what} {shown(value)}; {suggest(str(value)[:40], names)}")


class Rounding(NamedTuple):
    """A rounding mode, with the number of random bits that a stochastic mode draws, else 0."""

    mode: str
    random_bits: int = 0

    @property
    def is_stochastic(self) -> bool:
        """Whether the mode draws random bits."""
        return self.random_bits > 0

    @property
    def drops_least(self) -> bool:
        """Whether what is far less than half a gap rounds as zero does."""
        return self.mode.startswith("ties_") or self.mode == "toward_zero"

    @property
    def fraction_bits(self) -> int:
        """How many bits of a gap's fraction decide, besides whether there are more."""
        match self.mode:
            case "stochastic":
                return self.random_bits
            case "stochastic_b" | "stochastic_c":
                return self.random_bits + 1
        return 1  # that of the tie

    @classmethod
    def parse(cls, text: str) -> "Rounding":
        """The mode named by ``text``: a key of ``ROUNDINGS``; stochastic ones also as ``NAME:N``.

        N is the number of random bits, 32 if it is left out.

        Raises:
            ValueError: for an unknown mode or a number of bits outside 1..32.

        >>> Rounding.parse("stochastic_b:8")
        Rounding(mode='stochastic_b', random_bits=8)
        """
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"rounding must be a static string such as 'ties_to_even', got {kind}")
        found = re.fullmatch(r"(stochastic(?:_b|_c|_equal)?)(?::(\d{1,4}))?", text)
        if found:
            bits = int(found[2] or MAX_RANDOM_BITS)
            if not 1 <= bits <= MAX_RANDOM_BITS:
                raise ValueError(f"stochastic rounding draws 1 to 32 random bits, got {bits}")
            return cls(found[1], bits)
        require_one_of("rounding mode", text, ROUNDINGS)
        return cls(text)


def check_overflow(overflow: str) -> str:
    """``overflow`` itself, if it names a policy.

    Raises:
        ValueError: for an unknown policy, naming the near ones.
    """
    require_one_of("overflow policy", overflow, OVERFLOWS)
    return overflow
