"""Formats are what the documents say, and every code decodes to its exact value.

The catalogue's landmarks are numbers copied from the cited tables; ``qsim.numbers.exact`` gives
the value of each code, and ml_dtypes is asked too where it has the type.
"""

import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qsim
from qsim import Float, Integer, parse
from qsim.numbers import catalogue as catalogue_module
from qsim.numbers import exact, specs
from qsim.numbers.families import FAMILIES
from qsim.numbers.floats import SUBNORMALS
from tests.intervals import LAYOUTS
from tests.remembered import remembered
from tests.scalars import scalars
from tests.unchecked import unchecked

ENTRIES = scalars()

# special values, biases and widths that the catalogue does not have
SPECS = [
    *("e2m3f", "e3m4nuz", "e4m3n", "e2m2i", "ue3m2", "ue3m1b4n", "ue2m3i", "e1m2", "e1m1f"),
    *("e5m7", "e6m9", "e4m7nuz", "ue5m6fn", "e3m0", "e7m0f", "e7m0b64", "e3m2b128f", "e4m0b-100"),
    *("fixed8.4", "ufixed6.3", "fixed12.5sym", "uint1", "int11", "fixed7.149", "fixed16.3"),
    *("e0m3", "ue0m5fn", "e3m0_zero", "e4m0nuz_zero", "ue4m0n_zero", "ue2m2_no_zero"),
    *("e2m2f_one_zero", "e3m2_emax1", "e2m3f_emax1", "e3m2_nan=1f", "e2m2_inf=f.1f_nan=e.10"),
    *("e3m2_flush_after", "e2m3fn_flush_before", "e3m2nuz_absent", "e2m3f_read_as_zero"),
    *("posit2.0", "posit3.2", "posit5.3", "posit7.1", "posit9.1", "takum6", "takum9"),
    *("e2m2b1.3f", "e2m1_nan=3.c", "e3m1_inf=9.1c_nan=1.10", "ue2m3n_normalised"),
]


T1, T2 = pytest.mark.t1, pytest.mark.t2


def _sized(names, quick: int = 8):
    """The names of up to 16 bits; above ``quick`` of a slower tier, above 12 of the slowest."""
    few = {name: parse(name).bits for name in names if parse(name).bits <= 16}
    tiers = {name: [] if n <= quick else T1 if n <= 12 else T2 for name, n in few.items()}
    tiers |= dict.fromkeys({"binary16"} & few.keys(), T1)
    return [pytest.param(name, marks=mark) for name, mark in tiers.items()]


def number(text: str) -> exact.Value:
    """The exact number of a landmark, such as ``255/128 * 2^127``, ``15.5`` or ``-0``."""
    if text == "-0":
        return -0.0
    product = Fraction(1)
    for factor in text.split("*"):
        base, _, exponent = factor.strip().partition("^")
        product *= Fraction(base) ** int(exponent or 1)
    return product


def test_landmarks_are_read_as_written():
    assert number("255/128 * 2^127") == Fraction(255, 128) * 2**127
    assert number("15.5") == Fraction(31, 2)
    assert number("2^-9") == Fraction(1, 512)
    assert math.copysign(1.0, number("-0")) < 0


def is_subnormal(fmt, value: Fraction) -> bool:
    return value < (fmt.smallest_normal if isinstance(fmt, Float) else fmt.smallest * 2)


# --- the catalogue ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENTRIES)
def test_landmarks_of_the_source(name):
    fmt, landmarks = ENTRIES[name].format, dict(ENTRIES[name].landmarks)
    listed = landmarks.pop("values", None)
    found = {
        "max": lambda: fmt.largest,
        "lowest": lambda: fmt.lowest,
        "min_normal": lambda: fmt.smallest_normal,
        "min_subnormal": lambda: fmt.smallest,
        "nans": lambda: fmt.nan_count,
    }
    assert landmarks.keys() <= found.keys()
    assert {"max", "nans"} <= landmarks.keys()
    for key, text in landmarks.items():
        expected = text if key == "nans" else number(text)
        assert found[key]() == expected, key
    if listed is not None:
        assert list(map(repr, exact.values(fmt))) == [repr(number(text)) for text in listed]


