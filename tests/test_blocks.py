"""Block formats: against the exact definition, and against NumPy and ml_dtypes step by step."""

import itertools
import math
from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qsim
from qsim import Block, NoNaNError, Recipe, decode_blocks, encode_blocks, parse, quantize
from qsim.numbers.catalogue import catalogue
from qsim.numbers.grid import lower, stack
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import random_words
from qsim.numbers.records import exponent_of
from qsim.scales.choice import choose
from qsim.scales.exact_blocks import quantize_exact
from qsim.scales.parts import Codes, scale_formats
from tests.test_formats import number
from tests.unchecked import unchecked

ENTRIES = {name: entry for name, entry in catalogue().items() if isinstance(entry.format, Block)}
MX = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8"]
RULES = ["floor", "ceil", "rceil", "even"]
NVFP4 = ["nvfp4", "nvfp4_2d", "nvfp4_te"]
SPECS = [
    *("e2m1f[4,e8m0,floor]", "e4m3fn[4]", "int4[4,e8m7]", "int8sym[token]", "int8[channel,e5m10]"),
    *("e2m1f[2x4,e4m3fn[tensor]]", "e2m1f[4,e4m3fn[tensor],te]", "int4[4@0,ue5m3f,scale:up]"),
    *("e3m2f[tensor,e8m0]", "int4[4,fixed:1/4]", "int4[4,uint6[2x2,e8m7]]", "e4m3[4,rceil]"),
    *(
        "e5m2[4,e8m0,even,finite]",
        "e2m1f[4,e4m3fn[2,e8m0,ceil]]",
        "int4[3,short]",
        "e3m4[4,zero]",
        "posit8.1[4]",
    ),
    *("int4[4,percentile:60]", "int3[3,percentile:50,short]", "e2m1f[2x2,absmax:6:4]"),
    *("e2m1f[4,e4m3fn[tensor,absmax:256],absmax:6:4]", "int4[4,mse:8]", "int4[3,mse:6,short]"),
    *("int4[4,two_sided]", "e2m1f[4,e8m0,floor,two_sided]", "fixed8.6sym[4,e8m0,floor,micro:2]"),
    *("uint4[4,zero_point]", "uint4[3,zero_point,short]", "uint8[token,e8m7,zero_point,finite]"),
    *("int8sym[4,e8m7,amax]", "e3m0i_zero[4,e8m0,floor]", "e2m1f[4,e4m3fn[2,centred,short]]"),
    *("posit8.1[4]", "hif8[4]", "lns5.2[4]"),
]
FEW = ["e2m1f[4,e8m0,floor]", "int4[4,e8m7]", "e2m1f[4,e4m3fn[tensor],te]"]
OVERFLOWING = ["e5m2[4,e8m0,floor]", "e4m3fn[4,fixed:1/64]", "int4[4,finite]", "int4[4,floor]"]
STORED = ["e2m1f[4,e4m3fn[tensor],te]", "uint4[3,zero_point,short]"]
MODES = ["ties_to_away", "toward_zero", "up", "down", "to_odd"]


T2 = pytest.mark.t2
NEAREST, POLICY = "ties_to_even", "saturate"


def slower(specs, mark=pytest.mark.t1) -> list:
    """As tests of a slower tier: each of the formats is compiled apart."""
    return [pytest.param(spec, marks=mark) for spec in specs]


def floats(values: np.ndarray, dtype="float32") -> np.ndarray:
    """Exact values, which the type must have, as numbers of that type."""
    result = np.array([float(value) for value in values.flat], np.float64).astype(dtype)
    for found, value in zip(result, values.flat, strict=True):
        assert not isinstance(value, Fraction) or Fraction(float(found)) == value
    return result.reshape(values.shape)


def same(found, expected) -> bool:
    """Equal bytes; every NaN is the canonical one."""
    expected = np.where(np.isnan(expected), np.float32(np.nan), expected)
    return np.asarray(found).tobytes() == expected.astype(np.asarray(found).dtype).tobytes()


@unchecked()
def agrees(x: np.ndarray, spec: str | Block, **modes) -> None:
    """The array on the format, and what is stored of it, are those of the exact definition."""
    fmt = parse(spec) if isinstance(spec, str) else spec
    exact = quantize_exact(x, fmt, **modes)
    found = np.asarray(jitted(x, lower(fmt, x.dtype.name), **modes))
    expected = floats(exact.values, x.dtype)
    different = np.flatnonzero(~((found == expected) | (np.isnan(found) & np.isnan(expected))))
    assert not len(different), [
        (spec, x.flat[i], found.flat[i], expected.flat[i]) for i in different[:3]
    ]
    assert same(found, expected), (spec, "the sign of a zero, or a NaN")


@partial(jax.jit, static_argnames=("rounding", "overflow"))
def jitted(x, grid, rounding="ties_to_even", overflow="saturate"):
    return quantize(x, grid, rounding=rounding, overflow=overflow)


def with_rule(name: str, rule: str, length: int = 4) -> Block:
    fmt = parse(name)
    return Block(element=fmt.element, scale=fmt.scale, recipe=Recipe(shape=(length,), rule=rule))


