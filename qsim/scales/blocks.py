"""Block formats: an element format, a scale format, and how blocks get their scales.

A block of numbers shares one scale; what is stored is a code of the element format for each
number and one of the scale format for each block. With the block's scale s::

    quantized(x) = round(x / s, to the element format) * s

where s follows from the numbers of the block by the rule of the ``Recipe``, and is rounded to the
scale format. A scale format may be a block format itself: scales then share a scale of their own,
as the blocks of NVFP4 do. ``qsim.scales.exact_blocks`` defines every step.

The grammar of spec strings, ``ELEMENT[SIZE, ...]``, what follows the size being in any order:

- the size: ``32`` numbers on the last axis, ``16x16`` on the last two, ``token`` (one scale for
  each index of all axes but the last), ``channel`` (one for each index of the last axis),
  ``tensor`` (one in all). ``@`` names other axes: ``128@0``, ``16x16@-3@-1``, ``channel@0``;
- a scale format, float32 where none is given;
- a rule of ``recipes.RULES``, ``absmax`` where none is given, with parameters: ``mse:32``;
- options of ``recipes.OPTIONS``; ``scale:MODE`` names the rounding mode of the scale.

Sources: OCP MX 1.0, section 5 and 6.3; NVIDIA Transformer Engine 2 (NVFP4 and its order of
operations); Rouhani et al., arXiv:2310.10537; Dai et al., arXiv:2102.04503 (scales of scales).
"""

import math
import re
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from qsim.numbers.families import register
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.modes import suggest
from qsim.numbers.records import shown
from qsim.numbers.specs import format_of, parse
from qsim.scales.recipes import RULES, Recipe

__all__ = ["FLOAT32", "Block"]

FLOAT32 = Float(exponent_bits=8, mantissa_bits=23)