@pytest.mark.t1
@pytest.mark.parametrize("name", _sized(ENTRIES))
def test_derived_facts_are_those_of_the_values(name):
    """Largest, lowest, smallest and the number of NaNs, read off the list of all values."""
    fmt = parse(name)
    with unchecked():
        values = exact.values(fmt)
    nans = [v for v in values if isinstance(v, float) and math.isnan(v)]
    finite = [Fraction(v) for v in values if not isinstance(v, float) or v == 0]
    infinite = [v for v in values if isinstance(v, float) and math.isinf(v)]
    assert len(nans) == fmt.nan_count and bool(nans) == fmt.has_nan
    assert max(finite) == fmt.largest
    symmetric = isinstance(fmt, Integer) and fmt.symmetric
    assert min(v for v in finite if not symmetric or v >= -fmt.largest) == fmt.lowest
    assert min(v for v in finite if v > 0) == fmt.smallest
    assert len(infinite) == fmt.infinities * (1 + fmt.signed)
    assert any(repr(v) == "-0.0" for v in values) == fmt.has_negative_zero
    assert (0 in finite) == fmt.has_zero
    if fmt.nan_code is not None:
        assert math.isnan(values[fmt.nan_code])


@pytest.mark.parametrize("name", ENTRIES)
def test_a_name_means_the_same_by_the_catalogue_and_by_the_grammar(name):
    """The grammar is read first, so a catalogue name that it reads must be the same format."""
    assert parse(name) == ENTRIES[name].format
    assert parse(f" {name.upper()} ") == ENTRIES[name].format


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_say_where_they_come_from(name):
    entry = ENTRIES[name]
    assert entry.title and entry.source
    assert re.fullmatch(r"[a-z0-9_]+", name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nfamily = 'float'", "'a': 'title' is missing"),
        ("[a]\nfamily = 'posits'", "'a': no family 'posits'; known are"),
        (
            "[a]\nfamily = 'integer'\nbits = 8\ntitle = ''\nsource = ''\nsize = 3\n[a.landmarks]",
            "'a'.*'size'",
        ),
    ],
)
def test_entries_outside_the_schema_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        catalogue_module.read(text)


# --- codes --------------------------------------------------------------------------------------


def assert_codes_are_exact(fmt, codes: np.ndarray, carrier: str = "float32") -> None:
    """``decode`` gives the exact value of each code, and ``encode`` gives the code back."""
    layout = LAYOUTS[carrier]
    decoded = qsim.decode(codes, fmt, dtype=carrier)
    with unchecked():
        values = [exact.decode(fmt, int(code)) for code in codes]
        expected = np.array([layout.pattern(value) for value in values], layout.word)
    assert np.asarray(decoded).view(layout.word).tolist() == expected.tolist()
    # a code without a value of its own: NaNs other than the canonical one, unused codes
    first, written = {}, list(map(repr, values))
    for code, value in sorted(zip(codes.tolist(), written, strict=True)):
        first.setdefault(value, code)
    unique = np.array([first[value] for value in written], codes.dtype) == codes
    below = np.array([isinstance(v, Fraction) and v < fmt.lowest for v in values])
    is_nan = np.array([isinstance(v, float) and math.isnan(v) for v in values])
    wanted = np.where(is_nan, codes.dtype.type(fmt.nan_code or 0), codes)
    nan = None if fmt.has_nan else 0
    encoded = np.asarray(qsim.encode(decoded, fmt, overflow="saturate_propagate", nan=nan))
    has_own = (unique | is_nan) & ~below
    assert encoded[has_own].tolist() == wanted[has_own].tolist()


