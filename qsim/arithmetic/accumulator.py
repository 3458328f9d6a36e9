"""How a contraction adds up its products: the description of an accumulator, and its text form.

A contraction gives, for each element of its result, a sum of K products. With an accumulator of
format F, the order of the operations and every rounding are part of the definition::

    sequential    s = F(s + a[k] * b[k])             for k = 0 .. K-1, from s = +0
    lanesN        the same in N sums, products k, k+N, k+2N .. in the k-th; then pairwise
    pairwise      F(first + second), F(third + fourth) ..; then of these; an odd one passes on
    treeN         as pairwise, of N numbers at a time, which are added exactly and rounded once
    exact         F(the exact sum)
    kahan         sequential, what a sum lost being subtracted from the next product
    neumaier      sequential, what the sums lost being added up apart, and added at the end
    alignN        tensor cores: groups of products, and the sum so far, are cut at N bits below the
                  largest exponent among them, and added exactly; see ``qsim.arithmetic.aligned``
    normaliseK-L  sequential, normalised coarsely: see ``qsim.arithmetic.coarse``
    native        F(the back end's own float32 sum, in its own order); with ``groupN`` of N products
                  at a time and the sum so far

The product is exact (a fused multiply-add), or rounded to a format of its own; with ``lmulM`` it is
an addition, see ``qsim.arithmetic.multipliers``. With ``chunkN`` each N products are added up so,
and these sums, one after the other, in an outer accumulator.

The text form is the format and words, apart by spaces or colons::

    e5m10                                      binary16, fused, sequential
    e5m10 product=e5m10                        products rounded before they are added
    e8m13:chunk128                             chunks of 128, added up in binary32
    e8m13 toward_zero align13 group32 chunk128
    e8m7 toward_zero normalise1-2              a matrix engine with a cheap normaliser
    e5m10 lmul4                                products by addition
    int16 wrap, e5m10 stochastic:8, e4m3 saturate pairwise outer=e5m10 chunk64

Sources: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 4.1 (orders) and 4.3
(compensation); A. Neumaier, ZAMM 54, 1974; N. Wang et al., arXiv:1812.08011 (chunks).
"""

import difflib
import re
from dataclasses import dataclass

import jax

from qsim.arithmetic.multipliers import LMul
from qsim.numbers.formats import Float, Format
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import OVERFLOWS, Rounding, check_overflow, require_one_of, suggest
from qsim.numbers.records import require_integers, shown
from qsim.numbers.specs import format_of, listed, parse

__all__ = ["ORDERS", "PROFILES", "Accumulator"]

ORDERS = {
    "sequential": "one after the other",
    "lanes": "one after the other in each of some sums, which are added pairwise",
    "pairwise": "neighbours two by two",
    "tree": "neighbours some at a time, exactly, and rounded once",
    "exact": "all exactly, and rounded once",
    "kahan": "one after the other, compensated",
    "neumaier": "one after the other, the compensation apart",
    "align": "groups cut at some bits below their largest exponent",
    "normalise": "one after the other, leading zeros being removed coarsely",
    "native": "as the back end adds in float32",
}
COUNTED, GROUPED = ("lanes", "tree", "align"), ("align", "native")
MAX_ALIGNED, MAX_GROUP = 29, 4096  # for which two words of 32 bits are enough
MAX_NORMALISED = 30  # mantissa bits of which a word of 32 bits has room
MODES = {"rounding": "ties_to_even", "overflow": "ieee"}
WORD = re.compile(r"(sequential|pairwise|exact|kahan|neumaier|native|(lanes|tree|align)(\d{1,5}))")
SHIFTS = re.compile(r"normalise(\d{1,2})-(\d{1,2})")
SIZE = re.compile(r"(chunk|group)(\d{1,9})")

