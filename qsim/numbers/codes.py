"""Codes: the unsigned integers that hardware stores, from values and back.

For a magnitude on the grid of a float format, with exponent E and significand S (an integer in
units of its gap), the code is ``S + ((max(E, emin) - emin) << mantissa_bits)``: counting the grid
points from zero. Integers are two's complement.

Source: the layouts of ``qsim.numbers.floats`` and ``integers``; equal to ``exact.encode`` and
``exact.decode``.
"""

from dataclasses import replace
from functools import partial, singledispatch

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt

from qsim.numbers import exact, formats
from qsim.numbers.formats import Format, Integer
from qsim.numbers.grid import CARRIERS, Carrier, lower, pattern
from qsim.numbers.random_bits import Key
from qsim.numbers.records import shown
from qsim.numbers.rounding import quantize, require_float
from qsim.numbers.significands import assembled, normalised
from qsim.numbers.specs import format_of

__all__ = ["NoNaNError", "decode", "encode"]


class NoNaNError(ValueError):
    """A NaN was to be encoded in a format that has no code for it."""


def code_dtype(fmt: Format) -> np.dtype:
    """The smallest unsigned dtype that holds the codes.

    >>> code_dtype(format_of("e4m3"))
    dtype('uint8')
    """
    return np.dtype(f"uint{max(8, 1 << (fmt.bits - 1).bit_length())}")


def encode(
    x: Float[ArrayLike, "..."],
    fmt: str | Format,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
    nan: int | None = None,
) -> UInt[Array, "..."]:
    """The codes of ``x`` rounded to a format, in the smallest unsigned dtype that holds them.

    Args:
        x: floating-point array of any shape.
        fmt: a spec string or a ``Format``.
        rounding, overflow, key: as for ``quantize``.
        nan: the code that NaN gets in a format that has none of its own.

    Raises:
        NoNaNError: if ``x`` holds a NaN that the format has no code for; inside ``jit``, where
            values are unknown, already if the format has none and ``nan`` is not given.
        TypeError, ValueError: as for ``quantize``.

    >>> encode(jnp.array([1.0, -0.5, 448.0]), "e4m3fn").tolist()
    [56, 176, 126]
    """
    fmt = format_of(fmt)
    x = require_float(x)
    wide = x if x.dtype.name in CARRIERS else x.astype(jnp.float32)
    nan = _nan_code(wide, fmt, nan)
    values = quantize(wide, _stored(fmt), rounding=rounding, overflow=overflow, key=key)
    carrier = CARRIERS[wide.dtype.name]
    codes = _encode(lax.bitcast_convert_type(values, carrier.word), fmt, nan, carrier)
    return codes.astype(available_dtype(fmt))


def decode(
    codes: Int[ArrayLike, "..."] | UInt[ArrayLike, "..."], fmt: str | Format, *, dtype="float32"
) -> Float[Array, "..."]:
    """The values of codes, exactly.

    Args:
        codes: integer array of any shape; bits beyond the format's width are ignored.
        fmt: a spec string or a ``Format``.
        dtype: the carrier of the values, float32 or float64.

    Raises:
        TypeError: if the codes are not integers.
        ValueError: if the carrier cannot hold the format.

    >>> decode(jnp.array([0x38, 0x7E, 0x7F], jnp.uint8), "e4m3fn").tolist()
    [1.0, 448.0, nan]
    """
    fmt = format_of(fmt)
    codes = require_codes(codes)
    carrier = _carrier(dtype)
    lower(fmt, carrier.name)  # refuses what the carrier cannot hold
    mask = carrier.word.type(2**fmt.bits - 1)
    bits = _decode(codes.astype(carrier.word) & mask, fmt, carrier)
    return lax.bitcast_convert_type(bits, jnp.dtype(carrier.name))


def require_codes(codes: ArrayLike) -> Array:
    """``codes`` as a JAX array of integers.

    Raises:
        TypeError: for what is none.
    """
    try:
        array = jnp.asarray(codes)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"codes are an array of integers, got {type(codes).__name__} {shown(codes)}: make them "
            "with qsim.encode"
        ) from None
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"codes are integers, got {array.dtype}: make them with qsim.encode")
    return array


