"""Recipes: which numbers of an array share a scale, and how the scale follows from them.

Sources: OCP MX 1.0, 6.3 (floor); arXiv:2506.08027 (rceil); AMD Quark, MX quantization (even);
arXiv:2512.02010 (two targets); arXiv:2302.08007 (halved scales); arXiv:2311.01792 (two sides).
"""

from dataclasses import dataclass
from fractions import Fraction

from qsim.numbers.modes import Rounding, suggest
from qsim.numbers.records import DECIMAL, require_booleans, require_integers, shown

__all__ = ["OPTIONS", "POWER_RULES", "RULES", "Recipe"]

POWER_RULES = {
    "floor": "2^(floor(log2 amax) - emax): the largest numbers may overflow (OCP MX)",
    "ceil": "2^(ceil(log2 amax) - emax)",
    "rceil": "2^ceil(log2(amax / largest)): the least power of two without overflow",
    "even": "as floor, after amax is rounded, half up, to the precision of the elements",
}
RULES = {
    **POWER_RULES,
    "absmax": "amax / largest, rounded to the scale format; absmax:T, amax / T; of several, as in "
    "absmax:6:4, in each block the one of the least squared error, the first of equals",
    "mse": "mse:N, amax / largest * k/N with the least squared error among k = N, N-1 ... N/2",
    "percentile": "percentile:P, as absmax, amax being the P-th percentile of the magnitudes",
    "fixed": "fixed:S, the number S, whatever the values are",
}
MAX_CANDIDATES = 1024
NEEDS_PARAMETER = ("mse", "percentile", "fixed")

OPTIONS = {
    "two_sided": "numbers above zero and below zero have a scale each",
    "zero_point": "unsigned integers stand for the range from the lowest to the largest number",
    "amax": "what is rounded to the scale format is amax, before it is divided",
    "micro:N": "groups of N numbers have one bit more, which halves their scale",
    "te": "the order of operations of NVIDIA's Transformer Engine: values times an encoding scale",
    "centred": "in a format of scales: their mean is taken off before",
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
        rule: a rule of ``RULES``, with its parameters: ``"fixed:0.25"``.
        scale_rounding: the mode in which a scale is rounded to its format; not for the rules
            whose scales are powers of two.
        two_sided: whether numbers above and below zero have a scale each.
        zero_point: whether elements are unsigned integers, of which one, different in every block,
            stands for zero.
        stores: ``"scale"`` or ``"amax"``: what is rounded to the scale format.
        micro: the length of groups in a block whose scale may be halved; 0 for none.
        order: ``"exact"`` divides by the scale, ``"te"`` is NVFP4 as in Transformer Engine.
        centred: whether the mean of all is taken off before; only where these are scales.
        nonfinite: ``"nan"``: an infinity or NaN makes all of its block NaN; ``"ignore"``: it counts
            as zero for the scale, infinities then overflow, and NaN stays NaN where it is.
        tail: ``"refuse"``, ``"zero"`` or ``"short"``: what happens where blocks do not fill an
            axis, see ``OPTIONS``.

    Raises:
        TypeError, ValueError: for a field that names nothing, or fields that exclude each other;
            the message says what there is.
    """

    per: str = "block"
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None
    rule: str = "absmax"
    scale_rounding: str = "ties_to_even"
    two_sided: bool = False
    zero_point: bool = False
    stores: str = "scale"
    micro: int = 0
    order: str = "exact"
    centred: bool = False
    nonfinite: str = "nan"
    tail: str = "refuse"

    def __post_init__(self):
        _require_one_of(self, "per", ("block", "token", "channel", "tensor"))
        _require_one_of(self, "order", ("exact", "te"))
        _require_one_of(self, "nonfinite", ("nan", "ignore"))
        _require_one_of(self, "tail", ("refuse", "zero", "short"))
        if Rounding.parse(self.scale_rounding).is_stochastic:
            raise ValueError("a scale has no random bits: choose another scale_rounding")
        _require_one_of(self, "stores", ("scale", "amax"))
        require_booleans(self, "two_sided", "zero_point", "centred")
        require_integers(self, "micro")
        self._check_shape()
        self._check_axes()
        self._check_rule()
        self._check_options()

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
        count = len(self.parameters)
        if self.rule_name in NEEDS_PARAMETER and count != 1:
            raise ValueError(f"the rule {self.rule!r} needs one number: {RULES[self.rule_name]}")
        if self.is_power and count:
            raise ValueError(f"the rule {self.rule!r} has no parameter: {RULES[self.rule_name]}")
        if any(number <= 0 for number in self.parameters):
            raise ValueError(f"the numbers of the rule {self.rule!r} must be above zero")
        if self.rule_name == "percentile" and self.parameters[0] > 100:
            raise ValueError(f"the percentile of {self.rule!r} must be at most 100")
        steps = self.parameters[0] if self.rule_name == "mse" else 1
        if steps not in range(1, MAX_CANDIDATES + 1) or count > MAX_CANDIDATES:
            raise ValueError(
                f"the rule {shown(self.rule)} tries scales: an integer of them, at most "
                f"{MAX_CANDIDATES}"
            )

    def _check_options(self) -> None:
        chosen = self.rule_name == "mse" or len(self.parameters) > 1
        one_target = self.rule == "absmax"
        if self.two_sided and (chosen or self.rule_name == "fixed"):
            raise ValueError(f"two sides cannot have scales by the rule {self.rule!r}")
        if self.zero_point and (self.two_sided or self.stores == "amax" or not one_target):
            raise ValueError("a zero point goes with the rule 'absmax', and with one scale")
        if self.stores == "amax" and not (one_target or self.rule_name == "percentile"):
            raise ValueError(f"the rule {self.rule!r} stores no amax; use 'absmax'")
        if self.micro < 0 or (self.micro and (self.rule != "floor" or self.two_sided)):
            raise ValueError("micro is a length above zero, and goes with the rule 'floor' alone")
        if self.micro and (len(self.shape) != 1 or self.shape[0] % self.micro):
            raise ValueError(f"groups of {self.micro} do not fill blocks of shape {self.shape}")
        if self.centred and not one_target:
            raise ValueError("what is centred has scales by the rule 'absmax'")

    @property
    def rule_name(self) -> str:
        """The rule without its parameters."""
        return self.rule.partition(":")[0]

    @property
    def parameters(self) -> tuple[Fraction, ...]:
        """The parameters of the rule, exactly.

        Raises:
            ValueError: if one is no number.
        """
        texts = self.rule.split(":")[1:]
        try:
            if all(map(DECIMAL.fullmatch, texts)):
                return tuple(map(Fraction, texts))
        except ZeroDivisionError:
            pass
        raise ValueError(
            f"a parameter of the rule {shown(self.rule)} is not a number such as 0.25 or 1/3, "
            "of at most 400 digits"
        )

    @property
    def is_power(self) -> bool:
        """Whether scales are powers of two by their rule."""
        return self.rule_name in POWER_RULES

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