# Of NVIDIA's tensor cores: bits and groups are those of F. A. Khattak and M. Mikaitis,
# arXiv:2512.07004; no outputs of such devices are among the tests. DeepSeek-V3 adds up chunks of
# 128 outside of them: arXiv:2412.19437, 3.3.2 and 3.5.2.
PROFILES = {
    "volta_fp16": "binary32 toward_zero align23 group4",
    "ampere_fp16": "binary32 toward_zero align24 group8",
    "hopper_fp16": "binary32 toward_zero align25 group16",
    "hopper_fp8": "e8m13 toward_zero align13 group32",
    "blackwell_fp16": "binary32 toward_zero align25 group16",
    "deepseek_v3": "e8m13 toward_zero align13 group32 chunk128",
}


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Accumulator:
    """How a contraction adds up its products; see ``qsim.arithmetic.accumulator``.

    Attributes:
        fmt: the format of the sums.
        rounding: a mode of ``qsim.ROUNDINGS``, of sums and products.
        overflow: a policy of ``qsim.OVERFLOWS``, of sums and products; ``wrap`` for integers.
        product: the format to which products are rounded; None leaves them exact.
        multiplier: what makes products instead of a multiplication; None for one.
        order: a name of ``ORDERS``.
        count: of ``lanes`` how many, of ``tree`` how many numbers at a time, of ``align`` the bits.
        group: how many products ``align`` adds at once, and ``native``; there 0 for all.
        shifts: of ``normalise``, how many leading zeros it looks for, and how many after them.
        chunk: how many products are added up before the outer accumulator; 0 for all.
        outer: the format of that, which rounds to nearest even and overflows as IEEE 754 says.

    Raises:
        TypeError: for fields of other types.
        ValueError: for what does not go together; the message says why.

    >>> str(Accumulator.parse("binary16:chunk128"))
    'e5m10 chunk128 outer=e8m23'
    """

    fmt: Format
    rounding: str = MODES["rounding"]
    overflow: str = MODES["overflow"]
    product: Format | None = None
    multiplier: LMul | None = None
    order: str = "sequential"
    count: int = 0
    group: int = 0
    shifts: tuple[int, int] | None = None
    chunk: int = 0
    outer: Format | None = None

    def __post_init__(self):
        require_integers(self, "count", "group", "chunk")
        _require_formats(self)
        Rounding.parse(self.rounding)
        check_overflow(self.overflow)
        for fmt in (self.fmt, self.product):
            if fmt is not None:
                check_wrap(fmt, self.overflow)
        require_one_of("order", self.order, ORDERS)
        _require_counts(self)
        if self.chunk and self.outer is None:
            object.__setattr__(self, "outer", parse("binary32"))
        if self.outer is not None and not self.chunk:
            raise ValueError("an outer accumulator adds up chunks: say how long, such as chunk128")
        _require_products(self)
        _require_normaliser(self)

    @classmethod
    def parse(cls, text: str) -> "Accumulator":
        """The accumulator that a text, or a name of ``PROFILES``, stands for.

        Raises:
            TypeError: if it is no string.
            ValueError: for unknown words, or two of a kind.
        """
        if not isinstance(text, str):
            raise TypeError(f"an accumulator is named by a text such as 'e8m13', got {text!r}")
        first, *words = _words(PROFILES.get(text.strip(), text))
        if first in PROFILES:
            raise ValueError(
                f"{first} stands by itself: for another like it write out {PROFILES[first]!r}"
            )
        said: dict[str, object] = {}
        for word in words:
            for key, value in _meaning(word, first).items():
                if said.setdefault(key, value) != value:
                    raise ValueError(f"{shown(text)} says twice what its {key} is: {word!r}")
        return cls(fmt=_format(first), **said)

    def __str__(self) -> str:
        words = [str(self.fmt)]
        words += [
            getattr(self, name) for name, usual in MODES.items() if getattr(self, name) != usual
        ]
        words += [f"product={self.product}"] if self.product else []
        words += [str(self.multiplier)] if self.multiplier else []
        shifts = "-".join(map(str, self.shifts or ()))
        words += [f"{self.order}{self.count or shifts}"] if self.order != "sequential" else []
        words += [f"group{self.group}"] if self.group else []
        words += [f"chunk{self.chunk} outer={self.outer}"] if self.chunk else []
        return " ".join(words)

    @property
    def alters_products(self) -> bool:
        """Whether products are other than exact: rounded, or made by no multiplication."""
        return self.product is not None or self.multiplier is not None

    @property
    def is_stochastic(self) -> bool:
        """Whether its roundings draw random bits."""
        return Rounding.parse(self.rounding).is_stochastic


def _format(word: str) -> Format:
    """The format of sums, the first word of a description."""
    try:
        return parse(word)
    except ValueError:
        near = difflib.get_close_matches(word, PROFILES, n=1)
        if not near:
            raise
        raise ValueError(f"no format or profile {shown(word)}; did you mean {near[0]!r}?") from None


def _require_formats(acc: Accumulator) -> None:
    """Checks that formats are formats, and that sums, which begin at zero, can do so."""
    for name in ("fmt", "product", "outer"):
        fmt = getattr(acc, name)
        if not isinstance(fmt, Format) and (name == "fmt" or fmt is not None):
            raise TypeError(f"{name} is {shown(fmt)}, but it is a Format: parse('e8m13')")
        if fmt is not None and name != "product" and not fmt.has_zero:
            raise ValueError(f"{fmt} has no zero, where sums begin: add up in another format")


