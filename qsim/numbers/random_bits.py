"""Keys, and the random words that stochastic rounding draws with them.

A key names a stream of random words, one for each element of an array, by its flat index. Two
kinds of keys serve wherever qsim takes one:

- a key of ``jax.random.key``, whose words are those of ``jax.random.bits``;
- a ``CounterKey``, of ``counter_key``, whose word for element i is a function of i and of 64 bits
  of key alone. That is many times faster on CPUs, and whoever computes a part of an array can
  compute that part's words.

The counter-based generators, for a counter c and a key of two words (high, low):

- ``"squares"``: four rounds of squaring mod 2**64, ``squares32``; its author's tests include
  BigCrush and PractRand.
- ``"triple32"``: a permutation of 32 bits (three multiplications between xor-shifts) of
  ``c + low``, with ``high`` added after the first multiplication. It is cheaper, and was tested
  here only: bias and correlation of bits, of neighbouring counters and of neighbouring keys.

Keys are derived from seeds and from other keys by ``squares64``, on counters that no element of an
array has, and made odd. Squares wants keys of irregular digits: hashed keys have them, but for a
negligible share.

Sources: B. Widynski, Squares: A Fast Counter-Based RNG, arXiv:2004.06278 (``squares32``,
``squares64``); C. Wellons, hash-prospector, three-round functions (``triple32``).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Integer, UInt

from qsim.numbers.modes import Rounding, require_one_of
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.records import shown

__all__ = ["CounterKey", "Key", "check_key", "counter_key", "fold_in", "random_words", "words_at"]

ROOT = 0xC58EFD154CE32F6D  # a key with published vectors; seeds are its counters
ELEMENTS = 1 << 32  # counters below number elements, those from here on derive keys


@pytree
@dataclass(frozen=True, kw_only=True)
class CounterKey:
    """The key of a counter-based generator; made by ``counter_key``.

    Attributes:
        words: uint32 of shape ``[2]``, the high and the low half of the key; ``jax.vmap`` over
            keys adds axes in front.
        generator: a key of ``GENERATORS``.
    """

    words: Any
    generator: str = static(default="squares")


Key = Array | CounterKey


def counter_key(seed: int | Integer[Array, ""], *, generator: str = "squares") -> CounterKey:
    """The key of a fast counter-based generator, for every ``key=`` in qsim.

    Args:
        seed: an integer in 0..2**64-1, or an integer array of shape ``[]``, which may be traced
            and of which the low 32 bits count.
        generator: ``"squares"`` or ``"triple32"``, see ``qsim.numbers.random_bits``.

    Raises:
        ValueError: for a seed out of range, or an unknown generator.

    >>> from qsim import quantize
    >>> x = jnp.full(4, 1.06)
    >>> quantize(x, "e4m3", rounding="stochastic", key=counter_key(0)).tolist()
    [1.0, 1.0, 1.125, 1.0]
    """
    require_one_of("generator", generator, GENERATORS)
    if isinstance(seed, int):
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is an integer in 0..2**64-1, got {seed}")
        high, low = divmod(seed, 2**32)
    else:
        high, low = 0, seed
    root = _words(*divmod(ROOT, 2**32))
    return CounterKey(words=_derived(root, _word(high), _word(low)), generator=generator)


def fold_in(key: Key, data: int | Integer[Array, ""]) -> Key:
    """A key of the same kind, that a key and an integer of 32 bits determine.

    Raises:
        TypeError: if ``key`` is not a key, or ``data`` not an integer.
        ValueError: for a batch of keys, or an integer outside 0..2**32-1.

    >>> from qsim import counter_key
    >>> fold_in(counter_key(0), 7).words.tolist()
    [23480734, 1322132561]
    """
    if isinstance(key, CounterKey):
        words = _derived(key.words, _word(ELEMENTS >> 32), _word(data))
        return CounterKey(words=words, generator=key.generator)
    _require_one_key(key)
    return jax.random.fold_in(key, _word(data))


def check_key(key: Key | None, rounding: str) -> None:
    """Checks that there is a key where a mode draws random bits, and none where it does not.

    Raises:
        ValueError: if one is missing or superfluous.
    """
    if (key is None) == Rounding.parse(rounding).is_stochastic:
        need = "needs a random key: pass key=jax.random.key(0)" if key is None else "takes no key"
        raise ValueError(f"rounding={rounding!r} {need}")


def random_words(key: Key, shape: tuple[int, ...], mode: Rounding) -> UInt[Array, "..."]:
    """Uniform 32-bit words whose top ``mode.random_bits`` bits are random and the rest zero.

    The words are the same in every shape of the same size, eagerly and under ``jit``, ``vmap`` and
    ``scan``. A key that is captured under ``jax.vmap`` gives every row the same words: fold the
    row's number in, or map over keys.

    Raises:
        TypeError: if ``key`` is not a key.
        ValueError: for a batch of keys, a jax.random generator whose words under ``vmap`` are
            others than alone (rbg), or more than 2**32 elements for a counter key.
    """
    _require_one_key(key)
    if isinstance(key, CounterKey):
        words = _words_of(key, shape)
    else:
        words = jax.random.bits(key, shape, jnp.uint32)
    return words & jnp.uint32((0xFFFFFFFF << (32 - mode.random_bits)) & 0xFFFFFFFF)


def words_at(key: CounterKey, index: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """The random words of the elements with these flat indices, which are uint32.

    >>> index = jnp.arange(2, dtype=jnp.uint32)
    >>> words_at(CounterKey(words=_words(*divmod(ROOT, 2**32))), index).tolist()
    [2203244565, 1298422897]
    """
    high, low = jnp.asarray(key.words)
    return GENERATORS[key.generator](high, low, index)


@partial(jax.jit, static_argnums=1, inline=True)
def _words_of(key: CounterKey, shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """The words of all elements, as one computation also where nothing else is compiled."""
    return words_at(key, _flat_index(shape))


# --- generators -----------------------------------------------------------------------------


@partial(jax.jit, inline=True)
def squares32(high: Array, low: Array, counter: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """Widynski's ``squares32`` of uint32 counters, whose upper halves are zero."""
    with jax.enable_x64(True):  # the words in between have 64 bits, whatever the user's setting
        x, _, z = _three_rounds(_wide(high, low), lax.convert_element_type(counter, jnp.uint64))
        return lax.convert_element_type((x * x + z) >> 32, jnp.uint32)


