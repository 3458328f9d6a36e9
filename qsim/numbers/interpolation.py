"""Whether stochastic rounding moves a number between any two others, exactly.

Every stochastic mode compares a fraction ``(x - near) / (far - near)`` with ``1 - share`` for a
share that the random bits give, a multiple of ``2**-(w + 1)`` for words of w bits. Multiplied out::

    2**(w + 1) * (x - far) + 2**(w + 1) * share * (far - near)  >=  0

with products of a significand and a word, at three exponents. They are summed in three words, in
two's complement, with w + 4 bits below the last place of ``far``; what lies below these is cut off,
toward -infinity. That leaves the sign of the sum as it is: where only one term is cut, since the
sum of an integer and a fraction is negative if the integer is; where those of both x and ``near``
are, since they are then so small that ``far`` outweighs them.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, UInt

from qsim.numbers.grid import Carrier, word
from qsim.numbers.modes import Rounding

__all__ = ["moves"]

SPARE = 4  # bits to the left of the highest product

Wide = tuple[Array, Array, Array]  # three words in two's complement, the highest first


def moves(
    x: UInt[Array, "..."],
    near: UInt[Array, "..."],
    far: UInt[Array, "..."],
    random: UInt[Array, "..."],
    *,
    mode: Rounding,
    carrier: Carrier,
) -> Bool[Array, "..."]:
    """Whether x moves to ``far``.

    Args:
        x, near, far: bit patterns of the carrier; x lies between the others, of which ``far`` is
            not the one of smaller magnitude. Infinity stands for the power of two that its
            exponent field would mean.
        random: 32-bit words with the random bits at the top.
        mode: a stochastic mode.

    >>> from qsim.numbers.grid import CARRIERS
    >>> x, near, far = (jnp.float32(v).view(jnp.uint32) for v in (0.25, 0.0, 1.0))
    >>> random = jnp.uint32(3 << 30)
    >>> mode, carrier = Rounding.parse("stochastic:2"), CARRIERS["float32"]
    >>> bool(moves(x, near, far, random, mode=mode, carrier=carrier))
    True
    """
    if mode.mode == "stochastic_equal":
        drawn = random >= jnp.uint32(1 << 31)
    else:
        drawn = _reaches(x, near, far, _share(random, mode, carrier), carrier)
    return (x != near) & (drawn | (x == far))


class _Share(NamedTuple):
    """What a fraction and its complement to 1 are compared with.

    Attributes:
        word, half: the share is ``(word + half / 2) * 2**-w``, for words of w bits.
        strict: whether a fraction of ``1 - share`` itself stays.
    """

    word: Array
    half: Array
    strict: Array


def _share(random: UInt[Array, "..."], mode: Rounding, carrier: Carrier) -> _Share:
    bits = lax.convert_element_type(random, carrier.word) << (carrier.bits - 32)
    none = jnp.zeros_like(bits)
    if mode.mode == "stochastic":
        return _Share(bits, none, none != none)
    # half a unit of the random bits, which for as many bits as a word has is half of the word's
    unit = carrier.bits - mode.random_bits
    odd = random >> (32 - mode.random_bits) & jnp.uint32(1) != 0
    strict = odd if mode.mode == "stochastic_c" else none != none
    if unit == 0:
        return _Share(bits, jnp.ones_like(bits), strict)
    return _Share(bits | word(1 << (unit - 1), carrier), none, strict)


def _reaches(x: Array, near: Array, far: Array, share: _Share, carrier: Carrier) -> Array:
    """Whether the fraction is at least ``1 - share``; or more than that, where it is strict.

    There the sum with the opposite sign is taken, and must be negative.
    """
    flip = far & word(carrier.sign, carrier)  # from here on far is positive, and the larger one
    x, near, far = x ^ flip, near ^ flip, far ^ flip
    own, other = (_exponent(far, carrier) - _exponent(number, carrier) for number in (x, near))
    from_near = ~_negative(near, carrier)
    terms = [
        _cut(_signed(_whole(x, carrier), _negative(x, carrier) ^ share.strict), own, carrier),
        _cut(_signed(_shared(near, share, carrier), from_near ^ share.strict), other, carrier),
        _signed(_whole(far, carrier), ~share.strict),
        _signed(_shared(far, share, carrier), share.strict),
    ]
    negative = _negative(reduce(_sum, terms)[0], carrier)
    return negative == share.strict


def _whole(bits: Array, carrier: Carrier) -> Wide:
    """A significand times ``2**(w + 1)``."""
    none = jnp.zeros_like(bits)
    return _significand(bits, carrier) << (1 + SPARE), none, none


def _shared(bits: Array, share: _Share, carrier: Carrier) -> Wide:
    """A significand times ``2**(w + 1)`` times the share."""
    significand, none = _significand(bits, carrier) << SPARE, jnp.zeros_like(bits)
    product = (*_product(significand << 1, share.word, carrier), none)
    return _sum(product, (none, significand * share.half, none))


# --- bit patterns and words -------------------------------------------------------------------


def _negative(bits: Array, carrier: Carrier) -> Array:
    return bits >= word(carrier.sign, carrier)


def _exponent(bits: Array, carrier: Carrier) -> Array:
    """The exponent field; the subnormals' is that of the lowest binade."""
    return jnp.maximum((bits & word(carrier.sign - 1, carrier)) >> carrier.mantissa_bits, 1)


