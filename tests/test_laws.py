"""Every catalogue entry obeys the laws of ``qsim.analysis.laws``, which find what is wrong."""

from fractions import Fraction

import numpy as np
import pytest

from qsim import Float, Integer, parse
from qsim.analysis import laws
from qsim.analysis.values import binades, count_per_binade, finite_values, precision_at, ties
from qsim.numbers import exact
from qsim.numbers.catalogue import catalogue
from tests.remembered import remembered
from tests.scalars import scalars
from tests.unchecked import unchecked

ENTRIES = scalars()
QUICK = ("ocp_e2m1", "int4sym", "ocp_e4m3")
COMPILED_FOR_LONG = ("dynamic8", "takum8")  # a large table, and a carrier of its own
BYTES = [
    name
    for name, entry in ENTRIES.items()
    if entry.format.bits <= 8 and name not in (*QUICK, *COMPILED_FOR_LONG)
]


def unheld(fmt, landmarks=None, share: int | None = None) -> dict[str, str]:
    """The laws that do not hold, with what the verdict says."""
    with remembered():
        found = list(laws.check(fmt, landmarks, share=share))
    assert [verdict.law for verdict in found] == list(laws.LAWS)
    return {
        verdict.law: f"{verdict.state}: {verdict.detail}"
        for verdict in found
        if verdict.state != "held"
    }


def broken(name: str, share: int) -> dict[str, str]:
    entry = ENTRIES[name]
    found = unheld(entry.format, entry.landmarks, share)
    return {law: said for law, said in found.items() if said.startswith("broken")}


@pytest.mark.parametrize("name", QUICK)
def test_small_formats_obey_every_law(name):
    assert not broken(name, share=8)


# the formats of other families than floats and integers, and some of those
AT_FIRST = [n for n in BYTES if not isinstance(ENTRIES[n].format, Float | Integer)][::2]
AT_FIRST += [n for n in BYTES if isinstance(ENTRIES[n].format, Float | Integer)][::4]


@pytest.mark.t1
@pytest.mark.parametrize("name", AT_FIRST)
@pytest.mark.every(3)
def test_formats_of_up_to_a_byte_obey_every_law(name):
    assert not broken(name, share=8)


@pytest.mark.t2
@pytest.mark.parametrize("name", ENTRIES)
def test_formats_obey_every_law_at_every_number(name):
    assert not broken(name, share=1 if ENTRIES[name].format.bits <= 8 else 8)


def test_the_elements_of_blocks_obey_and_their_landmarks_are_met():
    mxfp4 = catalogue()["mxfp4"]
    found = unheld(mxfp4.format, mxfp4.landmarks, share=8)
    assert not found
    wrong = unheld(mxfp4.format, {**mxfp4.landmarks, "bits_per_value": "4"}, share=8)
    assert wrong["landmarks are met"].endswith("said to be 4, and the definition gives 17/4")


@pytest.mark.t1
def test_a_law_says_why_it_does_not_apply():
    found = unheld(parse("int4"))
    assert found == {
        "landmarks are met": "does not apply: no landmarks are given",
        "a number and its negative round alike": "does not apply: it does not have the negative "
        "of each of its values",
    }


# --- a law that is broken is found broken -------------------------------------------------------


@pytest.mark.t1
def test_wrong_landmarks_are_found():
    found = unheld(parse("e2m1f"), {"max": "7", "nans": 0})
    assert found == {"landmarks are met": "broken: max is said to be 7, and the definition gives 6"}
    found = unheld(parse("uint1"), {"values": ["0", "2"]})["landmarks are met"]
    assert found == "broken: code 0x1 is said to be 2, and is 1"
    found = unheld(parse("uint1"), {"min_normal": "1"})["landmarks are met"]
    assert found.endswith("the definition gives nothing of the kind")
    with unchecked(), pytest.raises(ValueError, match="no landmark 'maximum'"):
        list(laws.check(parse("uint1"), {"maximum": "1"}))
    with unchecked(), pytest.raises(ValueError, match=r"landmark '1\.\.2' is no number; write"):
        list(laws.check(parse("uint1"), {"max": "1..2"}))


def counterexample(law: str) -> str | None:
    """The first counterexample of e2m1f to the law that begins with the given words."""
    (found,) = (test for words, test in laws.LAWS.items() if words.startswith(law))
    with unchecked():
        return next(found(laws.Evidence(parse("e2m1f"), parse("e2m1f"), "float32", {}, 1)), None)


ROUNDED_WRONGLY = {
    "ties_to_even equals": lambda x, q: np.where(x == 2.5, 3.0, q),
    "each value rounds to itself": lambda x, q: np.where(x == 1.5, 2.0, q),
    "rounding keeps order": lambda x, q: np.where(x > 3.2, 1.0, q),
    "nearest is nearest": lambda x, q: np.where((x > 1) & (x < 1.2), 1.5, q),
    "a number and its negative": lambda x, q: np.where(x == -0.75, -0.5, q),
    "down and up enclose": lambda x, q: np.where((x > 4) & (x < 4.5), 6.0, q),
    "down and up are neighbours": lambda x, q: np.where((x > 3) & (x < 4), 2.0, q),
    "stochastic rounding": lambda x, q: np.where((x > 1) & (x < 1.5), 2.0, q),
    "NaN stays NaN": lambda x, q: np.where(np.isnan(x), 0.0, q),
    "overflow equals": lambda x, q: np.where(x == np.inf, 4.0, q),
}