# encode and decode are compiled for each format
@pytest.mark.t1
@pytest.mark.parametrize(
    "name",
    [
        *_sized([*ENTRIES, *SPECS[::2]], quick=6),
        *(pytest.param(*param.values, marks=T2) for param in _sized(SPECS[1::2])),
    ],
)
@pytest.mark.every(3)
def test_every_code_decodes_to_its_exact_value_and_back(name):
    fmt = parse(name)
    count = max(2**fmt.bits, 256)  # of few lengths, since each length is compiled
    carrier = carrier_for(fmt)
    with jax.enable_x64(carrier == "float64"):
        assert_codes_are_exact(fmt, np.arange(count, dtype=np.uint32) % 2**fmt.bits, carrier)


def carrier_for(fmt) -> str:
    """The narrower carrier that holds a format."""
    try:
        qsim.lower(fmt)
    except ValueError:
        return "float64"
    return "float32"


@pytest.mark.parametrize("name", _sized([*ENTRIES, *SPECS], quick=6))
def test_exact_encode_is_the_inverse_of_exact_decode(name):
    fmt = parse(name)
    with unchecked():
        for code in range(0, 2**fmt.bits, 1 if fmt.bits <= 8 else 13):
            value = exact.decode(fmt, code)
            is_nan = isinstance(value, float) and math.isnan(value)
            if is_nan and not fmt.has_nan:
                continue  # an unused code
            found = exact.encode(fmt, value)
            assert found == (fmt.nan_code if is_nan else code) or value == 0


@pytest.mark.t1
@pytest.mark.parametrize(
    "name",
    ["tf32", "e8m13", "e2m20f", "int24", "fixed24.140", "binary32", "posit28.2", "posit25.0"],
)
def test_codes_of_wide_formats_are_exact(name):
    fmt = parse(name)
    assert_codes_are_exact(fmt, _some_codes(fmt).astype(np.uint32))


@pytest.mark.t1
@pytest.mark.parametrize(
    "name",
    [
        *("binary64", "binary32", "e11m30nuz", "e8m24fn", "fixed50.60"),
        *("posit32", "posit40.4", "posit55.0", "takum32", "takum57"),
    ],
)
def test_codes_of_wide_formats_are_exact_in_float64(name):
    fmt = parse(name)
    with jax.enable_x64(True):
        assert_codes_are_exact(fmt, _some_codes(fmt), "float64")


def _some_codes(fmt, count: int = 1024) -> np.ndarray:
    """Random codes, and those about powers of two: zero, subnormals, binades, specials."""
    random = np.random.default_rng(2).integers(0, 2**64, count, dtype=np.uint64, endpoint=False)
    edges = [(1 << k) + step for k in range(fmt.bits + 1) for step in (-2, -1, 0, 1)]
    edges += [2**fmt.bits - (1 << k) for k in range(fmt.bits)]
    edges += [getattr(fmt, "top_code", 0) + step for step in (-1, 0, 1, 2)]
    inside = [e for e in edges if 0 <= e < 2**fmt.bits]
    mask = np.uint64(2**fmt.bits - 1)
    return np.resize(np.append(np.array(inside, np.uint64), random & mask), 1024)


ML_DTYPES = {
    "binary16": np.float16,
    "binary32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "ieee_e4m3": ml_dtypes.float8_e4m3,
    "ieee_e3m4": ml_dtypes.float8_e3m4,
    "ocp_e4m3": ml_dtypes.float8_e4m3fn,
    "ocp_e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "ocp_e3m2": ml_dtypes.float6_e3m2fn,
    "ocp_e2m3": ml_dtypes.float6_e2m3fn,
    "ocp_e2m1": ml_dtypes.float4_e2m1fn,
    "ocp_e8m0": ml_dtypes.float8_e8m0fnu,
    "int2": ml_dtypes.int2,
    "uint2": ml_dtypes.uint2,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
}


