"""Spec strings and catalogue files that are wrong, huge or nested are refused soon, in one line."""

import re

import pytest

from qsim import Codebook, Float, Recipe, parse
from qsim.numbers import catalogue
from tests.unchecked import unchecked

LONG = 10**5


@pytest.fixture(autouse=True)
def as_users_see_it():
    with unchecked():
        yield


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int8[4,fixed:1e999999999]", "'fixed:1e999999999' is not a number such as 0.25"),
        ("int8[4,fixed:1e-999999999]", "'fixed:1e-999999999' is not a number such as 0.25"),
        ("int8[4,fixed:" + "9" * LONG + "]", "999..., is not a number"),
        ("int8[4,fixed:1/0]", "'fixed:1/0' is not a number such as 0.25"),
        ("int8[4,scale:stochastic_b]", "a scale has no random bits"),
        ("int8[4,scale:stochastic_equal:3]", "a scale has no random bits"),
        ("int8[4," * 300 + "e8m0" + "]" * 300, "has blocks in blocks, more than 8 deep"),
        ("e2m1f[" * LONG + "]" * LONG, "has blocks in blocks, more than 8 deep"),
        ("2x" * LONG + "e8m7", "needs a float format after the 'x', such as 2xe8m7"),
        ("codebook(1," + "9" * LONG + ")", "a codebook holds numbers such as -1, 0.5 or '1/3'"),
        ("codebook(1,1/" + "9" * LONG + ")", "a codebook holds numbers such as -1, 0.5 or '1/3'"),
        ("e4m3" + "_zero" * LONG, "no format 'e4m3_zero_zero"),
        ("codebook(" * LONG, "no format 'codebook(codebook("),
        ("fp8", "'fp8' is not one format: write 'e4m3fn' or 'e5m2'"),
        ("Float6", "'Float6' is not one format: write 'e2m3f' or 'e3m2f'"),
        ("fp4", "'fp4' is not one format: write 'e2m1f', or with scales for blocks 'mxfp4'"),
    ],
    ids=lambda text: text[:30],
)
def test_specs_are_refused_soon_and_briefly(spec, message):
    pieces = ".*".join(re.escape(piece) for piece in message.split("...,"))
    with pytest.raises((TypeError, ValueError), match=pieces) as caught:
        parse(spec)
    assert len(str(caught.value)) < 1000


def test_a_codebook_may_be_the_scale_of_a_block():
    fmt = parse("int8[4,codebook(0.5,1,2)]")
    assert fmt.scale == parse("codebook(0.5,1,2)")
    assert parse(str(fmt)) == fmt


HEAD = "[a]\ntitle = ''\nsource = ''\n"
FLOAT = HEAD + "family = 'float'\nexponent_bits = 4\nmantissa_bits = 3\ninfinities = false\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 20_000 + "]" * 20_000, "brackets are nested too deeply"),
        (HEAD + "x = '" + "y" * 2**22 + "'", "but at most 4194304 are read: split it"),
        (HEAD + "family = ['float']", "'a': no family ['float']; known are"),
        ("[a]\ntitle = 3\nsource = ''\nfamily = 'hifloat8'", "'a': title is 3, but must be a str"),
        (HEAD + "family = 'hifloat8'\nlandmarks = 7", "'a': landmarks must be a table"),
        (
            FLOAT + "nans = 'none'\nsubnormals = ['gradual']",
            "subnormals is ['gradual'], but must be one of",
        ),
        (FLOAT + "nans = [nan]", "'a': nan is no number that a code would have"),
        (FLOAT + "nans = [inf]", "'a': inf is no number that a code would have"),
        (FLOAT + "nans = ['x']", "'a': 'x' is no number that a code would have"),
        (FLOAT + "nans = ['1/0']", "'a': '1/0' is no number that a code would have"),
        (FLOAT + "nans = ['1e999999999']", "'1e999999999' is no number that a code would have"),
        (HEAD + "family = 'codebook'\nvalues = [0, 1]\ncarrier = {}", "carrier is {}, but must be"),
        (
            HEAD + f"family = 'codebook'\nvalues = '{'9' * LONG}'",
            "values must be a list of numbers",
        ),
    ],
    ids=lambda text: text[:30].replace("\n", " "),
)
def test_files_are_refused_soon_and_briefly(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        catalogue.read(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.ci
def test_a_file_holds_the_longest_codebook():
    text = HEAD + "family = 'codebook'\nvalues = [" + ", ".join(map(str, range(2**16))) + "]"
    assert len(text) < catalogue.MAX_LENGTH / 3
    assert catalogue.read(text)[0].format.bits == 16


def test_records_refuse_the_same():
    with pytest.raises(ValueError, match="a scale has no random bits"):
        Recipe(shape=(4,), scale_rounding="stochastic_c:4")
    with pytest.raises(TypeError, match="values must be a list of numbers"):
        Codebook(values=3)
    with pytest.raises(ValueError, match="inf is no number that a code would have"):
        Float(exponent_bits=4, mantissa_bits=3, nans=(float("inf"),), infinities=False)