@pytest.mark.parametrize("law", ROUNDED_WRONGLY)
def test_faults_of_rounding_are_found(law, monkeypatch):
    assert counterexample(law) is None
    wrong, right = ROUNDED_WRONGLY[law], laws.quantize
    monkeypatch.setattr(
        laws, "quantize", lambda x, *args, **how: wrong(x, right(x, *args, **how)).astype("float32")
    )
    assert counterexample(law)


def test_counterexamples_say_what_is_wrong(monkeypatch):
    wrong = laws.quantize
    monkeypatch.setattr(laws, "quantize", lambda x, *a, **k: np.abs(wrong(x, *a, **k)))
    assert counterexample("toward_zero equals") == (
        "-3.4028234663852886e+38 (-0x1.fffffe0000000p+127) rounds to -6.0 (-0x1.8000000000000p+2), "
        "the kernel gives 6.0 (0x1.8000000000000p+2) (toward_zero, saturate)"
    )


def test_faults_of_codes_are_found(monkeypatch):
    monkeypatch.setattr(laws.codes, "decode", lambda c, *a, **k: np.float32(c))
    assert counterexample("decode gives").startswith("code 0x1 is 1/2, decode gives")
    monkeypatch.setattr(laws.codes, "encode", lambda x, *a, **k: np.zeros(len(x), np.uint8))
    assert counterexample("encode gives") == "1/2 has the code 0x1, encode gives 0x0"


def test_faults_of_definitions_are_found(monkeypatch):
    """Two values in each other's place are found by the order, and by the codes they have."""
    listed = [*exact.values(parse("e2m1f"))]
    listed[6:8] = Fraction(6), Fraction(4)
    monkeypatch.setattr(laws, "listed_values", lambda fmt: tuple(listed))
    expected = "code 0x6 is 6, and the next of that sign, 0x7, is 4"
    assert counterexample("codes of one sign") == expected
    assert counterexample("encode gives") == "6 has the code 0x6, and exactly 0x7"
    listed[6:8] = Fraction(4), Fraction(5)
    assert counterexample("encode gives") == "5, of code 0x7, has no code exactly"


# --- the census that laws and pictures use ------------------------------------------------------


@pytest.mark.parametrize("spec", ["e4m3", "e3m2f", "int8", "ufixed6.3", "e8m0", "e4m7nuz"])
def test_values_per_binade_are_counted(spec):
    fmt = parse(spec)
    listed = [v for v in finite_values(fmt) if v > 0]
    counts = {
        e: sum(Fraction(2) ** e <= v < Fraction(2) ** (e + 1) for v in listed) for e in binades(fmt)
    }
    assert count_per_binade(fmt) == counts and sum(counts.values()) == len(listed)
    assert counts[binades(fmt)[0]] and counts[binades(fmt)[-1]]


def test_infinities_may_have_codes_anywhere():
    fmt = Float(
        exponent_bits=3, mantissa_bits=3, bias=4, infinities=(0x3F, 0x7F), nans=(0x40, 0x3E)
    )
    with remembered():
        assert "broken" not in {verdict.state for verdict in laws.check(fmt, share=8)}


@pytest.mark.ci
@pytest.mark.parametrize("spec", ["2xe2m1f", pytest.param("2xbfloat16", marks=pytest.mark.t2)])
def test_sums_of_floats_obey_the_laws_that_are_theirs(spec):
    with remembered():
        said = {verdict.law: verdict.state for verdict in laws.check(parse(spec), share=8)}
    assert "broken" not in said.values()
    assert said["codes of one sign are in the order of their values"] == "does not apply"
    assert spec == "2xe2m1f" or not count_per_binade(parse(spec))


def test_values_per_binade_of_wide_formats():
    counts = count_per_binade(parse("binary32"))
    assert counts[0] == counts[127] == counts[-126] == 2**23
    assert [counts[-149 + k] for k in range(23)] == [2**k for k in range(23)]
    assert count_per_binade(parse("int24")) == {k: 2**k for k in range(23)}


def test_precision_is_the_significand():
    assert precision_at(parse("binary64"), Fraction(1)) == 53
    assert precision_at(parse("e4m3"), Fraction(1, 512)) == 1
    assert precision_at(parse("int8"), Fraction(100)) == 7
    assert precision_at(parse("int8"), Fraction(1, 2)) is None
    assert ties(parse("uint2")) == (Fraction(1, 2), Fraction(3, 2), Fraction(5, 2))


def test_values_beyond_every_carrier_have_codes():
    """Their fractions have more digits than Python prints."""
    fmt = parse("e15m20")
    assert exact.encode(fmt, fmt.largest) == 0x7FFEFFFFF
    assert exact.encode(fmt, Fraction(1)) == 0x3FFF00000