@pytest.mark.t1
@pytest.mark.parametrize("name", ML_DTYPES)
def test_ml_dtypes_agrees_on_every_code(name):
    fmt, dtype = parse(name), np.dtype(ML_DTYPES[name])
    codes = _some_codes(fmt) if fmt.bits > 16 else np.arange(2**fmt.bits)
    codes = codes.astype(f"uint{dtype.itemsize * 8}")
    with np.errstate(invalid="ignore"):
        theirs = codes.view(dtype).astype(np.float32)
    ours = np.asarray(qsim.decode(codes, fmt))
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all(), codes[~same][:5]


def test_codes_use_the_smallest_dtype():
    sizes = {"uint1": 8, "ocp_e2m1": 8, "ocp_e4m3": 8, "e4m4": 16, "binary16": 16, "e8m8": 32}
    for name, bits in {**sizes, "binary32": 32}.items():
        assert qsim.encode(jnp.ones(1), name).dtype == f"uint{bits}"


def test_bits_beyond_the_width_of_a_code_are_ignored():
    codes = jnp.arange(256, dtype=jnp.uint8)
    decoded = qsim.decode(codes, "ocp_e2m1")
    assert decoded.tobytes() == qsim.decode(codes % 16, "ocp_e2m1").tobytes()
    assert qsim.decode(jnp.array([-1], jnp.int8), "int4").tolist() == [-1.0]


def test_codes_count_up_with_the_magnitude():
    """IEEE 754-2019, 3.4: the codes of one sign are ordered as their values are."""
    for name, entry in ENTRIES.items():
        if isinstance(entry.format, Float) and entry.format.bits <= 8:
            top = entry.format.top_code
            values = [exact.decode(entry.format, code) for code in range(top + 1)]
            assert values == sorted(set(values)), name


# --- names --------------------------------------------------------------------------------------


def _built(make, **fields):
    """A strategy of the formats that the fields allow, the impossible ones left out."""

    def build(**values):
        try:
            return make(**values)
        except ValueError:
            return None

    return st.builds(build, **fields).filter(lambda fmt: fmt is not None)


FLOATS = _built(
    Float,
    exponent_bits=st.integers(0, 15),
    mantissa_bits=st.integers(0, 52),
    bias=st.none() | st.integers(-(2**15), 2**15) | st.floats(-(2**15), 2**15),
    signed=st.booleans(),
    zero=st.none() | st.booleans(),
    one_zero=st.booleans(),
    infinities=st.booleans(),
    nans=st.sampled_from(["ieee", "top", "negative_zero", "none"]),
    subnormals=st.sampled_from(list(SUBNORMALS)),
    emax_limit=st.none() | st.integers(-20, 20),
)
LISTED = _built(
    Float,
    exponent_bits=st.integers(0, 4),
    mantissa_bits=st.integers(0, 3),
    signed=st.booleans(),
    infinities=st.just(False) | st.tuples(st.integers(0, 127), st.integers(0, 127)),
    nans=st.lists(st.integers(0, 255), max_size=4, unique=True).map(tuple),
    emax_limit=st.none() | st.integers(-3, 4),
    subnormals=st.sampled_from(list(SUBNORMALS)),
)
INTEGERS = _built(
    Integer,
    bits=st.integers(1, 64),
    fraction_bits=st.integers(0, 1074),
    signed=st.booleans(),
    symmetric=st.booleans(),
)


POSITS = _built(qsim.Posit, bits=st.integers(1, 65), es=st.integers(0, 10))
TAKUMS = _built(qsim.Takum, bits=st.integers(1, 65))


@given(FLOATS | LISTED | INTEGERS | POSITS | TAKUMS | st.just(qsim.HiFloat8()))
def test_parse_is_the_inverse_of_str(fmt):
    assert parse(str(fmt)) == fmt


