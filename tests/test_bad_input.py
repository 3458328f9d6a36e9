"""Bad input raises at the door, with a message that names the value, the rule and the remedy.

Run without the session's type checks, so that what is seen is what users see.
"""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qsim
from qsim import NoNaNError, decode, encode, lower, parse, quantize, stack
from tests.unchecked import unchecked

X = jnp.array([0.3, 1.2, 500.0])


@pytest.fixture(autouse=True)
def as_users_see_it():
    with unchecked():
        yield


def raises(error, message: str):
    """``pytest.raises`` for a message whose first line contains ``message``."""
    return pytest.raises(error, match=rf"\A.*{re.escape(message)}")


# --- what is no floating-point array ------------------------------------------------------------

DTYPES = {
    "int32": jnp.arange(3),
    "int8": np.arange(3, dtype=np.int8),
    "uint8": jnp.arange(3, dtype=jnp.uint8),
    "bool": jnp.array([True]),
    "complex64": jnp.array([1j]),
    "float8_e4m3fn": jnp.ones(2, jnp.float8_e4m3fn),
    "float4_e2m1fn": np.ones(2, ml_dtypes.float4_e2m1fn),
    "<U4": np.array(["e4m3"]),
    "object": np.array([None]),
    "key<fry>": jax.random.key(0),
    "datetime64[D]": np.array(["2020-01-01"], "datetime64[D]"),
}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("function", [quantize, encode])
def test_other_dtypes_are_named(function, name):
    message = f"qsim expects floating-point input, got {name}; cast it explicitly"
    with raises(TypeError, message):
        function(DTYPES[name], "e4m3")


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        (1, "int 1"),
        (True, "bool True"),
        (1j, "complex 1j"),
        (None, "NoneType None"),
        ("1.0", "str '1.0'"),
        ([1.0, 2.0], "list [1.0, 2.0]"),
        ({"w": 1.0}, "dict {'w': 1.0}"),
        ([0.0] * 1000, "list [0.0, 0.0, 0.0"),
    ],
)
@pytest.mark.parametrize("function", [quantize, encode])
def test_other_objects_are_named(function, x, shown):
    with raises(TypeError, f"qsim expects a floating-point array, got {shown}") as caught:
        function(x, "e4m3")
    assert len(str(caught.value)) < 110


@pytest.mark.parametrize("x", [np.array([0.1]), np.float64(0.1)])
@pytest.mark.parametrize("function", [quantize, encode])
def test_float64_is_not_rounded_twice(function, x):
    with raises(ValueError, "float64 input would be truncated to float32 before it is rounded"):
        function(x, "e4m3")


def test_float64_is_rounded_once_with_x64():
    """A number just above a tie, which float32 would make the tie."""
    above_a_tie = np.array([1.0625 + 2.0**-40])
    with jax.enable_x64(True):
        assert quantize(above_a_tie, "e4m3").tolist() == [1.125]


def test_the_dtype_is_checked_under_jit_too():
    with raises(TypeError, "qsim expects floating-point input, got int32"):
        jax.jit(lambda x: quantize(x, "e4m3"))(jnp.arange(3))


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [None, 8, ("e", 4), jnp.float32, np.float16(1.0)])
@pytest.mark.parametrize("function", [quantize, encode])
def test_what_is_no_format_is_refused(function, fmt):
    kind = type(fmt).__name__
    with raises(
        TypeError, f"expected one format, a string such as 'e4m3' or a qsim.Float, got {kind}"
    ):
        function(X, fmt)


def test_codes_want_one_format():
    with raises(
        TypeError, "expected one format, a string such as 'e4m3' or a qsim.Float, got BinadeGrid"
    ):
        encode(X, lower(parse("e4m3")))
    with raises(TypeError, "expected one format"):
        decode(jnp.arange(3), None)


@pytest.mark.parametrize("function", [quantize, encode, lambda x, fmt: decode(jnp.arange(2), fmt)])
def test_unknown_formats_suggest_the_near_ones(function):
    with raises(ValueError, "no format 'ocp_e4m4'; did you mean 'ocp_e4m3'"):
        function(X, "ocp_e4m4")


def test_lowering_takes_formats():
    with raises(TypeError, "lower takes a Format, got 'e4m3': write lower(parse('e4m3'))"):
        lower("e4m3")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("e8m24", "its precision is 25 bits, float32 has 24"),
        ("e9m3", "its largest value is beyond the largest float32"),
        ("e8m3fn", "its largest value is beyond the largest float32"),
        ("e8m3b150f", "its smallest value is below 2^-149, the smallest float32"),
        ("e7m3b130", "its normal values begin below 2^-127, where float32 loses precision"),
        ("e11m52", "cannot be carried in float32"),
        ("fixed8.150", "its smallest value is below 2^-149"),
        ("int26", "its precision is 25 bits"),
    ],
)
def test_formats_wider_than_float32_are_refused(spec, message):
    remedy = "enable x64 (jax.config.update('jax_enable_x64', True)) and pass float64 values"
    for attempt in (lambda: quantize(X, spec), lambda: lower(parse(spec))):
        with raises(ValueError, message) as caught:
            attempt()
        assert str(caught.value).startswith(f"{parse(spec)} cannot be carried in float32")
        assert str(caught.value).endswith(remedy)