def _significand(bits: Array, carrier: Carrier) -> Array:
    implicit, stored = 1 << carrier.mantissa_bits, carrier.mantissa_bits
    normal = jnp.minimum(bits & word(carrier.sign - 1, carrier), implicit) >> stored
    return (bits & word(implicit - 1, carrier)) | normal << stored


def _product(a: Array, b: Array, carrier: Carrier) -> tuple[Array, Array]:
    """The product of two words, in two words."""
    half, mask = carrier.bits // 2, word((1 << carrier.bits // 2) - 1, carrier)
    low, high = (a & mask) * (b & mask), (a >> half) * (b >> half)
    cross, other = (a & mask) * (b >> half), (a >> half) * (b & mask)
    middle = (low >> half) + (cross & mask) + (other & mask)
    high = high + (cross >> half) + (other >> half) + (middle >> half)
    return high, middle << half | low & mask


def _sum(a: Wide, b: Wide) -> Wide:
    low = a[2] + b[2]
    carry = (low < a[2]).astype(low.dtype)
    middle = a[1] + b[1]
    wrapped = (middle < a[1]).astype(low.dtype)
    carried = middle + carry
    return a[0] + b[0] + wrapped + (carried < carry).astype(low.dtype), carried, low


def _signed(a: Wide, negative: Array) -> Wide:
    """``-a`` where it is to be negative."""
    one = negative.astype(a[0].dtype)
    return _sum(tuple(jnp.where(negative, ~word, word) for word in a), (one - one, one - one, one))


def _cut(a: Wide, places: Array, carrier: Carrier) -> Wide:
    """``floor(a / 2**places)``."""
    fill = jnp.where(_negative(a[0], carrier), ~jnp.zeros_like(a[0]), 0)
    high, middle, low = a
    for words in (1, 2):  # by one word where there is one to go, then by one more
        further = places >= words * carrier.bits
        low = jnp.where(further, middle, low)
        middle = jnp.where(further, high, middle)
        high = jnp.where(further, fill, high)
    right = places & word(carrier.bits - 1, carrier)
    left = word(carrier.bits - 1, carrier) - right
    low = middle << 1 << left | low >> right
    middle = high << 1 << left | middle >> right
    high = fill << 1 << left | high >> right
    beyond = places >= 3 * carrier.bits
    return tuple(jnp.where(beyond, fill, word) for word in (high, middle, low))
