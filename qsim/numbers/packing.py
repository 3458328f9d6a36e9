"""Packing: codes of any width side by side in bytes, as memory and files hold them.

The codes of the last axis follow each other as one string of bits, the lowest bit first::

    bit j of code i  is  bit (i * bits + j) % 8  of byte  (i * bits + j) // 8

so that the bytes, read as one little-endian integer, are ``sum(code[i] << (i * bits))``. Of 4-bit
codes the first of two is the low nibble. Four 6-bit codes a, b, c, d fill three bytes::

    byte 0 = a | b << 6        byte 1 = b >> 2 | c << 4        byte 2 = c >> 4 | d << 2

each cut to 8 bits. The bits after the last code are zero.

Sources: the order of CUDA's packed types (``__nv_fp4x2_e2m1``: element 0 in the low bits) and of
NumPy's ``packbits(bitorder="little")`` for one bit.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, UInt, UInt8

from qsim.numbers.codes import available_dtype, require_codes
from qsim.numbers.formats import Format
from qsim.numbers.specs import format_of

__all__ = ["pack", "unpack"]


def pack(
    codes: Int[ArrayLike, "... count"] | UInt[ArrayLike, "... count"], fmt: str | Format
) -> UInt8[Array, "... size"]:
    """The bytes of codes packed along the last axis, ``ceil(count * fmt.bits / 8)`` of them.

    Args:
        codes: integer array of at least one axis; bits beyond the format's width are ignored.
        fmt: a spec string or a ``Format``, of 1 to 64 bits.

    Raises:
        TypeError: if the codes are not integers.
        ValueError: for a scalar, or codes of more than 32 bits without x64.

    >>> pack(jnp.array([0x1, 0x2, 0x3], jnp.uint8), "e2m1f").tolist()
    [33, 3]
    """
    fmt, codes = format_of(fmt), require_codes(codes)
    _require_axis(codes, "codes")
    return _pack(codes.astype(available_dtype(fmt)), fmt.bits)


def unpack(
    packed: UInt8[ArrayLike, "... size"], fmt: str | Format, count: int
) -> UInt[Array, "... count"]:
    """The codes that ``pack`` put into bytes, in the smallest unsigned dtype that holds them.

    Args:
        packed: uint8 array with the bytes of the codes along its last axis.
        fmt: a spec string or a ``Format``, of 1 to 64 bits.
        count: how many codes the last axis holds; the bytes alone do not always tell.

    Raises:
        TypeError: if the bytes are not uint8, or ``count`` is no Python int.
        ValueError: if the number of bytes is not that of ``count`` codes, for a scalar, or for
            codes of more than 32 bits without x64.

    >>> unpack(jnp.array([33, 3], jnp.uint8), "e2m1f", 3).tolist()
    [1, 2, 3]
    """
    fmt, packed = format_of(fmt), require_codes(packed)
    if packed.dtype != jnp.uint8:
        raise TypeError(f"packed codes are uint8 bytes, got {packed.dtype}")
    if type(count) is not int:
        raise TypeError(f"count is a Python int, since it makes the shape, got {count!r}")
    _require_axis(packed, "bytes")
    size = math.ceil(count * fmt.bits / 8)
    if count < 0 or packed.shape[-1] != size:
        raise ValueError(
            f"{count} codes of {fmt.bits} bits fill {size} bytes, got {packed.shape[-1]} on the "
            "last axis; count is the length of the packed axis"
        )
    return _unpack(packed, fmt.bits, count, available_dtype(fmt))


def _require_axis(array: Array, what: str) -> None:
    if array.ndim == 0:
        raise ValueError(f"{what} are packed along the last axis, and a scalar has none: reshape")


@partial(jax.jit, static_argnums=1)
def _pack(codes: Array, bits: int) -> Array:
    string = _string(codes, bits)
    missing = -string.shape[-1] % 8
    return _numbers(jnp.pad(string, [(0, 0)] * (codes.ndim - 1) + [(0, missing)]), 8, jnp.uint8)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _unpack(packed: Array, bits: int, count: int, dtype: np.dtype) -> Array:
    return _numbers(_string(packed, 8)[..., : count * bits], bits, dtype)


def _string(numbers: Array, width: int) -> Array:
    """The bits of the last axis as one string, the lowest ``width`` of each number in turn."""
    places = jnp.arange(width, dtype=numbers.dtype)
    bits = (numbers[..., None] >> places).astype(jnp.uint8) & jnp.uint8(1)
    return bits.reshape(*numbers.shape[:-1], numbers.shape[-1] * width)


def _numbers(string: Array, width: int, dtype) -> Array:
    """The numbers that a string of bits is cut into, the inverse of ``_string``."""
    bits = string.reshape(*string.shape[:-1], string.shape[-1] // width, width).astype(dtype)
    return jnp.sum(bits << jnp.arange(width, dtype=dtype), axis=-1, dtype=dtype)