@pytest.mark.t1
@given(st.from_regex(specs.FLOAT, fullmatch=True) | st.from_regex(specs.INTEGER, fullmatch=True))
def test_a_spec_that_is_read_prints_as_a_spec_of_the_same_format(spec):
    try:
        fmt = parse(spec)
    except ValueError:
        return
    assert parse(str(fmt)) == fmt
    assert str(parse(str(fmt))) == str(fmt)


@pytest.mark.parametrize("name", ENTRIES)
def test_catalogue_formats_print_as_specs(name):
    assert parse(str(parse(name))) == parse(name)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_one_way(text):
    try:
        parse(text)
    except ValueError as error:
        assert str(error)


def test_equal_formats_are_one_key():
    assert len({parse("e4m3fn"), parse("ocp_e4m3"), parse("e4m3b7fn")}) == 1


def test_names_of_dtypes_are_formats():
    for name, spec in specs.OTHER_NAMES.items():
        fmt = parse(name)
        assert fmt == parse(spec)
        if hasattr(ml_dtypes, name):
            info = ml_dtypes.finfo(getattr(ml_dtypes, name))
            assert float(fmt.largest) == float(info.max) and fmt.bits == info.bits
            assert float(fmt.smallest) == float(info.smallest_subnormal)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ocp_e4m4", "no format 'ocp_e4m4'; did you mean 'ocp_e4m3'"),
        ("e4m3fnu", "did you mean 'e4m3fnuz'"),
        ("binary61", "did you mean 'binary64' or 'binary16'"),
        ("bf17", "did you mean 'bfloat16'?"),
        ("", "no format ''; known are"),
        ("x" * 1000, f"no format '{'x' * 40}...'"),
    ],
)
def test_unknown_names_suggest_the_near_ones(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("e0m0", "without exponent and mantissa bits has no values but zero"),
        ("e0m3i_no_zero", "zero=False needs signed=False"),
        ("ue0m3_no_zero", "zero=False needs an exponent field"),
        ("e4m3_no_zero", "zero=False needs signed=False"),
        ("e4m3fn_nan=7f", "'fn' names special codes that are listed too: leave one out"),
        ("e4m3_nan=7f.7f", "the special code 0x7f is listed twice: list it once"),
        ("e4m3_inf=7f_nan=7e", "must have one for each sign: a positive and a negative one"),
        ("e4m3_nan=0", "the code 0 is zero or the smallest value; it cannot be special"),
        ("e4m3_nan=100", "there is no code 256; codes are 0..255"),
        ("e8m8_nan=100", "special codes are listed for formats of at most 16 bits, this one has"),
        ("e1m1_nan=1.2.3", "the special codes leave no value but zero"),
        ("e2m1_emax9", "emax_limit is 9, but it must be within emin..emax of the codes.*0..1:"),
        ("ue8m3_no_zero_absent", "subnormals='absent' needs a zero and an exponent field"),
        ("e4m3b0.5_flush_after", "needs an integer bias and special codes beyond the values"),
        ("e4m3_nan=7_flush_before", "needs an integer bias and special codes beyond the values"),
        ("e4m23b0.5", "mantissa_bits is 23, but a format with a real bias has at most 21"),
        ("p0", "precision is 0, but it must be within 1..53"),
        ("p54", "precision is 54, but it must be within 1..53"),
        ("binary2p1se", "a P3109 format here has 3 to 16 bits, got 2"),
        ("binary17p1se", "3 to 16 bits, got 17"),
        ("binary8p8se", "a signed P3109 format of 8 bits has a precision of 1 to 7"),
        ("binary8p9uf", "an unsigned P3109 format of 8 bits has a precision of 1 to 8"),
        ("e17m3", "exponent_bits is 17, but at most 16 are supported"),
        ("e11m53", "the code would have 65 bits, but at most 64 are supported"),
        ("e4m3b32769", "bias is 32769, but it must be within -32768..32768"),
        ("e4m3b-32769", "bias is -32769, but it must be within"),
        (
            "ue4m3fnuz",
            "nans='negative_zero' needs a sign bit; for an unsigned format use nans='top'",
        ),
        ("ue4m3nuz", "needs a sign bit"),
        ("e8m0fn", "e8m0 is a scale format; it may only be followed by 'f'"),
        ("e8m0fnuz", "scale format.*for a format with sign and zero write 'e8m0fnuz_zero'"),
        ("int1", "bits is 1, but a signed integer has at least 2"),
        ("uint0", "bits is 0, but an unsigned integer has at least 1"),
        ("int65", "bits is 65, but at most 64 are supported"),
        ("fixed8.1075", "fraction_bits is 1075, but it must be within 0..1074"),
        ("uint8sym", "symmetric=True needs a signed format; an unsigned one starts at zero"),
        ("ufixed8.4sym", "symmetric=True needs a signed format"),
    ],
)
def test_impossible_specs_say_which_rule_they_break(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"mantissa_bits": -1}, ValueError, "mantissa_bits is -1, but it cannot be negative"),
        ({"exponent_bits": -2}, ValueError, "exponent_bits is -2, but it cannot be negative"),
        ({"nans": "quiet"}, ValueError, "nans is 'quiet', but must be 'ieee', 'top'"),
        ({"infinities": False}, ValueError, "nans='ieee' keeps a code for infinity"),
        ({"mantissa_bits": 0, "signed": False}, ValueError, "scale format has no infinities"),
        ({"exponent_bits": 0}, ValueError, "nans='ieee' needs an exponent field"),
        ({"subnormals": "flush"}, ValueError, "subnormals is 'flush', but must be one of gradual,"),
        ({"nans": (0x7F,)}, ValueError, "list the codes of the infinities too, or pass"),
        ({"nans": ("1/3",), "infinities": False}, ValueError, "1/3 is not a value that some code"),
        ({"nans": (b"7",), "infinities": False}, TypeError, "a special code is an int, or the"),
        ({"nans": 0x7F, "infinities": False}, TypeError, "nans must be a name or a tuple of codes"),
        ({"infinities": None}, TypeError, "infinities must be a name or a tuple"),
        ({"scale": 0}, ValueError, "scale is 0, but it must be positive"),
        ({"scale": Fraction(1, 3)}, ValueError, "scale is 1/3, which float32 has not"),
        ({"bias": 0.5, "scale": 3}, ValueError, "put both into one of the two"),
        ({"bias": math.inf}, ValueError, "bias is inf, but it must be finite"),
        ({"bias": 1e9}, ValueError, "bias is 1000000000, but it must be within -32768..32768"),
        ({"emax_limit": 7.5}, TypeError, "emax_limit must be a Python int, got 7.5"),
        ({"zero": 1}, TypeError, "Float zero must be True or False, got 1"),
        ({"exponent_bits": 4.0}, TypeError, "Float exponent_bits must be a Python int, got 4.0"),
        ({"mantissa_bits": True}, TypeError, "Float mantissa_bits must be a Python int, got True"),
        ({"bias": "7"}, TypeError, "Float bias must be a Python int or float, got '7'"),
        ({"mantissa_bits": np.int32(3)}, TypeError, "mantissa_bits must be a Python int"),
        ({"exponent_bits": None}, TypeError, "exponent_bits must be a Python int, got None"),
    ],
)
def test_impossible_floats_say_which_rule_they_break(fields, error, message):
    fields = {"exponent_bits": 4, "mantissa_bits": 3, **fields}
    with unchecked(), pytest.raises(error, match=message):
        Float(**fields)


