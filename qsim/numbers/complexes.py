"""Complex formats: the fourth roots of unity, to which a complex number is rounded by its phase.

The spec string is ``roots4``. ``qsim.quantize`` takes complex arrays for this family, and for no
other.

Source: Wang et al., iFairy: the First 2-bit Complex LLM with All Parameters in {±1, ±i},
arXiv:2508.05571 (PhaseQuant).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex

from qsim.numbers import exact, families
from qsim.numbers.grid import CARRIERS, lowered
from qsim.numbers.modes import Rounding
from qsim.numbers.records import Format

__all__ = ["RootsOfUnity", "nearest_root", "quantize_complex"]

PARTS = {"complex64": CARRIERS["float32"], "complex128": CARRIERS["float64"]}


@dataclass(frozen=True, kw_only=True)
class RootsOfUnity(Format):
    """The fourth roots of unity: 1, i, -1 and -i.

    The facts of the record are those of the real and imaginary parts. There is no grid of reals,
    so that ``lower``, codes, policies and stacks are refused; ``quantize`` alone takes the format.

    >>> from qsim import quantize
    >>> quantize(jnp.array([3 - 1j, 1 + 1j, -2j]), "roots4").tolist()
    [(1+0j), 1j, -1j]
    """

    bits = 2
    largest = Fraction(1)
    lowest = Fraction(-1)
    smallest = Fraction(1)
    quantum = 0
    precision = 1

    def __str__(self) -> str:
        return "roots4"


def quantize_complex(x: object, *, mode: Rounding) -> Complex[Array, "..."]:
    """The roots of nearest phase, in the dtype of ``x``; the derivative is straight through.

    Args:
        x: complex64 array of any shape, or complex128 with x64.
        mode: ``ties_to_even``, the default of ``quantize``, is the only one; ties are decided as
            ``nearest_root`` says.

    Raises:
        TypeError: if ``x`` is not such an array.
        ValueError: for another mode.
    """
    dtype = getattr(x, "dtype", None)
    name = None if dtype is None else np.dtype(dtype).name
    if name not in PARTS:
        raise TypeError(
            f"roots4 rounds complex64 arrays, got {name or type(x).__name__}: write x + 0j, or "
            "take a format of real values such as 'ternary'"
        )
    if name == "complex128" and not jax.config.jax_enable_x64:
        raise TypeError("complex128 would be truncated: cast it to complex64, or enable x64")
    if mode.mode != "ties_to_even":
        raise ValueError(
            f"rounding={mode.mode!r} is for real values; roots4 takes the nearest phase: leave "
            "rounding out"
        )
    return nearest_root(jnp.asarray(x))


@jax.custom_jvp
@jax.jit
def nearest_root(x: Complex[Array, "..."]) -> Complex[Array, "..."]:
    """The fourth root of unity whose phase is nearest, from integer comparisons of bit patterns.

    A tie, on a diagonal, goes counterclockwise: each root has the phases from 45 degrees before it
    to 45 degrees behind, the first of these included. Zero, of any signs, becomes 1. Infinite
    parts are compared as numbers are, so that two of them tie. NaN in a part makes both parts NaN.
    """
    carrier = PARTS[np.dtype(x.dtype).name]
    real, imaginary = (
        lax.bitcast_convert_type(part, carrier.word) for part in (lax.real(x), lax.imag(x))
    )
    absolute = carrier.word.type(carrier.sign - 1)
    wide, high = real & absolute, imaginary & absolute
    left, down = real > absolute, imaginary > absolute
    # on the diagonals of the second and the fourth quadrant the horizontal root is the next one
    horizontal = jnp.where(left == down, wide > high, wide >= high) | (high == 0)
    one, none = jnp.ones(x.shape, carrier.name), jnp.zeros(x.shape, carrier.name)
    sign = jnp.where(jnp.where(horizontal, left & (wide > 0), down), -one, one)
    root = lax.complex(jnp.where(horizontal, sign, none), jnp.where(horizontal, none, sign))
    nan = lax.bitcast_convert_type(carrier.word.type(carrier.nan), carrier.name)
    is_nan = jnp.maximum(wide, high) > carrier.word.type(carrier.infinity)
    return jnp.where(is_nan, lax.complex(nan, nan), root)


@nearest_root.defjvp
def _(primals, tangents):
    return nearest_root(*primals), tangents[0]


def _refused(fmt: RootsOfUnity, *_):
    raise ValueError(
        f"{fmt} has complex values, of which there is no grid and no list: pass complex64 arrays "
        "to qsim.quantize, or take a format of real values such as 'ternary'"
    )


for definition in (lowered, exact.value_of, exact.code_of, exact.gap_at):
    definition.register(RootsOfUnity, _refused)


def _roots(_: re.Match) -> RootsOfUnity:
    return RootsOfUnity()


families.register("roots", RootsOfUnity, pattern="roots4", read=_roots, example="roots4")
