"""How one tensor is rounded: a format with its modes, and its lowering to a grid.

A ``Precision`` is a description, which can be printed; a ``Quantizer`` is the same as arrays.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qsim.arithmetic.extents import Extent
from qsim.numbers.cut import lower_alone
from qsim.numbers.formats import Format
from qsim.numbers.gradients import GRADIENTS, check_gradient
from qsim.numbers.grid import Grid, carrier_of, lower, stack
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import OVERFLOWS, Rounding, check_overflow, suggest
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.random_bits import Key, random_words
from qsim.numbers.records import shown
from qsim.numbers.specs import listed, parse
from qsim.scales.block_grid import BlockGrid
from qsim.scales.blocks import Block
from qsim.scales.tensor import SCALES, check_scale, quantize_apart, quantize_scaled

__all__ = ["MODES", "Precision", "Quantizer", "check_modes"]

MODES = {
    "rounding": "ties_to_even",
    "overflow": "saturate",
    "scale": "none",
    "gradient": "clipped",
}

STEPS = "steps"


def check_modes(*, rounding: str, overflow: str, scale: str, gradient: str) -> None:
    """Checks the names of modes.

    Raises:
        ValueError: for an unknown one.
    """
    Rounding.parse(rounding)
    check_overflow(overflow)
    check_scale(scale)
    check_gradient(gradient)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Precision:
    """A format and how numbers are rounded to it.

    Attributes:
        formats: the format; or, for what is inside a scan over layers, one for each layer.
        rounding, overflow, scale, gradient, steps: as for ``Quantizer``.

    Raises:
        ValueError: for an unknown mode, or modes that the formats do not have.
    """

    formats: tuple[Format, ...]
    rounding: str = MODES["rounding"]
    overflow: str = MODES["overflow"]
    scale: str = MODES["scale"]
    gradient: str = MODES["gradient"]
    steps: bool = False

    def __post_init__(self):
        check_modes(**{kind: getattr(self, kind) for kind in MODES})
        if not self.formats:
            raise ValueError("a precision needs a format: Precision(formats=(parse('e4m3'),))")
        for fmt in self.formats:
            check_wrap(fmt, self.overflow)
            if isinstance(fmt, Block):
                _require_no_scale(self.scale)

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """The precision that a text such as ``e4m3 absmax stochastic:8`` stands for.

        Raises:
            ValueError: for unknown words, or two of a kind.
        """
        words = re.sub(r"\s*\|\s*", "|", text).split()
        if not words:
            raise ValueError("a rule says nothing after its '='; write a format, or none")
        modes: dict[str, str] = {}
        steps = STEPS in words[1:]
        for word in [word for word in words[1:] if word != STEPS]:
            kind = _kind_of_mode(word)
            if kind in modes:
                raise ValueError(f"{shown(text)} has two words for {kind}: drop {word!r}")
            modes[kind] = word
        formats = listed(words[0], "|")
        if "none" in formats:
            raise ValueError("a layer is left alone by binary32, not by none: e4m3|binary32|e4m3")
        return cls(formats=tuple(map(parse, formats)), **modes, steps=steps)

    def __str__(self) -> str:
        modes = [getattr(self, kind) for kind in MODES]
        said = [mode for mode, usual in zip(modes, MODES.values(), strict=True) if mode != usual]
        steps = [STEPS] if self.steps else []
        return " ".join(["|".join(map(str, self.formats)), *said, *steps])

    def lower(
        self, carrier: str = "float32", *, alone: bool = False, known: bool = False
    ) -> "Quantizer":
        """The quantizer of this precision, in a carrier.

        Args:
            carrier: float32 or float64.
            alone: whether a cheaper grid will do, that does not stack with those of other formats.
            known: whether to keep the extent of the formats, which is not the same for all.

        Raises:
            ValueError: for a format that the carrier cannot hold, or layers of unlike kinds.
        """
        layers = len(self.formats) if len(self.formats) > 1 else 0
        cheap = alone and not layers
        grids = [(lower_alone if cheap else lower)(fmt, carrier) for fmt in self.formats]
        kinds = {jax.tree.structure(grid) for grid in grids}
        if len(kinds) > 1:
            raise ValueError(
                f"the layers of {self} have formats of different families: give all of them floats "
                "and integers, or all blocks of one shape"
            )
        modes = {kind: getattr(self, kind) for kind in MODES}
        extents = [None if isinstance(fmt, Block) else Extent.of(fmt) for fmt in self.formats]
        extent = reduce(lambda a, b: a and b and a | b, extents)
        grid = stack(grids) if layers else grids[0]
        kept = extent if known or alone else None
        return Quantizer(grid=grid, layers=layers, extent=kept, steps=self.steps, **modes)

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return Rounding.parse(self.rounding).is_stochastic


def _kind_of_mode(word: str) -> str:
    """The kind of a mode, by its name."""
    if word in OVERFLOWS:
        return "overflow"
    if word in SCALES:
        return "scale"
    if word.partition(":")[0] in GRADIENTS:
        return "gradient"
    try:
        Rounding.parse(word)
    except ValueError:
        words = [*OVERFLOWS, *SCALES, *GRADIENTS, STEPS]
        words += ["stochastic", "ties_to_even", "toward_zero"]
        raise ValueError(
            f"no mode {shown(word)} for rounding, overflow, scale or gradient; "
            f"{suggest(word[:40], words)}"
        ) from None
    return "rounding"


def _require_no_scale(scale: str) -> None:
    if scale != "none":
        raise ValueError(
            f"scale={scale!r} is for formats without scales; this one has blocks with "
            "scales of their own: leave scale at 'none'"
        )


@pytree
@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """How one tensor is rounded: to a grid, with a mode, an overflow policy and a scale.

    Attributes:
        grid: the grid; its arrays are the only leaves. Stacked ones are for ``jax.vmap``.
        rounding, overflow, gradient: as for ``qsim.quantize``.
        scale: a rule of ``qsim.SCALES``.
        steps: whether functions are computed step by step, each step rounded.
        layers: of a scan over layers, if the grid is a stack with one for each; else 0.
        extent: of the format's values, before they are scaled; None if it is not known.

    Raises:
        ValueError: for an unknown mode.
    """

    grid: Grid
    rounding: str = static(default=MODES["rounding"])
    overflow: str = static(default=MODES["overflow"])
    scale: str = static(default=MODES["scale"])
    gradient: str = static(default=MODES["gradient"])
    steps: bool = static(default=False)
    layers: int = static(default=0)
    extent: Extent | None = static(default=None)

    def __post_init__(self):
        check_modes(**{kind: getattr(self, kind) for kind in MODES})
        if isinstance(self.grid, BlockGrid):
            _require_no_scale(self.scale)

    def __call__(
        self,
        x: Float[Array, "..."],
        key: Key | None = None,
        axes: tuple[int, ...] | None = None,
    ) -> Float[Array, "..."]:
        """``x`` rounded, in the grid's carrier: narrower floats come back as float32.

        Args:
            x: the array to round.
            key: the random key that stochastic rounding needs.
            axes: those over which ``x`` is contracted: blocks run along them.

        Raises:
            TypeError: if ``x`` is wider than the grid's carrier.
            ValueError: if stochastic rounding has no key, or the grid is a stack.
        """
        x, mode, random = self._prepared(x, key)
        return quantize_scaled(
            x,
            self.grid if axes is None else self.grid.along(axes),
            scale=self.scale,
            mode=mode,
            policy=self.overflow,
            gradient=self.gradient,
            random=random,
        )

    def apart(
        self,
        x: Float[Array, "..."],
        key: Key | None = None,
        axes: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "..."], Float[Array, ""] | None]:
        """``x`` rounded, as values of the format and the scale of the tensor, if it has one.

        Arguments and errors as for a call.
        """
        if self.scale == "none" or not x.size:
            return self(x, key, axes), None
        x, mode, random = self._prepared(x, key)
        return quantize_apart(
            x,
            self.grid,
            scale=self.scale,
            mode=mode,
            policy=self.overflow,
            gradient=self.gradient,
            random=random,
        )

    def among(self, others: "Sequence[Quantizer]") -> "Quantizer":
        """The same with the extent of all; without others without one."""
        extents = [other.extent for other in others] or [None]
        return replace(self, extent=reduce(lambda a, b: a and b and a | b, extents))

    def _prepared(self, x: Array, key: Key | None) -> tuple[Array, Rounding, Array | None]:
        """``x`` in the carrier, the rounding mode, and random words if it draws some."""
        self._require_one_grid()
        mode, carrier = Rounding.parse(self.rounding), carrier_of(self.grid)
        if mode.is_stochastic and key is None:
            raise ValueError("stochastic rounding needs a random key: simulate(..., key=key)")
        if jnp.finfo(x.dtype).bits <= carrier.bits:
            x = x.astype(carrier.name)
        if x.dtype != carrier.name:
            raise TypeError(
                f"the policy's grids are carried in {carrier.name}, but an operand is {x.dtype}: "
                "cast the operand, or lower the policy to it: policy.lower('float64')"
            )
        return x, mode, random_words(key, x.shape, mode) if mode.is_stochastic else None

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return Rounding.parse(self.rounding).is_stochastic

    def _require_one_grid(self) -> None:
        if self.layers:
            raise ValueError(
                f"a rule has {self.layers} formats, one for each layer of a scan, but addresses "
                "what is in no scan of that length: narrow it down by a path, or give one format"
            )
        if self.grid.shape:
            raise ValueError(
                f"one format is needed here, got a stack of shape {self.grid.shape}: "
                "use qsim.sweep, or jax.vmap over the policy"
            )

    def layer(self, number: Array) -> "Quantizer":
        """The quantizer of one layer."""
        grid = jax.tree.map(
            lambda leaf: lax.dynamic_index_in_dim(jnp.asarray(leaf), number, keepdims=False),
            self.grid,
        )
        return replace(self, grid=grid, layers=0)
