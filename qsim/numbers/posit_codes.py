"""Codes of posits and takums, from bit patterns of the carrier and back.

The code of a magnitude is its regime followed by the low bits of its aligned pattern, exponent and
fraction, of which the code has room for as many as are not zero. Negative codes are two's
complements.

Sources: the layouts of ``qsim.numbers.posits``; equal to ``exact.encode`` and ``exact.decode``.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.numbers.codes import decoded, encoded
from qsim.numbers.formats import Format
from qsim.numbers.grid import Carrier
from qsim.numbers.posits import Posit, Takum

__all__: list[str] = []


@encoded.register
def _(fmt: Posit, bits: Array, carrier: Carrier) -> Array:
    stored, word = carrier.mantissa_bits, carrier.word.type
    exponent = _exponent(bits, carrier)
    regime = exponent >> fmt.es
    run = jnp.where(regime < 0, -regime, regime + 1)
    ones = (word(1) << _amount(run, carrier)) - word(1)
    head = jnp.where(regime < 0, word(1), ones << 1)  # with the bit that ends the run
    aligned = _fraction(bits, carrier) | _amount(exponent, carrier) << stored
    tail = aligned & word((1 << (stored + fmt.es)) - 1)
    return _signed(head, run + 1, tail, stored + fmt.es, bits, fmt, carrier)


@encoded.register
def _(fmt: Takum, bits: Array, carrier: Carrier) -> Array:
    stored, word = carrier.mantissa_bits, carrier.word.type
    exponent = _exponent(bits, carrier)
    upward = exponent >= 0
    r = 31 - lax.clz(jnp.where(upward, exponent + 1, -exponent))
    head = jnp.where(upward, 8 + r, 7 - r)
    characteristic = jnp.where(upward, exponent + 1, exponent - 1) & ((1 << r) - 1)
    tail = _fraction(bits, carrier) | _amount(characteristic, carrier) << stored
    length = jnp.full_like(r, 4)
    return _signed(_amount(head, carrier) & word(15), length, tail, r + stored, bits, fmt, carrier)


@decoded.register
def _(fmt: Posit, codes: Array, carrier: Carrier) -> Array:
    body = _body(codes, fmt, carrier)
    upward = body >= carrier.word.type(carrier.sign)
    run = lax.clz(jnp.where(upward, ~body, body))
    regime = lax.convert_element_type(run, jnp.int32)
    regime = jnp.where(upward, regime - 1, -regime)
    tail = body << run << 1
    return _valued(codes, regime << fmt.es, tail, fmt.es, fmt, carrier)


@decoded.register
def _(fmt: Takum, codes: Array, carrier: Carrier) -> Array:
    body = _body(codes, fmt, carrier)
    head = lax.convert_element_type(body >> (carrier.bits - 4), jnp.int32)
    upward = head >= 8
    r = jnp.where(upward, head - 8, 7 - head)
    start = jnp.where(upward, (1 << r) - 1, 1 - (2 << r))
    return _valued(codes, start, body << 4, r, fmt, carrier)


# --- what both have in common ---------------------------------------------------------------


def _amount(count: Array | int, carrier: Carrier) -> Array:
    return lax.convert_element_type(count, carrier.word)


def _exponent(bits: Array, carrier: Carrier) -> Array:
    field = (bits & carrier.word.type(carrier.sign - 1)) >> carrier.mantissa_bits
    return lax.convert_element_type(field, jnp.int32) - carrier.bias


def _fraction(bits: Array, carrier: Carrier) -> Array:
    return bits & carrier.word.type((1 << carrier.mantissa_bits) - 1)


def _moved(word: Array, up: Array, carrier: Carrier) -> Array:
    """``word * 2**up``, rounded down."""
    left, right = (_amount(jnp.maximum(n, 0), carrier) for n in (up, -up))
    return word << left >> right


def _signed(head, length, tail, width, bits: Array, fmt: Format, carrier: Carrier) -> Array:
    """The code of ``head``, of ``length`` bits, followed by the bits of ``tail``."""
    word, room = carrier.word.type, fmt.bits - 1 - length
    code = _moved(head, room, carrier) | _moved(tail, room - width, carrier)
    code = jnp.where(bits & word(carrier.sign - 1) == 0, word(0), code)
    negative = bits >= word(carrier.sign)
    return jnp.where(negative, ~code + word(1), code) & word(2**fmt.bits - 1)


def _body(codes: Array, fmt: Format, carrier: Carrier) -> Array:
    """The magnitude's code without its sign bit, at the top of a word."""
    word = carrier.word.type
    negative = codes >> (fmt.bits - 1) == 1
    return jnp.where(negative, ~codes + word(1), codes) << (carrier.bits + 1 - fmt.bits)


def _valued(codes, start, tail, width, fmt: Format, carrier: Carrier) -> Array:
    """The pattern of ``2**start`` times what ``tail``, at the top of a word, says.

    Its first ``width`` bits are added to the exponent, the others are the fraction.
    """
    word, stored = carrier.word.type, carrier.mantissa_bits
    down = _amount(carrier.bits - stored - width, carrier)
    pattern = (_amount(start + carrier.bias, carrier) << stored) + (tail >> down)
    negative = codes >> (fmt.bits - 1) == 1
    pattern = jnp.where(negative, pattern | word(carrier.sign), pattern)
    pattern = jnp.where(codes == word(fmt.nan_code), word(carrier.nan), pattern)
    return jnp.where(codes == 0, word(0), pattern)
