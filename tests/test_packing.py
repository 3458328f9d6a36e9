"""Packed codes of every width are one little-endian integer, as Python's integers tell."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from tests.unchecked import unchecked

# of those beyond 12 bits, what lies about the ends of words, and some between
WIDTHS = (13, 15, 16, 17, 24, 31, 32, 33, 47, 63, 64)


def codes_of(width: int, count: int, seed: int = 0) -> np.ndarray:
    """Random codes, after those of all ones, of one bit at either end and of alternating bits."""
    ones = 2**width - 1
    first = [ones, 1, 1 << (width - 1), 0, ones // 3, ones - ones // 3]
    random = np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)
    codes = np.append(np.array(first, np.uint64), random)[:count] & np.uint64(ones)
    return codes.astype(f"uint{max(8, 1 << (width - 1).bit_length())}")


def expected_bytes(codes, width: int) -> list[int]:
    whole = sum(int(code) << (i * width) for i, code in enumerate(codes))
    return list(whole.to_bytes(math.ceil(len(codes) * width / 8), "little"))


def assert_packs(codes: np.ndarray, width: int) -> None:
    packed = qsim.pack(codes, f"uint{width}")
    assert packed.dtype == jnp.uint8 and packed.tolist() == expected_bytes(codes, width)
    back = qsim.unpack(packed, f"uint{width}", len(codes))
    assert back.dtype == codes.dtype and back.tolist() == codes.tolist()


@pytest.mark.t1
@pytest.mark.parametrize("width", range(1, 13))
def test_every_code_of_a_width(width):
    assert_packs(np.arange(2**width, dtype=codes_of(width, 0).dtype), width)


@pytest.mark.t1
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("width", [4, 6, 19])
def test_every_count_of_codes(width, count):
    assert_packs(codes_of(width, count), width)


@pytest.mark.parametrize(
    "width",
    [
        pytest.param(n, marks=pytest.mark.t1 if n in WIDTHS else pytest.mark.t2)
        for n in range(13, 65)
    ],
)
def test_every_width_packs_as_one_integer_and_back(width):
    with jax.enable_x64(width > 32):
        assert_packs(codes_of(width, 9), width)


def test_the_documented_layouts():
    assert qsim.pack(jnp.array([0x1, 0x2], jnp.uint8), "e2m1f").tolist() == [0x21]
    a, b, c, d = 0b000001, 0b110010, 0b101100, 0b100000
    bytes_of_three = [a | (b & 3) << 6, b >> 2 | (c & 15) << 4, c >> 4 | d << 2]
    assert qsim.pack(jnp.array([a, b, c, d], jnp.uint8), "e3m2f").tolist() == bytes_of_three
    bits = np.random.default_rng(1).integers(0, 2, 29, np.uint8)
    assert qsim.pack(bits, "uint1").tolist() == np.packbits(bits, bitorder="little").tolist()
    words = np.random.default_rng(2).integers(0, 2**16, 9, np.uint16)
    assert bytes(qsim.pack(words, "bfloat16").tolist()) == words.astype("<u2").tobytes()


@pytest.mark.parametrize(
    "width",
    [
        *(pytest.param(n, marks=pytest.mark.t1) for n in (3, 8, 19)),
        *(pytest.param(n, marks=pytest.mark.t2) for n in (1, 4, 6, 12)),
    ],
)
def test_leading_axes_jit_and_vmap_pack_each_row(width):
    fmt = f"uint{width}"
    codes = np.stack([codes_of(width, 11, seed) for seed in range(6)]).reshape(2, 3, 11)
    packed = qsim.pack(codes, fmt)
    for row, line in zip(codes.reshape(6, 11), packed.reshape(6, -1), strict=True):
        assert line.tolist() == expected_bytes(row, width)
    both = jax.vmap(jax.jit(lambda x: qsim.unpack(qsim.pack(x, fmt), fmt, 11)))
    assert both(codes).tolist() == codes.tolist()
    mapped = jax.vmap(lambda x: qsim.pack(x, fmt), in_axes=1, out_axes=1)(codes)
    assert mapped.tolist() == packed.tolist()


@pytest.mark.ci
def test_encoded_values_survive_packing():
    x = jnp.linspace(-8.0, 8.0, 101)
    codes = qsim.encode(x, "e2m3f")
    back = qsim.decode(qsim.unpack(qsim.pack(codes, "e2m3f"), "e2m3f", 101), "e2m3f")
    assert back.tolist() == qsim.quantize(x, "e2m3f").tolist()


def test_bits_beyond_the_width_are_ignored():
    assert qsim.pack(jnp.array([-1, 0x12], jnp.int8), "int4").tolist() == [0x2F]


def test_mistakes_are_named():
    with unchecked(), pytest.raises(TypeError, match="codes are integers, got float32: make"):
        qsim.pack(jnp.ones(3), "int4")
    with unchecked(), pytest.raises(ValueError, match="a scalar has none"):
        qsim.pack(jnp.uint8(3), "int4")
    with pytest.raises(ValueError, match="3 codes of 4 bits fill 2 bytes, got 3"):
        qsim.unpack(jnp.zeros(3, jnp.uint8), "int4", 3)
    with pytest.raises(ValueError, match="-1 codes of 4 bits"):
        qsim.unpack(jnp.zeros(0, jnp.uint8), "int4", -1)
    with unchecked(), pytest.raises(TypeError, match="packed codes are uint8 bytes, got int32"):
        qsim.unpack(jnp.zeros(3, jnp.int32), "int4", 6)
    with pytest.raises(ValueError, match="enable jax_enable_x64"):
        qsim.pack(jnp.zeros(3, jnp.uint32), "int40")
    with pytest.raises(ValueError, match="enable jax_enable_x64"):
        qsim.unpack(jnp.zeros(15, jnp.uint8), "int40", 3)
