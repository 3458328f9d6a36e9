"""What the operations of a program get: quantizers, and the policy that hands them out.

Both are pytrees whose leaves are grids and whose modes are static, so that policies of the same
modes stack, and a sweep over them is one computation.
"""

import zlib
from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid, carrier_of, lower
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.random_bits import Key, fold_in, random_words
from qsim.numbers.rounding import check_gradient, widen
from qsim.numbers.specs import format_of
from qsim.scales.block_grid import BlockGrid
from qsim.scales.tensor import check_scale, quantize_scaled

__all__ = ["Policy", "Quantizer", "as_policy", "policy", "site_key"]


def _static(default: str):
    return field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """How one tensor is rounded: to a grid, with a mode, an overflow policy and a scale.

    Attributes:
        grid: the grid; its arrays are the only leaves. Stacked ones are for ``jax.vmap``.
        rounding, overflow, gradient: as for ``qsim.quantize``.
        scale: a rule of ``qsim.SCALES``.

    Raises:
        ValueError: for an unknown mode.
    """

    grid: Grid
    rounding: str = _static("ties_to_even")
    overflow: str = _static("saturate")
    scale: str = _static("none")
    gradient: str = _static("clipped")

    def __post_init__(self):
        Rounding.parse(self.rounding)
        check_overflow(self.overflow)
        check_scale(self.scale)
        check_gradient(self.gradient)
        if self.scale != "none" and isinstance(self.grid, BlockGrid):
            raise ValueError(
                f"scale={self.scale!r} is for formats without scales; this one has blocks with "
                "scales of their own: leave scale at 'none'"
            )

    def __call__(
        self,
        x: Float[Array, "..."],
        key: Key | None = None,
        axes: tuple[int, ...] | None = None,
    ) -> Float[Array, "..."]:
        """``x`` rounded, in the grid's carrier: float16 and bfloat16 come back as float32.

        Args:
            x: the array to round.
            key: the random key that stochastic rounding needs.
            axes: those over which ``x`` is contracted: blocks run along them.

        Raises:
            TypeError: if ``x`` is wider than the grid's carrier.
            ValueError: if stochastic rounding has no key, or the grid is a stack.
        """
        if self.grid.shape:
            raise ValueError(
                f"one format is needed here, got a stack of shape {self.grid.shape}: "
                "use qsim.sweep, or jax.vmap over the policy"
            )
        mode, carrier = Rounding.parse(self.rounding), carrier_of(self.grid)
        if mode.is_stochastic and key is None:
            raise ValueError("stochastic rounding needs a random key: simulate(..., key=key)")
        x = widen(x) if carrier.name == "float32" else x.astype(carrier.name)
        if x.dtype != carrier.name:
            raise TypeError(
                f"the policy's grids are carried in {carrier.name}, but an operand is {x.dtype}: "
                "cast the operand, or make the policy with carrier='float64'"
            )
        random = random_words(key, x.shape, mode) if mode.is_stochastic else None
        return quantize_scaled(
            x,
            self.grid if axes is None else self.grid.along(axes),
            scale=self.scale,
            mode=mode,
            policy=self.overflow,
            gradient=self.gradient,
            random=random,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Policy:
    """The quantizers of a contraction's operands and of its result; None leaves them alone.

    Attributes:
        weights: for operands that are computed from parameters only.
        activations: for operands that depend on the data.
        outputs: for results.
    """

    weights: Quantizer | None = None
    activations: Quantizer | None = None
    outputs: Quantizer | None = None


def policy(
    *,
    weights: str | Format | Grid | None = None,
    activations: str | Format | Grid | None = None,
    outputs: str | Format | Grid | None = None,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    scale: str = "none",
    gradient: str = "clipped",
    carrier: str = "float32",
) -> Policy:
    """A policy from formats, all of them with the same modes.

    Args:
        weights, activations, outputs: a spec string, a ``Format``, a ``Grid`` or None.
        rounding, overflow, gradient: as for ``qsim.quantize``.
        scale: one scale per tensor: ``"none"``, ``"absmax"`` or ``"power_of_two"``. Formats as
            wide as the carrier (8 exponent bits in float32) always have the scale 1.
        carrier: the dtype in which the emulated values of formats travel, float32 or float64.

    Raises:
        ValueError: for an unknown name, or a format that the carrier cannot hold.

    >>> policy(weights="e4m3", activations="e5m2").weights.rounding
    'ties_to_even'
    """
    modes = {"rounding": rounding, "overflow": overflow, "scale": scale, "gradient": gradient}
    formats = {"weights": weights, "activations": activations, "outputs": outputs}
    return Policy(
        **{
            role: None if fmt is None else Quantizer(grid=_grid(fmt, carrier, overflow), **modes)
            for role, fmt in formats.items()
        }
    )


def _grid(fmt: str | Format | Grid, carrier: str, overflow: str) -> Grid:
    if isinstance(fmt, Grid):
        return fmt
    fmt = format_of(fmt)
    check_wrap(fmt, overflow)
    return lower(fmt, carrier)


def as_policy(what: "Policy | str | Format | Grid | None") -> Policy:
    """A policy as it is; a format stands for itself on weights and activations; None for nothing.

    Raises:
        TypeError: for anything else.
    """
    match what:
        case Policy():
            return what
        case None:
            return Policy()
        case str() | Format() | Grid():
            return policy(weights=what, activations=what)
    raise TypeError(f"a policy is made by qsim.policy(...) or is a format, got {what!r}")


def site_key(key: Key | None, *names: object) -> Key | None:
    """The random key of a place in a program, by its name and not by its position in a batch."""
    if key is None:
        return None
    return fold_in(key, zlib.crc32("/".join(map(str, names)).encode()))
