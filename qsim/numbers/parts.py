"""The components of multi-component floats as arrays, and their codes.

A value of the format is taken apart by rounding it to the first component and subtracting, which
is exact: in the carrier's bit patterns the difference of two neighbours is a number of steps.

Source: the definition in ``qsim.numbers.components``.
"""

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float as FloatArray

from qsim.numbers.codes import decoded, encoded
from qsim.numbers.components import Components
from qsim.numbers.grid import CARRIERS, Carrier, lower
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import Key
from qsim.numbers.rounding import quantize
from qsim.numbers.significands import assembled, normalised
from qsim.numbers.specs import format_of

__all__ = ["split"]


def split(
    x: FloatArray[ArrayLike, "..."],
    fmt: str | Components,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
) -> FloatArray[Array, "count ..."]:
    """The components of ``x`` rounded to a format, along a leading axis.

    Args:
        x: a float32 or float64 array of any shape.
        fmt: a multi-component format or its spec string.
        rounding, overflow, key: as for ``qsim.quantize``.

    The sum of the components is exactly what ``qsim.quantize`` gives. Those of an infinity or a
    NaN are that, and zeros.

    Raises:
        TypeError: if the format has no components.
        ValueError: as ``qsim.quantize``.

    >>> split(jnp.array([0.999]), "2xbfloat16").tolist()
    [[1.0], [-0.00099945068359375]]
    """
    components = format_of(fmt)
    if not isinstance(components, Components):
        raise TypeError(f"{components} has no components: write '2x{components}'")
    rounded = quantize(x, components, rounding=rounding, overflow=overflow, key=key)
    return jnp.stack(_split(rounded, components))


def _split(x: Array, fmt: Components) -> list[Array]:
    """The components of values of the format."""
    carrier = CARRIERS[x.dtype.name]
    grid, mode = lower(fmt.component, carrier.name), Rounding("ties_to_even")
    parts = []
    for _ in range(fmt.count):
        parts.append(grid.round(x, mode=mode, policy="saturate_propagate"))
        x = _difference(x, parts[-1], carrier)
    return parts


def _difference(x: Array, nearest: Array, carrier: Carrier) -> Array:
    """``x`` less a neighbour on a coarser grid: the steps between their bit patterns.

    It is zero where ``x`` is infinite or NaN.
    """
    word, absolute = carrier.word.type, carrier.word.type(carrier.sign - 1)
    bits, near = (lax.bitcast_convert_type(v, carrier.word) for v in (x, nearest))
    magnitude, near = bits & absolute, near & absolute
    below = near < magnitude
    steps = jnp.where(below, magnitude - near, near - magnitude)
    steps = jnp.where(magnitude >= word(carrier.infinity), word(0), steps)
    field = jnp.maximum((magnitude >> carrier.mantissa_bits).astype(jnp.int32), 1)
    negative = (bits > absolute) == below
    unit = field - carrier.bias - carrier.mantissa_bits
    found = assembled(steps, unit, negative & (steps > 0), carrier)
    return lax.bitcast_convert_type(found, x.dtype)


# --- codes ----------------------------------------------------------------------------------


@encoded.register
def _(fmt: Components, bits: Array, carrier: Carrier) -> Array:
    _require_width(fmt, carrier)
    codes = jnp.zeros_like(bits)
    for part in _split(lax.bitcast_convert_type(bits, jnp.dtype(carrier.name)), fmt):
        below = encoded(fmt.component, lax.bitcast_convert_type(part, carrier.word), carrier)
        codes = codes << fmt.component.bits | below
    return codes


@decoded.register
def _(fmt: Components, codes: Array, carrier: Carrier) -> Array:
    """Codes whose sum the carrier cannot hold, which encoding never gives, become NaN."""
    _require_width(fmt, carrier)
    width = fmt.component.bits
    mask = carrier.word.type(2**width - 1)
    parts = [
        decoded(fmt.component, codes >> place * width & mask, carrier)
        for place in reversed(range(fmt.count))
    ]
    found = parts[0]
    for part in parts[1:]:
        found = _sum(found, part, carrier)
    return found


def _require_width(fmt: Components, carrier: Carrier) -> None:
    if fmt.bits > carrier.bits:
        raise ValueError(
            f"codes of {fmt} have {fmt.bits} bits, more than a {carrier.name}: encode and decode "
            f"the components, as in qsim.encode(qsim.split(x, '{fmt}'), '{fmt.component}')"
        )


def _sum(x: Array, y: Array, carrier: Carrier) -> Array:
    """The sum of two numbers as bit patterns; NaN where the carrier has no such number."""
    word, stored, absolute = carrier.word.type, carrier.mantissa_bits, carrier.sign - 1
    swap = (x & word(absolute)) < (y & word(absolute))
    x, y = jnp.where(swap, y, x), jnp.where(swap, x, y)
    x_exponent, large = normalised(x & word(absolute), carrier)
    y_exponent, small = normalised(y & word(absolute), carrier)
    room, distance = carrier.bits - 2 - stored, (x_exponent - y_exponent).astype(carrier.word)
    aligned = small << room >> distance
    exact = aligned << distance == small << room
    like = (x ^ y) < word(carrier.sign)
    significand = jnp.where(like, (large << room) + aligned, (large << room) - aligned)
    spacing = x_exponent - (stored + room)
    leading = spacing + (carrier.bits - 1) - lax.clz(significand).astype(jnp.int32)
    lowest_bit = significand & ~(significand - word(1))
    trailing = spacing + (carrier.bits - 1) - lax.clz(lowest_bit).astype(jnp.int32)
    fits = trailing >= jnp.maximum(leading, 1 - carrier.bias) - stored
    fits = (fits & exact & (leading <= carrier.bias)) | (significand == 0)
    negative = (x >= word(carrier.sign)) & (like | (significand != 0) | (large == 0))
    found = jnp.where(fits, assembled(significand, spacing, negative, carrier), word(carrier.nan))
    infinite = x & word(absolute) == word(carrier.infinity)
    finite_or_like = (y & word(absolute) != word(carrier.infinity)) | like
    found = jnp.where(infinite & finite_or_like, x, found)
    is_nan = (x & word(absolute) > word(carrier.infinity)) | (infinite & ~finite_or_like)
    return jnp.where(is_nan, word(carrier.nan), found)
