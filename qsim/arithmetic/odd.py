"""Real results rounded to odd in the carrier, with integer arithmetic only.

Rounding to odd truncates, and sets the last bit of what is inexact. A number rounded so lies
between the same two neighbours of a coarser grid as the exact one does, and on the same side of
their tie, if grid points and ties have an even last bit: a second rounding is then as good as one
rounding of the exact result. Beyond the carrier's range the result is its largest or its smallest
magnitude, whose last bits are odd, and so means "beyond" and "not zero".

An intermediate result is a sign, the exponent of a word's top bit, and that word, in whose last
bit all lower bits are gathered (*jammed*). No float operation is used, since back ends flush
subnormals and contract products into sums.

Sources: S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved
algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008; IEEE 754-2019, 5.4 and 6.3
(operations, signs of zeros), 7.2 and 7.3 (invalid operations, division by zero).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from qsim.numbers.grid import CARRIERS, Carrier
from qsim.numbers.significands import unpacked

__all__ = [
    "Operand",
    "assembled",
    "difference",
    "fused",
    "nearest_shift",
    "operand",
    "product",
    "quotient",
    "root",
    "total",
]

ZERO = -(1 << 14)  # the exponent of zero, below that of every product

Words = UInt[Array, "..."]
Values = Float[Array, "..."]


class Operand(NamedTuple):
    """The numbers of an array taken apart.

    Attributes:
        magnitude: bit patterns without the sign bit.
        negative, infinite, zero, nan: whether each of them is.
        exponent: of the leading bit; ``ZERO`` for zero.
        significand: with the leading bit at the place of the carrier's implicit bit.
        carrier: in which the numbers travel.
    """

    magnitude: Words
    negative: Bool[Array, "..."]
    infinite: Bool[Array, "..."]
    zero: Bool[Array, "..."]
    nan: Bool[Array, "..."]
    exponent: Int[Array, "..."]
    significand: Words
    carrier: Carrier


def operand(x: Values) -> Operand:
    """The numbers of a float32 or float64 array taken apart."""
    carrier = CARRIERS[x.dtype.name]
    negative, magnitude, exponent, significand = unpacked(x)
    return Operand(
        magnitude=magnitude,
        negative=negative,
        infinite=magnitude == carrier.word.type(carrier.infinity),
        zero=magnitude == 0,
        nan=magnitude > carrier.word.type(carrier.infinity),
        exponent=jnp.where(magnitude == 0, ZERO, exponent),
        significand=significand,
        carrier=carrier,
    )


# --- the operations -------------------------------------------------------------------------


def total(a: Operand, b: Operand, *, down: bool, huge: str, to: str = "odd") -> Values:
    """``a + b`` rounded to odd.

    Args:
        a, b: operands of one shape and carrier.
        down: whether an exact zero that is the sum of numbers of unlike signs is minus zero, as
            it is when rounding down.
        to: ``"odd"``; or ``"nearest"`` even or ``"zero"``, for numbers of the carrier itself.
        huge: what stands for a finite result beyond the carrier's range: ``"largest"``, the
            carrier's largest number, or ``"infinity"``.
    """
    carrier = a.carrier
    swap = a.magnitude < b.magnitude
    exponent = jnp.maximum(a.exponent, b.exponent)
    large, small = (
        jnp.where(choice, b.significand, a.significand)
        << (carrier.bits - 2 - carrier.mantissa_bits)
        for choice in (swap, ~swap)
    )
    distance = exponent - jnp.minimum(a.exponent, b.exponent)
    small = _jammed_shift(small, distance.astype(carrier.word))
    like = a.negative == b.negative
    significand = jnp.where(like, large + small, large - small)
    negative = jnp.where(swap, b.negative, a.negative)
    negative = jnp.where(significand == 0, jnp.where(like, a.negative, down), negative)
    return assembled(
        jnp.where(a.infinite | b.infinite, jnp.where(a.infinite, a.negative, b.negative), negative),
        exponent + 1,
        significand,
        carrier,
        huge,
        to=to,
        infinite=a.infinite | b.infinite,
        invalid=a.nan | b.nan | (a.infinite & b.infinite & ~like),
    )


def difference(a: Operand, b: Operand, *, down: bool, huge: str) -> Values:
    """``a - b`` rounded to odd; arguments as for ``total``."""
    return total(a, b._replace(negative=~b.negative), down=down, huge=huge)


def product(a: Operand, b: Operand, *, down: bool, huge: str, to: str = "odd") -> Values:
    """``a * b`` rounded to odd; arguments as for ``total``."""
    carrier = a.carrier
    high, low = _multiplied(a.significand, b.significand, carrier)
    # two words hold the product with its leading bit at the last or last but one place
    significand = _jammed(high << 1 | low >> (carrier.bits - 1), low << 1)
    return assembled(
        a.negative ^ b.negative,
        a.exponent + b.exponent + 1,
        significand,
        carrier,
        huge,
        to=to,
        infinite=a.infinite | b.infinite,
        invalid=a.nan | b.nan | (a.infinite & b.zero) | (a.zero & b.infinite),
    )


def fused(a: Operand, b: Operand, c: Operand, *, down: bool, huge: str, to: str = "odd") -> Values:
    """``a * b + c`` rounded to odd, the product being exact; arguments as for ``total``."""
    carrier = a.carrier
    product_negative = a.negative ^ b.negative
    product_infinite = a.infinite | b.infinite
    like = product_negative == c.negative
    x = _multiplied(a.significand, b.significand, carrier)
    y = c.significand << (carrier.bits - 2 - carrier.mantissa_bits), jnp.zeros_like(c.significand)
    x_exponent, y_exponent = a.exponent + b.exponent + 1, c.exponent
    exponent = jnp.maximum(x_exponent, y_exponent)
    x = _jammed_long_shift(*x, exponent - x_exponent, carrier)
    y = _jammed_long_shift(*y, exponent - y_exponent, carrier)
    smaller = (x[0] < y[0]) | ((x[0] == y[0]) & (x[1] < y[1]))
    high, low = _long_sum(x, y, like, smaller)
    negative = jnp.where(smaller, c.negative, product_negative)
    negative = jnp.where((high | low) == 0, jnp.where(like, c.negative, down), negative)
    up, significand = _long_normalised(high, low, carrier)
    return assembled(
        jnp.where(
            product_infinite | c.infinite,
            jnp.where(product_infinite, product_negative, c.negative),
            negative,
        ),
        exponent + 1 - up,
        significand,
        carrier,
        huge,
        to=to,
        infinite=product_infinite | c.infinite,
        invalid=(a.nan | b.nan | c.nan)
        | (a.infinite & b.zero)
        | (a.zero & b.infinite)
        | (product_infinite & c.infinite & ~like),
    )


def quotient(a: Operand, b: Operand, *, down: bool, huge: str) -> Values:
    """``a / b`` rounded to odd; arguments as for ``total``.

    Long division in digits of as many bits as a word has more than a significand.
    """
    carrier = a.carrier
    precision = carrier.mantissa_bits + 1
    width = carrier.bits - precision
    digits = -(-precision // width)
    divisor = jnp.maximum(b.significand, carrier.word.type(1))
    found, rest = _division_step(a.significand, divisor)
    for _ in range(digits):
        digit, rest = _division_step(rest << width, divisor)
        found = found << width | digit
    significand = _jammed(found << (carrier.bits - 1 - digits * width), rest)
    return assembled(
        a.negative ^ b.negative,
        a.exponent - b.exponent,
        jnp.where(b.infinite, 0, significand).astype(carrier.word),
        carrier,
        huge,
        infinite=a.infinite | b.zero,
        invalid=a.nan | b.nan | (a.infinite & b.infinite) | (a.zero & b.zero),
    )


def root(a: Operand, *, down: bool, huge: str) -> Values:
    """The square root of ``a`` rounded to odd; arguments as for ``total``.

    Digit by digit in base two: each step takes two bits of the radicand and gives one of the root.
    """
    carrier, word = a.carrier, a.carrier.word.type
    odd_exponent = (a.exponent & 1).astype(carrier.word)
    places = carrier.mantissa_bits + carrier.mantissa_bits % 2  # after the point, an even number
    radicand = a.significand << (carrier.mantissa_bits % 2) << odd_exponent
    length = carrier.mantissa_bits + 2
    found = rest = jnp.zeros_like(radicand)
    for place in range(places, places - 2 * length, -2):
        rest = rest << 2
        if place >= 0:
            rest = rest | (radicand >> place) & word(3)
        trial = found << 2 | word(1)
        fits = rest >= trial
        rest = jnp.where(fits, rest - trial, rest)
        found = found << 1 | fits.astype(carrier.word)
    return assembled(
        a.negative,
        a.exponent >> 1,
        _jammed(found << (carrier.bits - length), rest),
        carrier,
        huge,
        infinite=a.infinite,
        invalid=a.nan | (a.negative & ~a.zero),
    )


# --- words ----------------------------------------------------------------------------------


def _jammed(word: Words, rest: Words) -> Words:
    """``word`` with its last bit set where ``rest``, what lies below it, is not zero."""
    return word | (rest != 0).astype(word.dtype)


def _jammed_shift(word: Words, down: Words) -> Words:
    """``word >> down``, jammed; shifts by the width of the word or more leave nothing."""
    shifted = word >> down
    return _jammed(shifted, word ^ shifted << down)


def nearest_shift(word: Words, down: Words) -> Words:
    """``word >> down``, rounded to nearest even; more than the width of the word leaves nothing."""
    shifted, half = word >> down, jnp.ones_like(word) << (down - 1)
    rest = word ^ shifted << down
    up = (rest > half) | ((rest == half) & (shifted & 1 == 1))
    return shifted + (up & (half > 0)).astype(word.dtype)


SHIFTS = {"odd": _jammed_shift, "nearest": nearest_shift, "zero": jnp.right_shift}


def _division_step(dividend: Words, divisor: Words) -> tuple[Words, Words]:
    digit = lax.div(dividend, divisor)
    return digit, dividend - digit * divisor


def _multiplied(a: Words, b: Words, carrier: Carrier) -> tuple[Words, Words]:
    """The product of two significands as two words, high and low.

    The place of a product's highest possible bit is the last but one of the two words.
    """
    precision = carrier.mantissa_bits + 1
    half = (precision + 1) // 2
    mask = carrier.word.type((1 << half) - 1)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + a_low * b_high
    low = a_low * b_low + ((middle & mask) << half)
    high = a_high * b_high + (middle >> half) + (low >> 2 * half)
    low = low & carrier.word.type((1 << 2 * half) - 1)
    up = 2 * carrier.bits - 1 - 2 * precision
    return high << (2 * half + up - carrier.bits) | low >> (carrier.bits - up), low << up


# --- numbers of two words -------------------------------------------------------------------
# Shifts by the width of a word or more give zero; a negative count wraps to such a one.


def _jammed_long_shift(high: Words, low: Words, down: Array, carrier: Carrier):
    """The two words shifted down, jammed."""
    width = carrier.word.type(carrier.bits)
    down = jnp.minimum(down, 2 * carrier.bits).astype(carrier.word)
    lost = low << (width - down) | high << (2 * width - down)
    lost = lost | jnp.where(down > width, low, 0).astype(carrier.word)
    shifted = low >> down | high << (width - down) | high >> (down - width)
    return high >> down, _jammed(shifted, lost)


def _long_sum(x: tuple, y: tuple, like: Array, smaller: Array) -> tuple[Words, Words]:
    """``x + y`` where ``like`` is true, else their distance; ``smaller`` tells whether x < y."""
    low = x[1] + y[1]
    high = x[0] + y[0] + (low < x[1]).astype(low.dtype)
    (a_high, a_low), (b_high, b_low) = (
        [jnp.where(choice, v, u) for u, v in zip(x, y, strict=True)]
        for choice in (smaller, ~smaller)
    )
    apart_high = a_high - b_high - (a_low < b_low).astype(low.dtype)
    return jnp.where(like, high, apart_high), jnp.where(like, low, a_low - b_low)


def _long_normalised(high: Words, low: Words, carrier: Carrier) -> tuple[Array, Words]:
    """By how much the two words must move up to have their top bit set, and the jammed result."""
    width = carrier.word.type(carrier.bits)
    up = jnp.where(high == 0, width + lax.clz(low), lax.clz(high))
    moved = high << up | low >> (width - up) | low << (up - width)
    return up.astype(jnp.int32), _jammed(moved, low << up)


# --- the result -----------------------------------------------------------------------------


def assembled(
    negative: Array,
    exponent: Array,
    significand: Words,
    carrier: Carrier,
    huge: str,
    *,
    infinite: Array,
    invalid: Array,
    to: str = "odd",
) -> Values:
    """The numbers with the given signs, exponents of the words' top bits and jammed words."""
    word, stored = carrier.word.type, carrier.mantissa_bits
    up = lax.clz(significand)
    exponent = exponent - up.astype(jnp.int32)
    binade = jnp.maximum(exponent, 1 - carrier.bias)
    down = jnp.minimum(binade - exponent, carrier.bits).astype(carrier.word)
    kept = SHIFTS[to](significand << up, down + word(carrier.bits - 1 - stored))
    magnitude = kept + ((binade + (carrier.bias - 1)).astype(carrier.word) << stored)
    beyond = word(carrier.infinity - (huge == "largest"))
    magnitude = jnp.where(exponent > carrier.bias, beyond, jnp.minimum(magnitude, beyond))
    magnitude = jnp.where(significand == 0, word(0), magnitude)
    magnitude = jnp.where(infinite, word(carrier.infinity), magnitude)
    signed = jnp.where(negative, magnitude | word(carrier.sign), magnitude)
    bits = jnp.where(invalid, word(carrier.nan), signed)
    return lax.bitcast_convert_type(bits, jnp.dtype(carrier.name))