@partial(jax.jit, inline=True)
def squares64(high: Array, low: Array, above: Array, below: Array) -> tuple[Array, Array]:
    """Widynski's ``squares64`` of the counter ``above * 2**32 + below``, as two uint32 words."""
    with jax.enable_x64(True):
        x, y, z = _three_rounds(_wide(high, low), _wide(above, below))
        fourth = x * x + z
        x = _swapped(fourth)
        word = fourth ^ ((x * x + y) >> 32)
        return tuple(lax.convert_element_type(half, jnp.uint32) for half in (word >> 32, word))


def _three_rounds(key: Array, counter: Array) -> tuple[Array, Array, Array]:
    y = counter * key
    z = y + key
    x = _swapped(y * y + y)
    x = _swapped(x * x + z)
    return _swapped(x * x + y), y, z


def _swapped(x: Array) -> Array:
    return (x >> 32) | (x << 32)


def _wide(high: Array, low: Array) -> Array:
    high, low = (lax.convert_element_type(half, jnp.uint64) for half in (high, low))
    return (high << 32) | low


@partial(jax.jit, inline=True)
def triple32(high: Array, low: Array, counter: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """Wellons's ``triple32`` with a key: of ``counter + low``, ``high`` added on the way."""
    x = counter + low
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB) + high
    x = (x ^ (x >> 11)) * jnp.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * jnp.uint32(0x31848BAB)
    return x ^ (x >> 14)


GENERATORS = {"squares": squares32, "triple32": triple32}


# --- keys and counters ----------------------------------------------------------------------


def _words(high: int, low: int) -> UInt[Array, "2"]:
    return jnp.array([high, low], jnp.uint32)


def _word(number: int | Array) -> Array:
    if isinstance(number, int):
        if not 0 <= number < 2**32:
            raise ValueError(f"a key is folded with an integer in 0..2**32-1, got {number}")
        return jnp.uint32(number)
    if not jnp.issubdtype(getattr(number, "dtype", None), jnp.integer) or jnp.ndim(number):
        raise TypeError(f"seeds and what is folded in are single integers, got {shown(number)}")
    return lax.convert_element_type(number, jnp.uint32)


def _derived(words: Any, above: Array, below: Array) -> UInt[Array, "2"]:
    """The words of the key that a key has at a counter."""
    high, low = squares64(*jnp.asarray(words), above, below)
    return jnp.stack([high, low | jnp.uint32(1)])


def _flat_index(shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """The number of every element in row-major order."""
    if math.prod(shape) > ELEMENTS:
        raise ValueError(
            f"a counter key numbers up to 2**32 elements, got shape {shape}: "
            "round the array in parts, each with its own fold_in, or use jax.random.key"
        )
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]))
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return index


def _require_one_key(key: Key) -> None:
    remedy = "make one with jax.random.key(0) or qsim.counter_key(0)"
    if isinstance(key, CounterKey):
        shape, batch = jnp.shape(key.words), jnp.ndim(key.words) != 1
    elif isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        shape, batch, kind = key.shape, key.ndim != 0, str(jax.random.key_impl(key))
        if "rbg" in kind:
            raise ValueError(f"the words of a {kind} key depend on how it is batched: {remedy}")
    elif isinstance(key, jax.Array) and key.dtype == np.uint32:
        shape, batch = key.shape, key.ndim != 1 or not key.size  # one of jax.random.PRNGKey
    else:
        raise TypeError(f"a random key is needed, got {key!r}: {remedy}")
    if batch:
        raise ValueError(f"one key is needed, got a batch of shape {shape}: use jax.vmap over keys")