def _stored(fmt: Format) -> Format:
    """The format whose values have codes: subnormals too, where they only read as zero."""
    if isinstance(fmt, formats.Float) and fmt.subnormals == "read_as_zero":
        return replace(fmt, subnormals="gradual")
    return fmt


def _carrier(dtype) -> Carrier:
    name = np.dtype(dtype).name
    if name not in CARRIERS:
        raise TypeError(f"values are decoded to float32 or float64, got {name}")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("decoding to float64 needs jax_enable_x64")
    return CARRIERS[name]


def available_dtype(fmt: Format) -> np.dtype:
    """``code_dtype``, which JAX must have.

    Raises:
        ValueError: for more than 32 bits without x64.
    """
    dtype = code_dtype(fmt)
    if dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        raise ValueError(f"codes of {fmt} have {fmt.bits} bits: enable jax_enable_x64")
    return dtype


def _nan_code(x: Array, fmt: Format, nan: int | None) -> int:
    if fmt.nan_code is not None:
        return fmt.nan_code
    if nan is not None and type(nan) is not int:
        raise TypeError(f"nan is the code of NaN, a Python int, got {nan!r}")
    if nan is not None:
        if not 0 <= nan < 2**fmt.bits:
            raise ValueError(f"nan={nan} is no code of {fmt}; its codes are 0..{2**fmt.bits - 1}")
        return nan
    if isinstance(x, jax.core.Tracer):
        raise NoNaNError(f"{fmt} has no NaN: inside jit give the code of NaN, for example nan=0")
    count = int(jnp.sum(jnp.isnan(x)))
    if count:
        raise NoNaNError(
            f"{count} of {x.size} values are NaN and {fmt} has no NaN: "
            "remove them or give their code, for example nan=0"
        )
    return 0


# --- what each family defines ---------------------------------------------------------------


@partial(jax.jit, static_argnums=(1, 2, 3))
def _encode(bits: Array, fmt: Format, nan: int, carrier: Carrier) -> Array:
    is_nan = bits & carrier.word.type(carrier.sign - 1) > carrier.word.type(carrier.infinity)
    return jnp.where(is_nan, carrier.word.type(nan), encoded(fmt, bits, carrier))


@partial(jax.jit, static_argnums=(1, 2))
def _decode(codes: Array, fmt: Format, carrier: Carrier) -> Array:
    return decoded(fmt, codes, carrier)


@singledispatch
def encoded(fmt: Format, bits: Array, carrier: Carrier) -> Array:
    """The codes of values of the format, given as bit patterns of the carrier; NaN gets any code.

    A family may register its own. This one looks the values up among all of them.
    """
    return _looked_up_code(fmt, bits, carrier)


def _looked_up_code(fmt: Format, bits: Array, carrier: Carrier) -> Array:
    known = {}
    for code, value in enumerate(exact.values(fmt)):
        known.setdefault(_pattern(value, carrier), code)
    patterns = sorted(known)
    places = jnp.searchsorted(np.array(patterns, carrier.word), bits)
    return jnp.asarray([known[p] for p in patterns], carrier.word)[places]


@singledispatch
def decoded(fmt: Format, codes: Array, carrier: Carrier) -> Array:
    """The bit patterns of the values of codes.

    A family may register its own. This one looks the codes up among all of them.
    """
    return _looked_up_value(fmt, codes, carrier)


def _looked_up_value(fmt: Format, codes: Array, carrier: Carrier) -> Array:
    patterns = [_pattern(value, carrier) for value in exact.values(fmt)]
    return jnp.asarray(np.array(patterns, carrier.word))[codes]


def _pattern(value: exact.Value, carrier: Carrier) -> int:
    """The bit pattern of any value of a format."""
    if isinstance(value, float):  # minus zero, an infinity or NaN
        return (
            carrier.nan if value != value else int(np.array(value, carrier.name).view(carrier.word))
        )
    return pattern(abs(value), carrier) | (carrier.sign if value < 0 else 0)


# --- integers and floats: integer arithmetic on bit patterns --------------------------------