def _require_counts(acc: Accumulator) -> None:
    if (acc.count > 0) != (acc.order in COUNTED):
        raise ValueError(
            f"order {acc.order!r} {'needs a' if acc.order in COUNTED else 'has no'} number above "
            "zero: write lanes8, tree4, align13, or sequential"
        )
    if acc.order == "tree" and acc.count < 2:
        raise ValueError("a tree adds at least two numbers at a time: tree2")
    if (acc.order == "align" and not acc.group) or (acc.group and acc.order not in GROUPED):
        raise ValueError(
            "products are aligned, or added natively, in groups: write align13 group32, native "
            "group32, or neither"
        )
    for name in ("chunk", "group"):
        if getattr(acc, name) < 0:
            raise ValueError(f"{name} is {getattr(acc, name)}, but it is positive, or 0 for none")
    if acc.order == "align" and not (acc.count <= MAX_ALIGNED and acc.group <= MAX_GROUP):
        raise ValueError(
            f"align{acc.count} group{acc.group} is too wide: there are at most {MAX_ALIGNED} bits "
            f"below the largest exponent, and groups of {MAX_GROUP}"
        )


def _require_products(acc: Accumulator) -> None:
    """Checks that the order has products of the kind that is asked for."""
    if acc.order == "native" and acc.alters_products:
        raise ValueError("the back end's own sums round no products: drop product=, lmul or native")
    if acc.order == "align" and acc.alters_products:
        raise ValueError("products that are aligned are exact: drop product=, lmul or align")


def _require_normaliser(acc: Accumulator) -> None:
    """Checks that a coarse normaliser has shifts, a mode and a format that there are."""
    if (acc.shifts is not None) != (acc.order == "normalise"):
        raise ValueError("a coarse normaliser removes leading zeros, 1 or 3 say: normalise1-2")
    if acc.order == "normalise" and min(acc.shifts or ()) < 1:
        raise ValueError("a coarse normaliser removes at least one zero: write normalise1-1")
    if acc.order == "normalise" and acc.rounding != "toward_zero":
        raise ValueError(
            f"{acc.order} with {acc.rounding}: what a coarse normaliser leaves is cut; write e8m7 "
            "toward_zero normalise1-1"
        )
    if acc.order == "normalise" and not isinstance(acc.fmt, Float):
        raise ValueError(f"only sums in a float format are normalised, not in {acc.fmt}")
    if acc.order == "normalise" and acc.fmt.mantissa_bits > MAX_NORMALISED:
        raise ValueError(
            f"{acc.fmt} has more mantissa bits than a coarse normaliser is modelled for, at most "
            f"{MAX_NORMALISED}"
        )


def _words(text: str) -> list[str]:
    """The words of a text; a number by itself belongs to the word before."""
    words: list[str] = []
    for word in [part for some in text.split() for part in listed(some, ":") if part]:
        if word.isdigit() and words:
            words[-1] += f":{word}"
        else:
            words.append(word)
    if not words:
        raise ValueError("an accumulator needs a format: write e8m13, or e5m10:chunk128")
    return words


def _meaning(word: str, fmt: str) -> dict[str, object]:
    """The fields that a word sets."""
    if found := WORD.fullmatch(word):
        return {"order": found[2] or found[1], **({"count": int(found[3])} if found[3] else {})}
    if found := SHIFTS.fullmatch(word):
        return {"order": "normalise", "shifts": (int(found[1]), int(found[2]))}
    if multiplier := LMul.parse(word):
        return {"multiplier": multiplier}
    if found := SIZE.fullmatch(word):
        return {found[1]: int(found[2])}
    if word == "product":
        return {"product": parse(fmt)}
    key, equals, value = word.partition("=")
    if equals and key in ("product", "outer"):
        return {key: format_of(value)}
    if word in OVERFLOWS:
        return {"overflow": word}
    try:
        Rounding.parse(word)
    except ValueError:
        if word.startswith("stochastic"):
            raise
        known = [*ORDERS, "chunk128", "group32", "product=", "outer=", "lmul4", "normalise1-2"]
        known += [*OVERFLOWS, *PROFILES]
        known += ["stochastic", "ties_to_even", "toward_zero", "up", "down"]
        raise ValueError(
            f"no word {shown(word)} for accumulators; {suggest(word[:40], known)}"
        ) from None
    return {"rounding": word}