@dataclass(frozen=True, kw_only=True)
class Block(Format):
    """A block format: every number has a code of ``element``, every block one of ``scale``.

    Attributes:
        element: the format of the numbers over their scale; it has a zero.
        scale: the format of the scales, whose values above zero are used; possibly a ``Block``.
        recipe: the blocks, and their scales.

    Of what a format says of itself, the codes and special values are the element's, and the range
    is that of an element times a scale.

    Raises:
        TypeError: for a field of another type.
        ValueError: for an element without zero, or a rule that the scale format cannot serve.

    Source: OCP MX 1.0, 5.1.

    >>> mxfp4 = Block(element=parse("e2m1f"), scale=parse("e8m0"),
    ...               recipe=Recipe(shape=(32,), rule="floor"))
    >>> str(mxfp4), mxfp4.bits_per_value
    ('e2m1f[32,e8m0,floor]', Fraction(17, 4))
    """

    element: Format
    scale: Format
    recipe: Recipe

    def __post_init__(self):
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"a block's recipe is a Recipe, got {self.recipe!r}")
        if not isinstance(self.element, Format) or isinstance(self.element, Block):
            raise TypeError(
                f"the element of a block is a format of numbers, got {shown(self.element)}"
            )
        if not isinstance(self.scale, Format):
            raise TypeError(f"the scale of a block is a format, got {shown(self.scale)}")
        if not self.element.has_zero or self.element.largest <= 0:
            raise ValueError(f"{self.element} cannot be an element: it needs a zero and more")
        if self.scale.largest <= 0:
            raise ValueError(f"{self.scale} cannot be a scale: it has no values above zero")
        if self.recipe.is_power and not isinstance(self.scale, Float):
            raise ValueError(
                f"the scales of the rule {self.recipe.rule!r} are powers of two, which need a "
                f"float as scale format, got {self.scale}: use e8m0 or float32, or rule='absmax'"
            )
        if self.recipe.zero_point and not self._is_unsigned:
            raise ValueError(
                f"a zero point is one of unsigned integers: the element is {self.element}, "
                "but must be like uint4"
            )
        if self.recipe.micro and not self.moves:
            raise ValueError(f"halved scales need elements on a binary grid, not {self.element}")
        if self.recipe.order == "te" and not self._is_nvfp4:
            raise ValueError(
                "order='te' is for blocks by absmax whose scales have a scale for the tensor, "
                "as in e2m1f[16,e4m3fn[tensor],te]"
            )

    @property
    def _is_unsigned(self) -> bool:
        integer = isinstance(self.element, Integer)
        return integer and not (self.element.signed or self.element.fraction_bits)

    @property
    def _is_nvfp4(self) -> bool:
        plain = Recipe(per="tensor")
        nested = isinstance(self.scale, Block) and self.scale.recipe == plain
        recipe = replace(self.recipe, per="tensor", shape=(), axes=None, order="exact")
        alone = replace(recipe, nonfinite="nan", tail="refuse", scale_rounding="ties_to_even")
        return nested and alone == plain and self.scale.scale == FLOAT32

    @property
    def moves(self) -> bool:
        """Whether scales only move the grid of the elements by binades, which is exact."""
        match self.element:
            case Integer():
                return self.recipe.is_power
            case Float():
                gradual = self.element.is_regular and self.element.subnormals == "gradual"
                return self.recipe.is_power and gradual
        return False

    # --- what every format says ------------------------------------------------------------

    @property
    def wraps(self) -> bool:
        """Whether the elements wrap."""
        return self.element.wraps

    @property
    def bits(self) -> int:
        """Bits of an element's code."""
        return self.element.bits

    @property
    def bits_per_value(self) -> Fraction:
        """Bits of an element's code and its share of the scale's, where blocks have a length."""
        recipe = self.recipe
        if recipe.per != "block":
            return Fraction(self.bits)
        scale = self.scale.bits_per_value if isinstance(self.scale, Block) else self.scale.bits
        of_block = Fraction(scale) * (1 + recipe.two_sided) + self.bits * recipe.zero_point
        of_group = Fraction(1, recipe.micro) if recipe.micro else 0
        return self.bits + of_block / math.prod(recipe.shape) + of_group

    @property
    def largest(self) -> Fraction:
        """The largest element times the largest scale."""
        return self.element.largest * self.scale.largest

    @property
    def lowest(self) -> Fraction:
        """The lowest element times the largest scale."""
        return self.element.lowest * self.scale.largest

    @property
    def smallest(self) -> Fraction:
        """The smallest positive element times the smallest scale."""
        return self.element.smallest * self.scale.smallest

    @property
    def quantum(self) -> int:
        """Of elements and scales, the sum."""
        return self.element.quantum + self.scale.quantum

    @property
    def precision(self) -> int:
        """Bits that a significand may have: those of element and scale."""
        return self.element.precision + self.scale.precision

    @property
    def has_negative_zero(self) -> bool:
        """Whether the element format has a minus zero."""
        return self.element.has_negative_zero

    @property
    def infinities(self) -> bool:
        """Whether the element format has infinities."""
        return self.element.infinities

    @property
    def nan_count(self) -> int:
        """NaNs of the element format."""
        return self.element.nan_count

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN of the element format."""
        return self.element.nan_code

    # --- names -----------------------------------------------------------------------------

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        recipe = self.recipe
        size = "x".join(map(str, recipe.shape)) or recipe.per
        tokens = ["@".join([size, *map(str, recipe.axes or ())])]
        tokens += [str(self.scale)] * (self.scale != FLOAT32)
        tokens += [recipe.rule] * (recipe.rule != "absmax")
        tokens += [f"scale:{recipe.scale_rounding}"] * (recipe.scale_rounding != "ties_to_even")
        tokens += ["two_sided"] * recipe.two_sided + ["zero_point"] * recipe.zero_point
        tokens += ["amax"] * (recipe.stores == "amax") + ["centred"] * recipe.centred
        tokens += [f"micro:{recipe.micro}"] * bool(recipe.micro)
        tokens += ["te"] * (recipe.order == "te")
        tokens += ["finite"] * (recipe.nonfinite == "ignore")
        tokens += [recipe.tail] * (recipe.tail != "refuse")
        return f"{self.element}[{','.join(tokens)}]"


# --- spec strings and catalogue entries -----------------------------------------------------

MAX_DEPTH = 8  # of scales that have scales
SIZE = re.compile(r"(token|channel|tensor|\d{1,9}(?:x\d{1,9})*)((?:@-?\d{1,3})*)")


def _read(found: re.Match) -> Block:
    element, inside = found.groups()
    if inside.count("[") >= MAX_DEPTH:
        raise ValueError(
            f"{shown(found[0])} has blocks in blocks, more than {MAX_DEPTH} deep: leave some out"
        )
    size, *others = _split(inside)
    return _made(element, size, others)


def _split(inside: str) -> list[str]:
    """The parts between commas that are not within brackets or parentheses."""
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _made(element: str, size: str, others: list[str]) -> Block:
    """The block format of an element, a size and what follows it."""
    found = SIZE.fullmatch(size)
    if not found:
        raise ValueError(
            f"a block begins with its size, such as 32, 16x16, token, channel or tensor, "
            f"with axes behind @, got {size!r}"
        )
    lengths, axes = found[1], found[2].split("@")[1:]
    facts: dict = {"axes": tuple(map(int, axes)) or None}
    if lengths[0].isdigit():
        facts["shape"] = tuple(map(int, lengths.split("x")))
    else:
        facts["per"] = lengths
    scales: list[Format] = []
    for token in others:
        if fact := _fact(token):
            if facts.keys() & fact.keys():
                raise ValueError(f"a block says twice what its {next(iter(fact))} is: {token!r}")
            facts |= fact
        else:
            scales.append(parse(token))
    if len(scales) > 1:
        raise ValueError(f"a block has one scale format, got {' and '.join(map(str, scales))}")
    scale = scales[0] if scales else FLOAT32
    return Block(element=parse(element), scale=scale, recipe=Recipe(**facts))


def _fact(token: str) -> dict[str, Any]:
    """What a token says of the recipe; nothing if it is a scale format."""
    name, _, argument = token.partition(":")
    if name in RULES:
        return {"rule": token}
    match token:
        case "te":
            return {"order": "te"}
        case "two_sided" | "zero_point" | "centred":
            return {token: True}
        case "amax":
            return {"stores": "amax"}
        case "finite":
            return {"nonfinite": "ignore"}
        case "zero" | "short":
            return {"tail": token}
    if name == "micro" and argument.isdecimal():
        return {"micro": int(argument)}
    return {"scale_rounding": argument} if name == "scale" else {}


def _record(element: str, scale: str = "binary32", **recipe) -> Block:
    """The block format of a catalogue entry: formats by their names, lists for tuples."""
    known = [field.name for field in fields(Recipe)]
    for key in recipe.keys() - set(known):
        raise TypeError(f"no key {shown(key)} in the family block; {suggest(key[:40], known)}")
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.items()}
    return Block(element=format_of(element), scale=format_of(scale), recipe=Recipe(**facts))


register(
    "block",
    _record,
    pattern=r"([^\[\]]+)\[(.+)\]",
    read=_read,
    example="e2m1f[32,e8m0,floor]",
    composite=True,
)