@pytest.mark.parametrize("nans", ["ieee", "top", "negative_zero", "none"])
@pytest.mark.parametrize("signed", [True, False])
def test_the_smallest_floats_have_a_value_above_zero(signed, nans):
    """No combination that is allowed leaves only zero and specials."""
    if nans != "negative_zero" or signed:
        assert Float(exponent_bits=1, mantissa_bits=1, signed=signed, nans=nans).largest > 0
    if nans in ("top", "none"):
        scale = Float(exponent_bits=1, mantissa_bits=0, signed=False, infinities=False, nans=nans)
        assert scale.largest > 0


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"bits": 8.0}, TypeError, "Integer bits must be a Python int, got 8.0"),
        ({"bits": 8, "fraction_bits": None}, TypeError, "fraction_bits must be a Python int"),
        ({"bits": 8, "fraction_bits": -1}, ValueError, "fraction_bits is -1, but it must be"),
    ],
)
def test_impossible_integers_say_which_rule_they_break(fields, error, message):
    with unchecked(), pytest.raises(error, match=message):
        Integer(**fields)


@pytest.mark.parametrize("spec", [None, 8, 4.3, b"e4m3", ["e4m3"]])
def test_a_format_is_named_by_a_string(spec):
    with unchecked(), pytest.raises(TypeError, match="a format is named by a string such as"):
        parse(spec)