def test_formats_wider_than_float64_are_refused():
    with jax.enable_x64(True):
        for spec in ("e12m3", "int60", "e3m59", "e11m3b1080"):
            with raises(ValueError, "cannot be carried in float64") as caught:
                lower(parse(spec), "float64")
            assert str(caught.value).endswith("no wider carrier exists")


@pytest.mark.parametrize(
    ("dtype", "spec"),
    [
        *(("float16", spec) for spec in ("e8m7", "e5m11", "e6m3", "e4m3b25", "int13", "ocp_e8m0")),
        *(("bfloat16", spec) for spec in ("e5m10", "e8m8", "int10", "e5m7b130")),
    ],
)
def test_sixteen_bit_arrays_refuse_formats_that_they_cannot_hold(dtype, spec):
    wider = "float64" if spec == "e5m7b130" else "float32"  # whose normal values begin too low
    message = f"{parse(spec)} has values that {dtype} cannot hold: cast the array to {wider} first"
    with raises(ValueError, message):
        quantize(X.astype(dtype), spec)


def test_arrays_of_another_dtype_than_the_grid_are_refused():
    grid = lower(parse("e4m3"))
    for dtype in ("float16", "bfloat16"):
        message = f"this grid's values are carried in float32, but the array is {dtype}: cast it"
        with raises(TypeError, message):
            quantize(X.astype(dtype), grid)
    with jax.enable_x64(True):
        with raises(TypeError, "carried in float32, but the array is float64"):
            quantize(np.ones(3), grid)
        with raises(TypeError, "carried in float64, but the array is float32"):
            quantize(X, lower(parse("e4m3"), "float64"))


def test_carriers_are_float32_and_float64():
    with raises(ValueError, "no carrier 'float16'; choose 'float32' or 'float64'"):
        lower(parse("e4m3"), "float16")
    with raises(ValueError, "the carrier float64 needs x64: jax.config.update("):
        lower(parse("e4m3"), "float64")


def test_stacks_are_not_empty_and_of_one_carrier():
    with raises(ValueError, "cannot stack zero grids; give at least one format"):
        stack([])
    with jax.enable_x64(True):
        mixed = [lower(parse("e4m3")), lower(parse("e4m3"), "float64")]
    with raises(ValueError, "cannot stack grids of different carriers; lower all to float64"):
        stack(mixed)


# --- choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [quantize, encode])
def test_unknown_choices_suggest_the_near_ones(function):
    with raises(ValueError, "no rounding mode 'ties_to_evn'; did you mean 'ties_to_even'"):
        function(X, "e4m3", rounding="ties_to_evn")
    with raises(ValueError, "no rounding mode 'rne'; known are ties_to_even, ties_to_away"):
        function(X, "e4m3", rounding="rne")
    with raises(ValueError, "no overflow policy 'saturated'; did you mean 'saturate'"):
        function(X, "e4m3", overflow="saturated")
    with raises(ValueError, "no overflow policy None; known are saturate"):
        function(X, "e4m3", overflow=None)


def test_unknown_gradients_are_refused():
    with raises(ValueError, "no gradient 'ste'; did you mean 'trust'?"):
        quantize(X, "e4m3", gradient="ste")


@pytest.mark.parametrize("rounding", [None, 3, 0.5])
def test_rounding_is_a_string(rounding):
    kind = type(rounding).__name__
    message = f"rounding must be a static string such as 'ties_to_even', got {kind}"
    with raises(TypeError, message):
        quantize(X, "e4m3", rounding=rounding)


def test_rounding_cannot_be_traced():
    with raises(TypeError, "rounding must be a static string such as 'ties_to_even', got"):
        jax.jit(lambda x, mode: quantize(x, "e4m3", rounding=mode))(X, 1)


# --- codes --------------------------------------------------------------------------------------


def test_a_nan_without_a_code_is_counted_and_refused():
    x = jnp.array([1.0, jnp.nan, jnp.nan])
    with raises(NoNaNError, "2 of 3 values are NaN and e2m1f has no NaN: remove them or give"):
        encode(x, "ocp_e2m1")
    assert encode(x, "ocp_e2m1", nan=7).tolist() == [2, 7, 7]
    assert encode(x[:1], "ocp_e2m1").tolist() == [2]
    assert encode(x, "e2m1").tolist() == [2, 7, 7]
    assert issubclass(NoNaNError, ValueError)


