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
- a rule of ``RULES``, ``absmax`` where none is given; rules with a parameter have it after a
  colon: ``fixed:0.25``;
- an option of ``OPTIONS``; ``scale:MODE`` names the rounding mode of the scale.

Sources: OCP MX 1.0, section 5 and 6.3; NVIDIA Transformer Engine 2 (NVFP4 and its order of
operations); Rouhani et al., arXiv:2310.10537; Dai et al., arXiv:2102.04503 (scales of scales).
"""

import re
from dataclasses import dataclass, fields
from fractions import Fraction

from qsim.numbers.families import register
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.modes import Rounding, suggest
from qsim.numbers.records import DECIMAL, shown
from qsim.numbers.specs import format_of, parse

__all__ = ["OPTIONS", "POWER_RULES", "RULES", "Block", "Recipe"]

FLOAT32 = Float(exponent_bits=8, mantissa_bits=23)

POWER_RULES = {
    "floor": "2^(floor(log2 amax) - emax): the largest numbers may overflow (OCP MX)",
    "ceil": "2^(ceil(log2 amax) - emax)",
    "rceil": "2^ceil(log2(amax / largest)): the least power of two without overflow",
    "even": "as floor, after amax is rounded, half up, to the precision of the elements",
}
RULES = {
    **POWER_RULES,
    "absmax": "amax / largest, rounded to the scale format",
    "fixed": "fixed:S, the number S, whatever the values are",
}

OPTIONS = {
    "te": "the order of operations of NVIDIA's Transformer Engine: values times an encoding scale",
    "finite": "numbers that are not finite do not count for the scale, instead of making all NaN",
    "zero": "an axis that blocks do not fill is filled up with zeros, also in what is stored",
    "short": "the last block of an axis may be shorter than the others",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How numbers are grouped to blocks, and how a block gets its scale.

    Attributes:
        per: what has a scale: a ``"block"`` of the lengths ``shape``; a ``"token"``, all numbers
            along ``axes``; a ``"channel"``, all numbers of one index along ``axes``; or the
            whole ``"tensor"``.
        shape: the lengths of a block along ``axes``, all of them 1 or more.
        axes: axes of the array; None for the last ones (and, in ``qsim.simulate``, for the axes
            over which a contraction sums).
        rule: a rule of ``RULES``, with its parameter: ``"fixed:0.25"``.
        scale_rounding: the mode in which a scale is rounded to its format; not for the rules
            whose scales are powers of two.
        order: ``"exact"`` divides by the scale, ``"te"`` is NVFP4 as in Transformer Engine.
        nonfinite: ``"nan"``: an infinity or NaN makes all of its block NaN; ``"ignore"``: it has
            no part in the scale, infinities then overflow, and NaN stays NaN where it is.
        tail: ``"refuse"``, ``"zero"`` or ``"short"``: what happens where blocks do not fill an
            axis, see ``OPTIONS``.

    Raises:
        TypeError, ValueError: for a field that names nothing; the message says what there is.
    """

    per: str = "block"
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None
    rule: str = "absmax"
    scale_rounding: str = "ties_to_even"
    order: str = "exact"
    nonfinite: str = "nan"
    tail: str = "refuse"

    def __post_init__(self):
        _require_one_of(self, "per", ("block", "token", "channel", "tensor"))
        _require_one_of(self, "order", ("exact", "te"))
        _require_one_of(self, "nonfinite", ("nan", "ignore"))
        _require_one_of(self, "tail", ("refuse", "zero", "short"))
        if Rounding.parse(self.scale_rounding).is_stochastic:
            raise ValueError("a scale has no random bits: choose another scale_rounding")
        self._check_shape()
        self._check_axes()
        self._check_rule()

    def _check_shape(self) -> None:
        if not isinstance(self.shape, tuple) or any(type(n) is not int for n in self.shape):
            raise TypeError(f"shape is a tuple of Python ints such as (32,), got {self.shape!r}")
        if (self.per == "block") != bool(self.shape):
            raise ValueError(
                f"shape is {self.shape} with per={self.per!r}: blocks have the length of each of "
                "their axes, as in shape=(32,), and nothing else has"
            )
        if any(n < 1 for n in self.shape):
            raise ValueError(f"shape is {self.shape}, but a block has at least one number")

    def _check_axes(self) -> None:
        if self.axes is None:
            return
        if not isinstance(self.axes, tuple) or any(type(n) is not int for n in self.axes):
            raise TypeError(f"axes is a tuple of Python ints such as (-1,), got {self.axes!r}")
        if self.per == "tensor":
            raise ValueError("a scale for the whole tensor has no axes")
        if not self.axes or (self.shape and len(self.axes) != len(self.shape)):
            raise ValueError(f"axes is {self.axes}, but blocks of shape {self.shape} need as many")

    def _check_rule(self) -> None:
        if not isinstance(self.rule, str) or self.rule_name not in RULES:
            raise ValueError(f"no scale rule {self.rule!r}; {suggest(str(self.rule), list(RULES))}")
        needs = f"{self.rule_name}:" in RULES[self.rule_name]
        if needs != (":" in self.rule):
            what = "needs a parameter" if needs else "has no parameter"
            raise ValueError(f"the rule {self.rule!r} {what}: {RULES[self.rule_name]}")
        if self.rule_name == "fixed" and not self.parameter > 0:
            raise ValueError(f"the scale of {self.rule!r} must be above zero")

    @property
    def rule_name(self) -> str:
        """The rule without its parameter."""
        return self.rule.partition(":")[0]

    @property
    def parameter(self) -> Fraction:
        """The parameter of the rule, exactly.

        Raises:
            ValueError: if it is no number.
        """
        text = self.rule.partition(":")[2]
        try:
            if DECIMAL.fullmatch(text):
                return Fraction(text)
        except ZeroDivisionError:
            pass
        raise ValueError(
            f"the parameter of the rule {shown(self.rule)} is not a number such as 0.25 or 1/3, "
            "of at most 400 digits"
        )

    @property
    def is_power(self) -> bool:
        """Whether scales are powers of two by their rule."""
        return self.rule in POWER_RULES

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of a block along every axis of an array of this shape.

        Raises:
            ValueError: if the array has no such axis, or blocks do not fill one.

        >>> Recipe(shape=(32,)).sizes((3, 64)), Recipe(per="channel").sizes((3, 64))
        ((1, 32), (3, 1))
        """
        if self.per == "tensor":
            return shape
        axes = self._axes_of(shape)
        if self.per == "block":
            sizes = dict(zip(axes, self.shape, strict=True))
            for axis, size in sizes.items():
                self._check_filled(shape, axis, size)
            return tuple(sizes.get(axis, 1) for axis in range(len(shape)))
        whole = [(axis in axes) == (self.per == "token") for axis in range(len(shape))]
        return tuple(n if is_whole else 1 for n, is_whole in zip(shape, whole, strict=True))

    def _axes_of(self, shape: tuple[int, ...]) -> list[int]:
        """The axes of an array of this shape, counted from the first one."""
        count = len(self.shape) or 1
        wanted = tuple(range(-count, 0)) if self.axes is None else self.axes
        axes = [axis + len(shape) if axis < 0 else axis for axis in wanted]
        if any(not 0 <= axis < len(shape) for axis in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"blocks along the axes {wanted} need other axes than an array of shape {shape} "
                "has: give different axes that it has, or reshape it"
            )
        return axes

    def _check_filled(self, shape: tuple[int, ...], axis: int, size: int) -> None:
        if self.tail == "refuse" and shape[axis] % size:
            raise ValueError(
                f"blocks of {size} do not fill axis {axis} of an array of shape {shape}: "
                "let the last block be shorter (tail='short', in a spec string [..., short]), fill "
                "it up with zeros (tail='zero', [..., zero]), or choose another axis or length"
            )


def _require_one_of(record: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(record, name)
    if value not in allowed:
        kind = type(record).__name__
        raise ValueError(f"{kind} {name} is {value!r}, but must be one of {', '.join(allowed)}")


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
        if self.recipe.order == "te" and not self._is_nvfp4:
            raise ValueError(
                "order='te' is for blocks by absmax whose scales have a scale for the tensor, "
                "as in e2m1f[16,e4m3fn[tensor],te]"
            )

    @property
    def _is_nvfp4(self) -> bool:
        plain = Recipe(per="tensor")
        nested = isinstance(self.scale, Block) and self.scale.recipe == plain
        return nested and self.recipe.rule == "absmax" and self.scale.scale == FLOAT32

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
        size = 1
        for length in self.recipe.shape:
            size *= length
        if self.recipe.per != "block":
            return Fraction(self.bits)
        scale = self.scale.bits_per_value if isinstance(self.scale, Block) else self.scale.bits
        return self.bits + Fraction(scale) / size

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


def _fact(token: str) -> dict[str, str]:
    """What a token says of the recipe; nothing if it is a scale format."""
    name = token.partition(":")[0]
    if name in RULES:
        return {"rule": token}
    match token:
        case "te":
            return {"order": "te"}
        case "finite":
            return {"nonfinite": "ignore"}
        case "zero" | "short":
            return {"tail": token}
    return {"scale_rounding": token.partition(":")[2]} if name == "scale" else {}


def _record(element: str, scale: str = "binary32", **recipe) -> Block:
    """The block format of a catalogue entry: formats by their names, lists for tuples."""
    known = {field.name for field in fields(Recipe)}
    if recipe.keys() - known:
        raise TypeError(f"a block has no {sorted(recipe.keys() - known)[0]!r}")
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