@pytest.mark.parametrize(("name", "code"), [("e4m3", 256), ("int4", 16), ("uint1", -1)])
def test_codes_that_do_not_exist_are_refused(name, code):
    with pytest.raises(ValueError, match=rf"has codes 0\.\.\d+, got {code}"):
        exact.decode(parse(name), code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ocp_e4m3", Fraction(449)),
        ("ocp_e4m3", math.inf),
        ("ocp_e2m1", math.nan),
        ("e4m3fnuz", -0.0),
        ("e8m0", Fraction(0)),
        ("e8m0", Fraction(3)),
        ("uint8", Fraction(-1)),
        ("int8", Fraction(1, 2)),
    ],
)
def test_numbers_that_are_no_values_have_no_code(name, value):
    with pytest.raises(ValueError, match="is not a value of"):
        exact.encode(parse(name), value)


@pytest.mark.parametrize("spec", ["int25", "fixed25.7", "int24", "uint24"])
def test_the_ends_of_wide_integers_have_their_codes(spec):
    fmt = parse(spec)
    for value in (fmt.lowest, fmt.largest, -fmt.largest if fmt.signed else fmt.smallest):
        code = int(qsim.encode(np.float32(float(value)), fmt))
        assert exact.decode(fmt, code) == exact.round_exact(Fraction(float(np.float32(value))), fmt)


@pytest.mark.ci
@settings(max_examples=60)
@given(LISTED)
def test_facts_of_floats_with_listed_codes_are_those_of_the_values(fmt):
    """As for the catalogue: read off the list of all values."""
    with remembered():
        values = exact.values(fmt)
        finite = [Fraction(v) for v in values if not isinstance(v, float) or v == 0]
        assert (min(finite), max(finite)) == (fmt.lowest, fmt.largest)
        assert min(v for v in finite if v > 0) == fmt.smallest
        assert sum(v != v for v in values) == fmt.nan_count
        infinite = sum(isinstance(v, float) and math.isinf(v) for v in values)
        assert infinite == bool(fmt.infinities) * (1 + fmt.signed)
        for mode in ("ties_to_even", "up", "to_odd"):
            for value in finite:
                assert exact.round_exact(value, fmt, rounding=mode) == value


def test_the_spec_strings_of_the_readme_are_read():
    text = (catalogue_module.folder() / "README.md").read_text("utf-8")
    rows = text.split("## Spec strings")[1].split("## Keys")[0].splitlines()
    specs = [
        s for row in rows if row.startswith("| `") for s in re.findall("`(.*?)`", row.split("|")[1])
    ]
    assert len(specs) > 25
    for spec in specs:
        assert parse(str(parse(spec))) == parse(spec)
    families = {name for name, f in FAMILIES.items() for s in specs if f.pattern.fullmatch(s)}
    assert families == set(FAMILIES)