def test_under_jit_the_code_of_nan_must_be_given():
    x = jnp.array([1.0, jnp.nan])
    with raises(NoNaNError, "int8 has no NaN: inside jit give the code of NaN, for example nan=0"):
        jax.jit(lambda x: encode(x, "int8"))(x)
    assert jax.jit(lambda x: encode(x, "int8", nan=0))(x).tolist() == [1, 0]
    assert jax.jit(lambda x: encode(x, "e4m3fn"))(x).tolist() == [56, 127]


@pytest.mark.parametrize("nan", [-1, 16])
def test_the_code_of_nan_is_a_code(nan):
    with raises(ValueError, f"nan={nan} is no code of e2m1f; its codes are 0..15"):
        encode(X, "ocp_e2m1", nan=nan)


def test_nan_stays_nan_where_the_format_has_none():
    """Only codes must say what they do with it; values travel in a carrier that has NaN."""
    assert jnp.isnan(quantize(jnp.array([jnp.nan]), "ocp_e2m1")).all()


@pytest.mark.parametrize("codes", [X, jnp.array([True]), jnp.array([1j])])
def test_codes_are_integers(codes):
    with raises(TypeError, f"codes are integers, got {codes.dtype}"):
        decode(codes, "e4m3")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_values_are_decoded_to_a_carrier(dtype):
    with raises(TypeError, f"values are decoded to float32 or float64, got {dtype}"):
        decode(jnp.arange(3), "e4m3", dtype=jnp.dtype(dtype))


def test_wide_codes_and_values_need_x64():
    with raises(ValueError, "decoding to float64 needs jax_enable_x64"):
        decode(jnp.arange(3), "e4m3", dtype="float64")
    with raises(ValueError, "e11m52 cannot be carried in float32"):
        decode(jnp.arange(3), "binary64")
    with raises(ValueError, "e11m52 cannot be carried in float32"):
        encode(X, "binary64")


def test_names_are_exported():
    assert all(hasattr(qsim, name) for name in qsim.__all__)


# --- odd arguments of the other functions -------------------------------------------------------


@pytest.mark.parametrize("codes", [None, "7", [2**40], {"a": 1}])
def test_codes_that_are_no_integers_are_named(codes):
    for attempt in (lambda: decode(codes, "e4m3"), lambda: qsim.pack(codes, "e4m3")):
        with raises(TypeError, f"codes are an array of integers, got {type(codes).__name__}"):
            attempt()


def test_keys_are_folded_with_words():
    key = qsim.counter_key(0)
    for number in (-1, 2**32):
        with raises(ValueError, f"folded with an integer in 0..2**32-1, got {number}"):
            qsim.fold_in(key, number)
    for attempt in (lambda: qsim.fold_in(key, 1.5), lambda: qsim.counter_key(1.5)):
        with raises(TypeError, "seeds and what is folded in are single integers, got 1.5"):
            attempt()
    with raises(TypeError, "a random key is needed, got 3: make one with jax.random.key(0)"):
        qsim.fold_in(3, 1)


def test_stacks_are_of_grids_of_one_shape():
    grid = lower(parse("e4m3"))
    for wrong in (grid, None, 3):
        with raises(TypeError, "stack takes a list of grids, got"):
            stack(wrong)
    with raises(ValueError, "cannot stack tables of different lengths"):
        qsim.stack([qsim.lower(qsim.parse(spec)) for spec in ("nf4", "dynamic8")])
    with raises(ValueError, "BlockGrid(shape=(16,)) of BinadeGrid"):
        qsim.stack([qsim.lower(qsim.parse(spec)) for spec in ("mxfp4", "nvfp4")])
    with raises(ValueError, "cannot stack grids of the shapes [(), (2,)]"):
        stack([grid, stack([grid, grid])])
    assert stack(lower(parse(spec)) for spec in ("e4m3", "e5m2")).shape == (2,)


def test_a_carrier_is_a_name():
    with raises(ValueError, "no carrier ['float32']; choose 'float32' or 'float64'"):
        lower(parse("e4m3"), ["float32"])


@pytest.mark.parametrize("argument", ["rounding", "overflow"])
def test_long_names_are_cut(argument):
    with raises(ValueError, "no ") as caught:
        quantize(X, "e4m3", **{argument: "a" * 10**5})
    assert len(str(caught.value)) < 300


def test_blocks_need_an_axis():
    with raises(ValueError, "need other axes than an array of shape () has"):
        quantize(jnp.float32(1), "int8[4]")
