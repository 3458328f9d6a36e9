"""How far a number lies on the way from one number to another, exactly.

Stochastic rounding moves x from ``near`` to ``far`` if the fraction ``(x - near) / (far - near)``
is at least ``1 - random / 2**w``, where w is the width of a word of the carrier. Multiplied out::

    2**w * (x - far) + random * (far - near) >= 0

which holds products of a significand and a word, at three exponents. They are summed in three
words, in two's complement, in units of ``2**-w`` of the last place of ``far``; what lies below is
cut off, toward -infinity. That leaves the sign of the sum as it is: where only one term is cut,
since the sum of an integer and a fraction is negative if the integer is; where both x and ``near``
are so small that they are cut, since ``far`` outweighs them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt

from qsim.numbers.grid import Carrier

__all__ = ["reaches"]

Wide = tuple[Array, Array, Array]  # three words in two's complement, the highest first


def reaches(
    x: UInt[Array, "..."],
    near: UInt[Array, "..."],
    far: UInt[Array, "..."],
    random: UInt[Array, "..."],
    *,
    carrier: Carrier,
) -> Bool[Array, "..."]:
    """Whether x has come at least ``1 - random / 2**w`` of the way from ``near`` to ``far``.

    Args:
        x, near, far: bit patterns of the carrier; x lies between the others, of which ``far`` is
            not the one of smaller magnitude. Infinity stands for the power of two that its
            exponent field would mean.
        random: words of the carrier, of w bits.

    >>> from qsim.numbers.grid import CARRIERS
    >>> x, near, far = (jnp.float32(v).view(jnp.uint32) for v in (0.25, 0.0, 1.0))
    >>> random = jnp.uint32(3 << 30)
    >>> bool(reaches(x, near, far, random, carrier=CARRIERS["float32"]))
    True
    """
    flip = far & _word(carrier.sign, carrier)  # from here on far is positive, and the larger one
    x, near, far = x ^ flip, near ^ flip, far ^ flip
    places = [_exponent(far, carrier) - _exponent(number, carrier) for number in (x, near)]
    whole = _significand(far, carrier)
    zero = jnp.zeros_like(whole)
    own = _shifted(_signed((_significand(x, carrier), zero, zero), x, carrier), places[0], carrier)
    share = (*_product(_significand(near, carrier), random, carrier), zero)
    share = _shifted(_signed(share, ~near, carrier), places[1], carrier)
    rest = _sum((*_product(whole, random, carrier), zero), _negative((whole, zero, zero)))
    total = _sum(_sum(own, share), rest)
    return total[0] < _word(carrier.sign, carrier)


def _word(value: int, carrier: Carrier):
    return carrier.word.type(value)


def _exponent(bits: Array, carrier: Carrier) -> Array:
    """The exponent field; the subnormals' is that of the lowest binade."""
    return jnp.maximum((bits & ~_word(carrier.sign, carrier)) >> carrier.mantissa_bits, 1)


def _significand(bits: Array, carrier: Carrier) -> Array:
    implicit = 1 << carrier.mantissa_bits
    normal = jnp.minimum(bits & _word(carrier.sign - 1, carrier), implicit) >> carrier.mantissa_bits
    return (bits & _word(implicit - 1, carrier)) | normal << carrier.mantissa_bits


# --- arithmetic on words ----------------------------------------------------------------------


def _product(a: Array, b: Array, carrier: Carrier) -> tuple[Array, Array]:
    """The product of two words, in two words."""
    half, mask = carrier.bits // 2, _word((1 << carrier.bits // 2) - 1, carrier)
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


def _negative(a: Wide) -> Wide:
    one = jnp.ones_like(a[0])
    return _sum((~a[0], ~a[1], ~a[2]), (one ^ one, one ^ one, one))


def _signed(a: Wide, sign: Array, carrier: Carrier) -> Wide:
    """A magnitude with the sign of a bit pattern."""
    negative = sign >= _word(carrier.sign, carrier)
    return tuple(
        jnp.where(negative, minus, plus) for minus, plus in zip(_negative(a), a, strict=True)
    )


def _shifted(a: Wide, places: Array, carrier: Carrier) -> Wide:
    """``floor(a / 2**places)``."""
    fill = jnp.where(a[0] >= _word(carrier.sign, carrier), ~jnp.zeros_like(a[0]), 0)
    high, middle, low = a
    for words in (1, 2):  # by one word where there is one to go, then by one more
        by_word = places >= words * carrier.bits
        high, middle, low = (
            jnp.where(by_word, above, word)
            for above, word in ((fill, high), (high, middle), (middle, low))
        )
    bits = places & _word(carrier.bits - 1, carrier)
    left = _word(carrier.bits - 1, carrier) - bits
    down = [fill << 1 << left | high >> bits, high << 1 << left | middle >> bits]
    down.append(middle << 1 << left | low >> bits)
    beyond = places >= 3 * carrier.bits
    return tuple(jnp.where(beyond, fill, word) for word in down)