@encoded.register
def _(fmt: Integer, bits: Array, carrier: Carrier) -> Array:
    word = carrier.word.type
    magnitude, negative = bits & word(carrier.sign - 1), bits >= word(carrier.sign)
    exponent, significand = normalised(magnitude, carrier)
    spacing = exponent - carrier.mantissa_bits
    down, up = (
        jnp.maximum(n, 0).astype(carrier.word)
        for n in (fmt.quantum - spacing, spacing - fmt.quantum)
    )
    count = significand >> down << up
    return jnp.where(negative, ~count + word(1), count) & word(2**fmt.bits - 1)


@encoded.register
def _(fmt: formats.Float, bits: Array, carrier: Carrier) -> Array:
    if not fmt.is_regular:
        return _looked_up_code(fmt, bits, carrier)
    word = carrier.word.type
    magnitude, negative = bits & word(carrier.sign - 1), bits >= word(carrier.sign)
    exponent, significand = normalised(magnitude, carrier)
    codes = _float_code(exponent, exponent - carrier.mantissa_bits, significand, fmt, carrier)
    sign = word(fmt.signed << (fmt.bits - 1))
    codes = jnp.where(negative, codes | sign, codes)
    if not fmt.infinities:
        return codes
    infinities = [word(fmt.infinity_code(is_negative)) for is_negative in (False, fmt.signed)]
    infinity = jnp.where(negative, infinities[1], infinities[0])
    return jnp.where(magnitude == word(carrier.infinity), infinity, codes)


def _float_code(exponent, spacing, significand, fmt: formats.Float, carrier: Carrier) -> Array:
    binade = jnp.maximum(exponent, fmt.emin)
    gap = binade - fmt.mantissa_bits
    field = (binade - fmt.emin).astype(carrier.word) << fmt.mantissa_bits
    code = (significand >> (gap - spacing).astype(carrier.word)) + field
    if fmt.lowest_field:
        return code
    # the lowest binade has the field 0 although its implicit bit is set
    return jnp.where(significand == 0, code, code - carrier.word.type(1 << fmt.mantissa_bits))


@decoded.register
def _(fmt: Integer, codes: Array, carrier: Carrier) -> Array:
    word = carrier.word.type
    negative = (codes >> (fmt.bits - 1) == 1) & fmt.signed
    count = jnp.where(negative, word(2 ** (fmt.bits - 1)) * 2 - codes, codes)
    count = count & word(2**carrier.bits - 1)
    return assembled(count, jnp.int32(fmt.quantum), negative, carrier)


@decoded.register
def _(fmt: formats.Float, codes: Array, carrier: Carrier) -> Array:
    if not fmt.is_regular or isinstance(fmt.nans, tuple):
        return _looked_up_value(fmt, codes, carrier)
    word = carrier.word.type
    width, stored = fmt.exponent_bits + fmt.mantissa_bits, fmt.mantissa_bits
    negative = (codes >> width == 1) & fmt.signed
    magnitude = codes & word(2**width - 1)
    field, fraction = (magnitude >> stored).astype(jnp.int32), magnitude & word(2**stored - 1)
    implicit = field >= fmt.lowest_field
    if fmt.has_zero:
        implicit = implicit & (magnitude != 0)
    significand = fraction | jnp.where(implicit, word(1 << stored), word(0))
    if fmt.subnormals != "gradual":
        significand = jnp.where(implicit, significand, word(0))
    spacing = jnp.maximum(field, fmt.lowest_field) - fmt.bias - stored
    keeps_sign = negative if fmt.has_negative_zero else negative & (significand != 0)
    values = assembled(significand, spacing, keeps_sign, carrier)
    special = magnitude > word(fmt.top_code)
    if fmt.nans == "negative_zero":
        special = special | (negative & (magnitude == 0))
    infinite = jnp.zeros_like(negative)
    if fmt.infinities:
        infinite = magnitude == word(fmt.infinity_code(negative=False))
    infinity = jnp.where(negative, word(carrier.sign | carrier.infinity), word(carrier.infinity))
    return jnp.where(special, jnp.where(infinite, infinity, word(carrier.nan)), values)