def sample(shape, seed=0, exponent=0) -> np.ndarray:
    """Numbers over a few binades, with zeros of both signs and equal ones."""
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal(shape), rng.integers(-3, 2, shape) + exponent)
    x.flat[:: max(1, x.size // 5)] = 0.0
    x.flat[1 :: max(1, x.size // 3)] = -0.0
    return x.astype(np.float32)


# --- scales that are powers of two --------------------------------------------------------------


def around_every_power() -> np.ndarray:
    """A block for every power of two and its neighbours; the largest magnitude comes first."""
    powers = np.ldexp(np.float64(1), np.arange(-149, 128)).astype(np.float32).view(np.uint32)
    near = (powers[:, None].astype(np.int64) + np.array([-1, 0, 1])).clip(1, 0x7F7FFFFF).ravel()
    amax = np.unique(near).astype(np.uint32).view(np.float32)
    with np.errstate(under="ignore"):
        rest = [amax * np.float32(part) for part in (-0.75, 0.3, -0.04)]
    return np.stack([amax, *rest], axis=1)


# every rule with one format, every format with one rule
MX_AT_FIRST = [*((MX[0], rule) for rule in RULES), *zip(MX[1:], [*RULES, "floor"], strict=True)]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(*choice, marks=pytest.mark.t1 if choice in MX_AT_FIRST else T2)
        for choice in itertools.product(MX, RULES)
    ],
)
@pytest.mark.every(3)
def test_largest_magnitudes_around_every_power_of_two(name, rule):
    agrees(around_every_power(), with_rule(name, rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MX)
def test_blocks_of_special_numbers(name, rule):
    tiny, huge = np.float32(1e-45), np.float32(3.4028235e38)
    blocks = [
        *([0, 0, 0, 0], [-0.0, 0, -0.0, 0], [0.7, 0.7, 0.7, 0.7], [-3, -3, 3, 3]),
        *([1, np.nan, 2, 3], [1, 2, np.inf, 3], [-np.inf, np.nan, 0, 0], [1, 2, 3, 4]),
        *([tiny, -tiny, 0, 2 * tiny], [1e-39, -3e-40, 1e-42, tiny], [huge, 1, -huge, tiny]),
    ]
    agrees(np.float32(blocks), with_rule(name, rule))


@pytest.mark.parametrize("name", MX)
def test_powers_of_two_by_numpy_and_ml_dtypes(name):
    """OCP MX 1.0, 6.3 with NumPy's exponents and ml_dtypes' rounding, for normal numbers."""
    kinds = {
        "mxfp8_e4m3": (ml_dtypes.float8_e4m3fn, 448, 8),
        "mxfp8_e5m2": (ml_dtypes.float8_e5m2, 57344, 15),
        "mxfp6_e3m2": (ml_dtypes.float6_e3m2fn, 28, 4),
        "mxfp6_e2m3": (ml_dtypes.float6_e2m3fn, 7.5, 2),
        "mxfp4": (ml_dtypes.float4_e2m1fn, 6, 2),
        "mxint8": (None, 127 / 64, 0),
    }
    dtype, largest, emax = kinds[name]
    for exponent in (-60, -3, 0, 40):
        x = sample((64, 64), exponent=exponent)
        blocks = x.reshape(64, 2, 32)
        amax = np.abs(blocks).max(-1, keepdims=True)
        power = np.ldexp(np.float32(1), np.frexp(amax)[1] - 1 - emax)
        scaled = np.clip(blocks / power, -largest, largest)
        elements = np.rint(scaled * 64) / 64 + 0.0 if dtype is None else scaled.astype(dtype)
        expected = (elements.astype(np.float32) * power).reshape(x.shape)
        assert same(quantize(x, name), expected), exponent


def test_scales_stay_within_their_format():
    x = np.float32([[2.0**-20, 2.0**-30], [2.0**20, 1.0], [1.0, 0.5]])
    agrees(x, "e2m1f[2,e3m0,floor]")
    found = encode_blocks(x, "e2m1f[2,e3m0,floor]").scales[0]
    assert found.tolist() == [[0], [6], [1]]


# --- other rules --------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("spec", [FEW[0], *slower(SPECS[::2]), *slower(SPECS[1::2], T2)])
@pytest.mark.every(2)
def test_equals_the_exact_definition(spec):
    for exponent in (0, -118, 90):
        agrees(sample((4, 8), exponent=exponent), spec)
    x = sample((4, 8))
    x[1, 2], x[2, 5], x[3, 7] = np.inf, np.nan, -np.inf
    agrees(x, spec)


@pytest.mark.t1
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", [*FEW[:2], *slower(FEW[2:], T2)])
def test_rounding_of_elements(spec, mode):
    for exponent in (0, -118, -143, 90):
        agrees(sample((4, 8), exponent=exponent), spec, rounding=mode)


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["e8m7[4,e11m0,rceil]", "uint4[4,zero_point]", FEW[2]])
def test_float64(spec):
    with jax.enable_x64(True):
        for exponent in (0, -1000, -1060, 900):
            agrees(np.ldexp(sample((4, 8)).astype(np.float64), exponent), spec)


@pytest.mark.t1
@pytest.mark.parametrize("overflow", qsim.OVERFLOWS)
@pytest.mark.parametrize("spec", OVERFLOWING)
def test_overflow_of_elements(spec, overflow):
    if overflow == "wrap" and not spec.startswith("int"):
        with pytest.raises(ValueError, match="for integers"):
            quantize(sample((4, 8)), spec, overflow=overflow)
        return
    x = sample((4, 8), exponent=4)
    x[0, 1], x[1, 2], x[2, 3] = np.inf, -np.inf, np.nan
    agrees(x, spec, overflow=overflow)


@pytest.mark.t1
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_te", *slower(["nvfp4_2d", "int4_g32"], T2)])
@pytest.mark.parametrize(
    "tensor", [0.0, 1e-45, 1e-38, 1e-31, 2.0**-90, 1.0, 6 * 448.0, 1e30, 3.4e38, np.inf, np.nan]
)
def test_tensors_of_every_size(name, tensor):
    x = np.zeros((16, 64), np.float32)
    parts = np.ldexp(1.0, -np.arange(0, 64, 4)) if np.isfinite(tensor) else np.ones(16)
    with np.errstate(under="ignore"):
        x[:, 0] = np.float32(tensor) * parts.astype(np.float32)
    x[:, 1] = -x[:, 0] / 3
    x[:, 16:32] = sample((16, 16), seed=1) * np.float32(2.0**-20)
    agrees(x, name)


def test_nvfp4_of_transformer_engine_by_numpy():
    """Every operation in float32, as its kernels have them."""
    one, fp8 = np.float32(1), ml_dtypes.float8_e4m3fn
    for exponent in (-40, 0, 17):
        x = sample((32, 64), exponent=exponent)
        encode = np.float32(6 * 448) / np.abs(x).max()
        blocks = x.reshape(32, 4, 16)
        amax = np.abs(blocks).max(-1, keepdims=True)
        scales = np.minimum(amax / np.float32(6) * encode, np.float32(448)).astype(fp8)
        scales = scales.astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.clip(blocks * (encode / scales), -6, 6)
        scaled = np.where(scales == 0, np.copysign(np.float32(0), blocks), scaled)
        elements = scaled.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        expected = elements * (scales * (one / encode))
        assert same(quantize(x, "nvfp4_te"), expected.reshape(x.shape)), exponent


def test_nvfp4_by_numpy():
    for exponent in (-40, 0, 17):
        x = sample((32, 64), exponent=exponent)
        tensor = np.abs(x).max() / np.float32(6 * 448)
        blocks = x.reshape(32, 4, 16)
        amax = np.abs(blocks).max(-1, keepdims=True)
        wanted = np.minimum(amax / np.float32(6) / tensor, np.float32(448))
        scales = wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * tensor
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.clip(blocks / scales, -6, 6)
        scaled = np.where(scales == 0, np.copysign(np.float32(0), blocks), scaled)
        elements = scaled.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        assert same(quantize(x, "nvfp4"), (elements * scales).reshape(x.shape)), exponent


def test_groups_of_integers_by_numpy():
    x = sample((16, 256))
    blocks = x.reshape(16, 2, 128)
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(7)
    scales = scales.astype(np.float16).astype(np.float32)
    expected = np.clip(np.rint(blocks / scales), -8, 7) * scales
    found = np.asarray(quantize(x, "int4_g128"))
    assert np.array_equal(found, expected.reshape(x.shape))


@pytest.mark.t1
def test_stochastic_rounding_of_elements():
    key = jax.random.key(3)
    x = sample((4, 8))
    words = np.asarray(random_words(key, x.shape, Rounding.parse("stochastic:8"))) >> 24
    for spec in ("e2m1f[4,e8m0,floor]", "int4[4]"):
        found = np.asarray(quantize(x, spec, rounding="stochastic:8", key=key))
        plain = np.asarray(quantize(x, spec, rounding="toward_zero"))
        scale = np.repeat(floats(quantize_exact(x, parse(spec)).scales), 4, axis=1)
        element = parse(spec).element
        for place in np.ndindex(x.shape):
            exact = Fraction(float(np.float32(x[place] / scale[place])))
            rounded = qsim.numbers.exact.round_exact(
                exact, element, rounding="stochastic:8", random=int(words[place])
            )
            assert np.float32(float(rounded)) * scale[place] == found[place]
        assert np.any(found != plain)


@pytest.mark.t2
@pytest.mark.parametrize("name", ENTRIES)
def test_named_formats_equal_the_exact_definition(name):
    agrees(sample((128, 128) if name == "fp8_tile" else (16, 128)), name)


# --- what the choice of a scale does to the error -----------------------------------------------


def noise(x: np.ndarray, *specs: str) -> float:
    """Squared error over squared sum, each group of 128 having the best of the formats."""
    rounded = [np.asarray(quantize(x, spec), np.float64) for spec in specs]
    errors = [((y - x) ** 2).sum(axis=1) for y in rounded]
    return float(np.min(errors, axis=0).sum() / (x.astype(np.float64) ** 2).sum())


@cache
def groups() -> tuple[np.ndarray, np.ndarray]:
    """Groups of normal numbers, and of Student's t."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((8192, 128)), rng.standard_t(5, (8192, 128))
    return drawn[0].astype(np.float32), drawn[1].astype(np.float32)


NOISE = {
    "int3[128]": (0.0749, None),
    "int3[128,two_sided]": (0.0632, None),
    "uint3[128,zero_point]": (0.0464, None),
    "fp3[128]": (0.0569, 0.0965),
    "fp3[128,two_sided]": (0.0512, 0.0739),
    "nf3[128]": (0.0439, None),
    "nf3[128,two_sided]": (0.0390, None),
    "int4[128]": (0.0138, None),
    "int4[128,two_sided]": (0.0116, None),
    "uint4[128,zero_point]": (0.0101, None),
    "e2m1f[128]": (0.01185, 0.0152),
    "e2m1f[128,two_sided]": (0.01117, 0.0126),
    "nf4[128]": (0.00913, 0.0139),
    "nf4[128,two_sided]": (0.00846, 0.0110),
    "bitmod_fp3": (0.0380, None),
    "bitmod_fp4": (0.00958, None),
}


@pytest.mark.t1
@pytest.mark.parametrize("spec", NOISE)
def test_noise_of_groups_of_128(spec):
    """Normal numbers and Student's t of 5 degrees of freedom: figures to about three digits.

    The figures are estimates too; the error of ours is below 0.3 % (normal) and 1 % (t).
    """
    specs = [spec]
    if spec.startswith("bitmod"):  # four lists of values, of which each group takes the best
        specs = [f"{spec}_{kind}_{sign}[128]" for kind in ("er", "ea") for sign in ("pos", "neg")]
    for x, figure, error in zip(groups(), NOISE[spec], (0.006, 0.02), strict=True):
        assert figure is None or abs(noise(x, *specs) / figure - 1) < error


@pytest.mark.t2
@pytest.mark.parametrize("mode", ["down", "away_from_zero"])
def test_zero_points_know_no_minus_zero(mode):
    agrees(np.float32([-1e-20, 0]), "uint4[2,ue4m3,zero_point]", rounding=mode)


@pytest.mark.parametrize("spec", slower(["int4[16]", "uint4[16,zero_point]", "int4[token]"]))
def test_arrays_that_are_constants_of_the_program(spec):
    x, grid = jnp.asarray(sample((32, 64))), lower(parse(spec))
    assert same(jax.jit(lambda grid: quantize(x, grid))(grid), np.asarray(quantize(x, grid)))


def test_quotients_of_fixed_scales_are_no_products():
    agrees(np.float32([[7e33, -2e33, 0, 2.5e37]] * 3), "e5m2[2x2,e4m3fn[2],fixed:0.1,short]")


@pytest.mark.t1
def test_searched_scales_look_past_what_is_not_finite():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.inf
    x[rng.random(x.shape) < 0.1] = np.nan
    agrees(x, "int4[8,mse:8,finite]")


@pytest.mark.ci
def test_searched_scales_err_less():
    x = sample((64, 128), seed=5)
    errors = [noise(x, spec) for spec in ("int4[32]", "int4[32,mse:8]", "int4[32,mse:32]")]
    assert errors[0] > errors[1] > errors[2]
    assert noise(x, "nvfp4_four_six") < noise(x, "nvfp4")
    assert noise(x, "mx6") < noise(x, "fixed5.3sym[16,e8m0,floor]")


# --- shapes and axes ----------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("rest", slower(["e8m0,floor"]) + slower(["e4m3fn[tensor]"], T2))
def test_other_axes_are_moved_axes(rest):
    x = sample((8, 12, 4))
    by_axis = [("4@0", 0), ("4@-2", 1), ("4@2", 2), ("token@1", 1)]
    for size, axis in by_axis:
        last = size.partition("@")[0]
        moved = quantize(np.moveaxis(x, axis, -1), f"e2m1f[{last},{rest}]")
        found = quantize(x, f"e2m1f[{size},{rest}]")
        assert same(found, np.moveaxis(np.asarray(moved), -1, axis)), size
    transposed = quantize(jnp.asarray(x).transpose(2, 1, 0), "e2m1f[4,e8m0,floor]")
    assert same(np.asarray(transposed).transpose(2, 1, 0), quantize(x, "e2m1f[4@0,e8m0,floor]"))


@pytest.mark.t1
def test_tensors_channels_tokens_and_tiles():
    x = sample((6, 8))
    for spec, sizes in [
        ("int8[tensor]", (6, 8)),
        ("int8[channel]", (6, 1)),
        ("int8[channel@0]", (1, 8)),
        ("int8[token]", (1, 8)),
        ("int8[2x4]", (2, 4)),
        ("int8[1]", (1, 1)),
    ]:
        assert parse(spec).recipe.sizes(x.shape) == sizes
        agrees(x, spec)
        scales = encode_blocks(x, spec).scales[0]
        assert scales.shape == tuple(n // size for n, size in zip(x.shape, sizes, strict=True))


@pytest.mark.parametrize("shape", slower([(8, 1), (0, 4)]) + slower([(1, 4), (3, 0), (0,)], T2))
def test_axes_of_length_one_and_empty_arrays(shape):
    for spec in ("int4[1]", "int4[token]", "int4[channel,e8m0,floor]", "int4[tensor]"):
        x = sample(shape) if np.prod(shape) else np.zeros(shape, np.float32)
        found = quantize(x, spec)
        assert found.shape == shape and found.dtype == np.float32
        codes = encode_blocks(x, spec)
        assert same(decode_blocks(codes, spec, shape=shape), np.asarray(found))


def test_scalars_are_blocks_of_their_own():
    assert float(quantize(np.float32(3.3), "int4[tensor]")) == np.float32(3.3)


@pytest.mark.t1
def test_partial_blocks():
    x = sample((3, 10))
    with pytest.raises(ValueError, match=r"do not fill axis 1 .*tail='short'.*tail='zero'"):
        quantize(x, "int4[4]")
    padded = np.pad(x, [(0, 0), (0, 2)])
    expected = np.asarray(quantize(padded, "int4[4]"))[:, :10]
    assert same(quantize(x, "int4[4,short]"), expected)
    assert same(quantize(x, "int4[4,zero]"), expected)
    short, filled = (encode_blocks(x, f"int4[4,{tail}]") for tail in ("short", "zero"))
    assert short.elements.shape == (3, 10) and filled.elements.shape == (3, 12)
    assert same(decode_blocks(short, "int4[4,short]"), expected)
    assert same(decode_blocks(filled, "int4[4,zero]", shape=(3, 10)), expected)


@pytest.mark.parametrize(
    ("x", "spec", "message"),
    [
        (np.float32(1), "int4[4]", "need other axes"),
        (np.zeros(4, np.float32), "int4[2x2]", "need other axes"),
        (np.zeros((4, 4), np.float32), "int4[2@2]", "need other axes"),
        (np.zeros((4, 4), np.float32), "int4[2x2@0@-2]", "need other axes"),
        (np.zeros(4, np.float16), "mxfp4", "cast the array to float32"),
    ],
)
def test_arrays_that_have_no_such_blocks(x, spec, message):
    with pytest.raises(ValueError, match=message):
        quantize(x, spec)


# --- one computation ----------------------------------------------------------------------------


@pytest.mark.t1
def test_same_bytes_eager_jitted_and_mapped():
    for specs in ([*MX], ["e2m1f[16,e4m3fn[tensor]]", "e3m2f[16,e5m2[tensor]]"], ["int4[32]"]):
        grids = [lower(parse(spec)) for spec in specs]
        for exponent in (-135, 0, 100):
            x = jnp.asarray(sample((4, 64), exponent=exponent))
            eager = [np.asarray(quantize(x, grid)) for grid in grids]
            compiled = [np.asarray(jitted(x, grid)) for grid in grids]
            mapped = np.asarray(quantize(x, stack(grids)))
            rows = np.stack([jax.vmap(partial(jitted, grid=g))(x[:, None])[:, 0] for g in grids])
            assert np.stack(eager).tobytes() == np.stack(compiled).tobytes() == mapped.tobytes()
            if specs[0] != "e2m1f[16,e4m3fn[tensor]]":  # there the tensor would be a row
                assert rows.tobytes() == mapped.tobytes()


def test_formats_of_one_structure_share_a_compilation():
    @jax.jit
    def rounded(x, grid):
        return quantize(x, grid)

    x = sample((2, 64))
    for name in MX:
        rounded(x, lower(parse(name)))
    assert rounded._cache_size() == 1


WAYS = ["mxfp8_e4m3", "mxint8", "e2m1f[32,e8m0,floor,two_sided]", "nvfp4", "int4[32,e8m7]"]


@pytest.mark.t1
@pytest.mark.parametrize("overflow", [POLICY, pytest.param("ieee", marks=T2)])
@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        *((spec, NEAREST) for spec in WAYS[:1]),
        *(pytest.param(spec, NEAREST, marks=pytest.mark.t1) for spec in WAYS[1:]),
        *(pytest.param(spec, "stochastic:7", marks=pytest.mark.t1) for spec in WAYS[:2]),
        *(pytest.param(spec, "up", marks=pytest.mark.t1) for spec in WAYS[3:]),
        *(pytest.param(spec, "stochastic:7", marks=T2) for spec in WAYS[2:]),
        *(pytest.param(spec, "up", marks=T2) for spec in WAYS[:3]),
    ],
)
@pytest.mark.every(2)
def test_the_short_way_and_the_long_way_give_the_same_bytes(spec, mode, overflow):
    """A block that is all NaN makes the rest of the array take the long way."""
    rng, grid = np.random.default_rng(8), lower(parse(spec))
    least, most = (int(n) for n in grid.element.normal_powers()) if grid.moves else (-60, 60)
    top = exponent_of(parse(spec).element.largest)
    tops = [*range(least + top, least + top + 4), *range(-6, 7), *range(most + top - 3, most + top)]
    words = rng.integers(0, 2**32, (len(tops), 4, 32), dtype=np.uint32)
    words[:, 0] &= 0x807FFFFF  # of all binades up to the block's, and subnormal ones
    highest = (np.array(tops)[:, None, None] + 127 << 23).astype(np.uint32)
    words = np.where(words & 0x7FFFFFFF < highest, words, words & 0x807FFFFF | highest)
    words[..., 5:7] = words[..., 5:7] & 0x007FFFFF | highest ^ np.array([0, 1 << 31])
    x = np.concatenate([words.reshape(-1, 32), [[0] * 32, [1 << 31] * 32]]).astype(np.uint32)
    ways = (np.concatenate([x, np.full((1, 32), n, np.uint32)]) for n in (0, 0x7FC00000))

    drawn = rng.integers(0, 2**32, (len(x) + 1, 32), dtype=np.uint32)

    @jax.jit
    def rounded(x, grid):
        layout, rounding = grid.layout(x.shape), Rounding.parse(mode)
        is_short = grid._may_be_short(choose(grid, layout.split(x), layout))
        random = jnp.asarray(drawn) if rounding.is_stochastic else None
        return is_short, grid.round(x, mode=rounding, policy=overflow, random=random)

    (is_short, short), (is_long_short, long) = (rounded(w.view(np.float32), grid) for w in ways)
    assert is_short and not is_long_short
    assert np.isnan(long[-1]).all() and same(short[:-1], np.asarray(long[:-1]))


@pytest.mark.t1
def test_a_sum_does_not_absorb_the_product():
    x = sample((4, 64))
    for name in ("nvfp4", "int4_g32"):
        total = lambda x, name=name: quantize(x, name) + jnp.float32(0.3)  # noqa: E731
        expected = np.asarray(quantize(x, name)) + np.float32(0.3)
        assert same(jax.jit(total)(x), expected)
        apart = np.stack([np.asarray(quantize(row, name)) + np.float32(0.3) for row in x])
        assert same(jax.jit(jax.vmap(total))(x), apart)


CONTRACTED = [
    ("mxfp4", "e2m1f[32@1,e8m0,floor]", "e2m1f[32@0,e8m0,floor]"),
    ("int8[token,e8m0,floor]", "int8[token@1,e8m0,floor]", "int8[token@0,e8m0,floor]"),
    ("int8[channel,e8m0,floor]", "int8[token@1,e8m0,floor]", "int8[token@0,e8m0,floor]"),
    ("e2m1f[8@1,e8m0,floor]", "e2m1f[8@1,e8m0,floor]", "e2m1f[8@1,e8m0,floor]"),
    ("e2m1f[4x4,e8m0,floor]", "e2m1f[4x4,e8m0,floor]", "e2m1f[4x4,e8m0,floor]"),
]


@pytest.mark.parametrize(
    ("spec", "left", "right"),
    [
        *(pytest.param(*case, marks=pytest.mark.t1) for case in CONTRACTED[::2]),
        *(pytest.param(*case, marks=T2) for case in CONTRACTED[1::2]),
    ],
)
def test_contractions_run_along_blocks(spec, left, right):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((8, 64), (64, 16)))
    found = qsim.simulate(lambda p, x: x @ p["w"], spec)({"w": w}, x)
    assert np.array_equal(found, np.asarray(quantize(x, left)) @ np.asarray(quantize(w, right)))


@pytest.mark.t1
def test_convolutions_run_along_features():
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 5, 5, 8)).astype(np.float32)
    w = rng.integers(-9, 9, (3, 3, 8, 4)).astype(np.float32)

    def conv(p, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=layout)

    found = qsim.simulate(conv, "e2m1f[4,e8m0,floor]")({"w": w}, x)
    left, right = quantize(x, "e2m1f[4,e8m0,floor]"), quantize(w, "e2m1f[4@2,e8m0,floor]")
    assert np.array_equal(found, conv({"w": right}, left))


SWEPT = ["mxfp4", "nvfp4", "e4m3"]


@pytest.mark.parametrize(
    "specs", slower([SWEPT]) + slower([[*SWEPT, "mxfp8_e4m3", "int4_g32"]], T2)
)
def test_sweeps_over_block_formats(specs):
    x = sample((8, 64))
    dot = lambda p, x: x @ p["w"]  # noqa: E731
    rows = qsim.sweep(dot, specs)({"w": x.T}, x)
    for row, spec in zip(rows, specs, strict=True):
        assert np.array_equal(row, jax.jit(qsim.simulate(dot, spec))({"w": x.T}, x))


def test_a_scale_for_the_tensor_is_for_formats_without_scales():
    with pytest.raises(ValueError, match="has blocks with scales of their own"):
        qsim.policy(weights="mxfp4", scale="absmax")


@pytest.mark.t1
def test_derivatives_are_straight_through():
    x = jnp.asarray(np.float32([7.9, 1.0, 0.3, -7.0, 1.0, jnp.nan, 2.0, 3.0]))
    slope = jax.grad(lambda x, spec: jnp.nansum(quantize(x, spec)), argnums=0)
    assert slope(x, "e2m1f[4,e8m0,floor]").tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert slope(x[:4], "e2m1f[4,e4m3fn]").tolist() == [1, 1, 1, 1]


# --- codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [FEW[0], *slower(STORED), *slower([*ENTRIES, *SPECS], T2)])
def test_codes_decode_to_the_rounded_numbers(spec):
    shape = (128, 256) if spec in ENTRIES else (4, 8)
    for exponent in (0, -118, -140):
        x = sample(shape, exponent=exponent)
        codes = encode_blocks(x, spec)
        assert len(codes.scales) == len(scale_formats(parse(spec)))
        found = decode_blocks(codes, spec, shape=shape)
        assert same(found, np.asarray(quantize(x, spec))), exponent


@pytest.mark.parametrize(
    "mode",
    slower(["stochastic:4", "stochastic_c"]) + slower(["stochastic_b:4", "stochastic_equal"], T2),
)
def test_codes_of_stochastic_rounding(mode):
    x, key = jnp.linspace(-3, 9, 32), qsim.counter_key(1)
    codes = encode_blocks(x, "e2m1f[16,e8m0,rceil]", rounding=mode, key=key)
    rounded = quantize(x, "e2m1f[16,e8m0,rceil]", rounding=mode, key=key)
    assert decode_blocks(codes, "e2m1f[16,e8m0,rceil]").tolist() == rounded.tolist()
    with pytest.raises(ValueError, match="needs a random key"):
        encode_blocks(x, "e2m1f[16,e8m0,rceil]", rounding=mode)


def test_wrapping_is_for_blocks_of_integers():
    x = jnp.array([1.0, 3.0, -12.0, 0.1])
    of_grid = quantize(x, lower(parse("int4[4,fixed:1/2]")), overflow="wrap")
    assert of_grid.tolist() == [1.0, 3.0, -4.0, 0.0]  # 2, 6, -24 and 0.2 halves modulo 16
    assert quantize(x, "int4[4,fixed:1/2]", overflow="wrap").tolist() == of_grid.tolist()
    for spec in ("e4m3[2]", "codebook(-1,0,1)[2]", "int4sym[2]"):
        with pytest.raises(ValueError, match="overflow='wrap' is for integers"):
            encode_blocks(x, spec, overflow="wrap")


@pytest.mark.ci
@pytest.mark.parametrize(
    "spec", slower(["e8m3[2,e8m0,floor]"]) + slower(["bfloat16[4,e8m0,floor]"], T2)
)
def test_codes_of_elements_below_the_normal_numbers(spec):
    x = np.ldexp(np.float64([1, -1, 1, -1.5, 1, 0]), [127, -149, -128, -140, 0, 0])
    x = np.tile(x.astype(np.float32), 2)
    rounded = np.asarray(quantize(x, spec))
    assert same(decode_blocks(encode_blocks(x, spec), spec), rounded)
    magnitude = rounded.view(np.uint32) & 0x7FFFFFFF
    assert np.any((magnitude > 0) & (magnitude < 0x00800000))


@pytest.mark.ci
@pytest.mark.parametrize("options", slower([""]) + slower(["amax,"], T2))
def test_scales_of_zero_in_a_format_without_zero(options):
    """Most of the block is zero, and the smallest scale is below what the carrier divides by."""
    x = np.float32([[0, -0.2, 0, 0], [0, 0, -0.0, 0]])
    agrees(x, spec := f"int4[4,e8m0,{options}percentile:60]")
    assert same(decode_blocks(encode_blocks(x, spec), spec), np.asarray(quantize(x, spec)))
    assert quantize(x, spec)[0, 1] == -8 * 2.0**-123


@pytest.mark.t1
def test_codes_of_ocp():
    x = np.float32([[0, -0.0], [np.nan, 1], [6, -1], [2.0**-149, 0]])
    elements, (scales,) = encode_blocks(x, "e2m1f[2,e8m0,floor]")
    assert scales.tolist() == [[0], [255], [127], [0]]
    assert elements.tolist() == [[0, 8], [0, 0], [7, 10], [0, 0]]
    assert np.isnan(decode_blocks(Codes(elements, (scales,)), "e2m1f[2,e8m0,floor]")[1]).all()


@pytest.mark.t1
def test_codes_that_are_not_there():
    with pytest.raises(TypeError, match=r"use qsim\.encode_blocks"):
        qsim.encode(np.zeros(32, np.float32), "mxfp4")
    with pytest.raises(TypeError, match=r"use qsim\.decode_blocks"):
        qsim.decode(np.zeros(32, np.uint8), "mxfp4")
    with pytest.raises(ValueError, match="has no blocks"):
        encode_blocks(np.zeros(32, np.float32), "e4m3")
    with pytest.raises(NoNaNError):
        encode_blocks(np.float32([np.nan, 1]), "int4[2,uint6]")
    codes = encode_blocks(np.zeros(64, np.float32), "mxfp4")
    with pytest.raises(ValueError, match=r"scales of shape \(4,\)"):
        decode_blocks(codes, "e2m1f[16,e8m0,floor]")


# --- records and names --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENTRIES)
def test_landmarks_of_the_source(name):
    fmt, landmarks = ENTRIES[name].format, dict(ENTRIES[name].landmarks)
    scale = fmt.scale.element if isinstance(fmt.scale, Block) else fmt.scale
    found = {
        "bits_per_value": lambda: fmt.bits_per_value,
        "max_element": lambda: fmt.element.largest,
        "emax_element": lambda: exponent_of(fmt.element.largest),
        "max_scale": lambda: scale.largest,
        "min_scale": lambda: scale.smallest,
    }
    assert {"bits_per_value", "max_element"} <= landmarks.keys() <= found.keys()
    for key, text in landmarks.items():
        assert found[key]() == (number(text) if isinstance(text, str) else text), key
    assert ENTRIES[name].title and ENTRIES[name].source


@pytest.mark.parametrize("spec", [*ENTRIES, *SPECS])
def test_specs_print_as_they_are_read(spec):
    fmt = parse(spec)
    assert parse(str(fmt)) == fmt and hash(parse(str(fmt))) == hash(fmt)
    if spec in SPECS:
        assert str(fmt).replace(" ", "") == spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int4[]", "no format"),
        ("int4[e8m0]", "begins with its size"),
        ("int4[0]", "at least one number"),
        ("int4[4,e8m0,e8m7]", "one scale format"),
        ("int4[4,floor,ceil]", "says twice"),
        ("int4[4,e8m0,flor]", "no format 'flor'"),
        ("int4[4,e4m3fn[tensor],floor]", "powers of two"),
        ("int4[4,uint8,floor]", "powers of two"),
        ("int4[4,te]", "order='te' is for"),
        ("int4[4,fixed]", "needs one number"),
        ("int4[4,mse:8:9]", "needs one number"),
        ("int4[4,mse:1.5]", "an integer of them"),
        ("int4[4,mse:1025]", "at most 1024"),
        ("int4[4,percentile:101]", "at most 100"),
        ("int4[4,zero_point]", "must be like uint4"),
        ("uint4[4,zero_point,two_sided]", "goes with the rule"),
        ("int4[4,mse:4,two_sided]", "two sides cannot"),
        ("int4[4,e8m0,floor,amax]", "stores no amax"),
        ("int4[4,e8m0,ceil,micro:2]", "goes with the rule 'floor'"),
        ("int4[4,e8m0,floor,micro:3]", "do not fill"),
        ("nf4[4,e8m0,floor,micro:2]", "on a binary grid"),
        ("int4[4,centred,floor]", "what is centred"),
        ("int4[4,e8m0,floor:3]", "has no parameter"),
        ("int4[4,fixed:x]", "is not a number"),
        ("int4[4,fixed:-1]", "must be above zero"),
        ("int4[4@0@1]", "need as many"),
        ("int4[tensor@0]", "has no axes"),
        ("int4[4,scale:stochastic]", "no random bits"),
        ("int4[4,scale:stochastic_b:8]", "no random bits"),
        ("e8m0[4]", "cannot be an element"),
        ("int4[4][4]", "begins with its size"),
    ],
)
def test_impossible_specs_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


@unchecked()
def test_impossible_records_are_refused():
    element, scale = parse("int4"), parse("e8m0")
    with pytest.raises(TypeError, match="recipe is a Recipe"):
        Block(element=element, scale=scale, recipe="floor")
    with pytest.raises(TypeError, match="element of a block is a format of numbers"):
        Block(element=parse("mxfp4"), scale=scale, recipe=Recipe(shape=(4,)))
    with pytest.raises(TypeError, match="tuple of Python ints"):
        Recipe(shape=[32])
    with pytest.raises(ValueError, match="per is 'row'"):
        Recipe(per="row")
    with pytest.raises(ValueError, match="no scale rule 'flor'; did you mean 'floor'"):
        Recipe(shape=(4,), rule="flor")


def test_means_are_for_scales():
    with pytest.raises(ValueError, match="for formats of scales alone"):
        lower(parse("int4[4,centred]"))


def test_elements_without_room_for_scales_are_refused():
    with pytest.raises(ValueError, match="leave no room for scales in float32"):
        lower(parse("e8m3[4]"))
    assert math.isfinite(quantize(np.float32([1e-38, 3.0]), "e8m3[2,e8m0,floor]")[1])


@pytest.mark.t1
@pytest.mark.parametrize("shape", [(2, 0, 256), *slower([(0,), (0, 32)], T2)])
@pytest.mark.parametrize(
    "spec", ["nvfp4", "mxfp8_e4m3", "e2m1f[4,e8m23,percentile:99]", "int4[4,e8m23,mse:8]"]
)
@pytest.mark.every(3)
def test_empty_arrays_have_codes_and_exact_definitions(spec, shape):
    empty = jnp.zeros(shape)
    assert quantize(empty, spec).shape == shape
    assert quantize_exact(np.zeros(shape, np.float32), parse(spec)).values.shape == shape
    assert decode_blocks(encode_blocks(empty, spec), spec, shape=shape).shape == shape


def test_empty_arrays_are_refused_as_others_of_their_shape():
    for x in (jnp.zeros((0, 33)), jnp.zeros((2, 33))):
        with pytest.raises(ValueError, match="blocks of 32 do not fill axis 1"):
            quantize(x, "mxfp8_e4m3")


@pytest.mark.ci
def test_codes_that_do_not_belong_together_are_refused():
    spec = "e2m1f[16,e4m3fn[tensor]]"
    codes = encode_blocks(jnp.ones((2, 32)), spec)
    for wrong in (
        Codes(codes.elements, (codes.scales[0], codes.scales[1][0])),
        Codes(codes.elements, (codes.scales[0][0], codes.scales[1])),
        Codes(codes.elements[:, :16], codes.scales),
    ):
        with pytest.raises(ValueError, match="has scales of shape"):
            decode_blocks(wrong, spec)
    with pytest.raises(ValueError, match="2 kinds of scales, got 1"):
        decode_blocks(Codes(codes.elements, codes.scales[:1]), spec)
    with unchecked(), pytest.raises(TypeError, match="Codes of encode_blocks, got list"):
        decode_blocks([codes.elements, codes.scales], spec)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spec", ["nvfp4_te", "nf4_b64_double"])
def test_what_is_stored_as_float32_is_encoded_from_float32(spec):
    with jax.enable_x64(True), pytest.raises(ValueError, match="encode a float32 array"):
        encode_blocks(jnp.ones((2, 256), "float64"), spec)
