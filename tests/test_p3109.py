"""The formats of IEEE P3109 (draft 4.0), every code of every width and precision.

The value of a code is computed here from the draft's formula with integers; gfloat is asked too.
"""

import math
from fractions import Fraction

import gfloat
import numpy as np
import pytest
from gfloat import Domain, Signedness
from gfloat import formats as gformats

import qsim
from qsim import p3109, parse
from qsim.numbers import exact
from tests.unchecked import unchecked

ALL = [
    (bits, precision, signed, extended)
    for bits in range(3, 17)
    for signed in (True, False)
    for precision in range(1, bits + (not signed))
    for extended in (True, False)
]


def name_of(bits, precision, signed, extended) -> str:
    return f"binary{bits}p{precision}{'s' if signed else 'u'}{'e' if extended else 'f'}"


def value(code: int, bits: int, precision: int, signed: bool, extended: bool):
    """The draft's decoding, as a significand and an exponent; special values as floats."""
    nan = 2 ** (bits - 1) if signed else 2**bits - 1
    if code == nan:
        return math.nan
    sign = -1 if signed and code > nan else 1
    code = code - nan if sign < 0 else code
    infinity = nan - 1
    if extended and code == infinity:
        return sign * math.inf
    bias = 2 ** (bits - precision - 1) if signed and precision < bits else 2 ** (bits - precision)
    field, fraction = divmod(code, 2 ** (precision - 1))
    if field == 0:
        return sign * fraction, 2 - precision - bias
    return sign * (2 ** (precision - 1) + fraction), field - bias - precision + 1


def _marked(case):
    bits = case[0]
    marks = pytest.mark.t2 if bits > 12 else pytest.mark.t1 if bits > 10 else ()
    return pytest.param(*case, marks=marks, id=name_of(*case))


def test_there_are_504_formats():
    assert len(ALL) == 504
    assert len({p3109(b, p, signed=s, extended=e) for b, p, s, e in ALL}) == 504


@pytest.mark.parametrize(("bits", "precision", "signed", "extended"), [_marked(c) for c in ALL])
@pytest.mark.every(3)
def test_every_code_has_the_value_of_the_draft(bits, precision, signed, extended):
    with unchecked():
        fmt = p3109(bits, precision, signed=signed, extended=extended)
        assert parse(name_of(bits, precision, signed, extended)) == fmt == parse(str(fmt))
        for code in range(2**bits):
            found, expected = (
                exact.decode(fmt, code),
                value(code, bits, precision, signed, extended),
            )
            if isinstance(expected, float):
                assert repr(found) == repr(expected)
                continue
            significand, exponent = expected
            assert type(found) is Fraction
            scaled = found * 2**-exponent if exponent < 0 else found / 2**exponent
            assert scaled == significand
            if code % 7 == 0:
                assert exact.encode(fmt, found) == code


@pytest.mark.parametrize("case", [c for c in ALL if c[0] in (3, 5, 8)], ids=lambda c: name_of(*c))
def test_gfloat_agrees_on_every_code(case):
    """Its values where they are finite; its decoding of precision 1 has no smallest exponent."""
    bits, precision, signed, extended = case
    info = gformats.format_info_p3109(
        bits,
        precision,
        Signedness.Signed if signed else Signedness.Unsigned,
        Domain.Extended if extended else Domain.Finite,
    )
    fmt = p3109(bits, precision, signed=signed, extended=extended)
    for code in range(2**bits):
        with unchecked():
            ours = float(exact.decode(fmt, code))
        theirs = gfloat.decode_float(info, code).fval
        assert ours == theirs or (ours != ours and theirs != theirs), code


# K=8: precision, signed: bias, largest (extended, finite), smallest normal, smallest positive
LANDMARKS = {
    (1, True): (64, 2**62, 2**63, Fraction(1, 2**63), Fraction(1, 2**63)),
    (2, True): (32, 2**31, 3 * 2**30, Fraction(1, 2**31), Fraction(1, 2**32)),
    (3, True): (16, 49152, 57344, Fraction(1, 2**15), Fraction(1, 2**17)),
    (4, True): (8, 224, 240, Fraction(1, 2**7), Fraction(1, 2**10)),
    (5, True): (4, 15, Fraction(31, 2), Fraction(1, 2**3), Fraction(1, 2**7)),
    (6, True): (2, Fraction("3.875"), Fraction("3.9375"), Fraction(1, 2), Fraction(1, 2**6)),
    (7, True): (1, Fraction("1.96875"), Fraction("1.984375"), 1, Fraction(1, 2**6)),
    (1, False): (128, 2**125, 2**126, Fraction(1, 2**127), Fraction(1, 2**127)),
    (2, False): (64, 3 * 2**61, 2**63, Fraction(1, 2**63), Fraction(1, 2**64)),
    (3, False): (32, 5 * 2**29, 3 * 2**30, Fraction(1, 2**31), Fraction(1, 2**33)),
    (4, False): (16, 53248, 57344, Fraction(1, 2**15), Fraction(1, 2**18)),
    (5, False): (8, 232, 240, Fraction(1, 2**7), Fraction(1, 2**11)),
    (6, False): (4, Fraction("15.25"), Fraction("15.5"), Fraction(1, 2**3), Fraction(1, 2**8)),
    (7, False): (2, Fraction("3.90625"), Fraction("3.9375"), Fraction(1, 2), Fraction(1, 2**7)),
    (8, False): (1, Fraction("1.9765625"), Fraction("1.984375"), 1, Fraction(1, 2**7)),
}


@pytest.mark.parametrize(("precision", "signed"), LANDMARKS)
def test_landmarks_of_eight_bits(precision, signed):
    extended = p3109(8, precision, signed=signed)
    finite = p3109(8, precision, signed=signed, extended=False)
    facts = (
        extended.bias,
        extended.largest,
        finite.largest,
        extended.smallest_normal,
        extended.smallest,
    )
    assert facts == LANDMARKS[precision, signed]
    assert exact.encode(extended, Fraction(1)) == (64 if signed else 128)
    assert extended.nan_count == 1 and not extended.has_negative_zero


def test_the_narrowest_landmarks():
    assert (p3109(4, 2).largest, p3109(4, 2, extended=False).largest) == (2, 3)
    assert p3109(8, 3, extended=False) == parse("e5m2fnuz")
    assert p3109(8, 4, extended=False) == parse("e4m3fnuz")
    assert parse("p3109_k8p3se") == parse("binary8p3se") == p3109(8, 3)


CASES = [
    ("binary8p3se", "ties_to_even", "p3109", 53248.0, 49152.0),
    ("binary8p3se", "ties_to_even", "p3109", 1e9, math.inf),
    ("binary8p3sf", "ties_to_even", "p3109", 1e9, 57344.0),
    ("binary8p3se", "ties_to_even", "saturate_propagate", math.inf, math.inf),
    ("binary8p3se", "ties_to_even", "saturate", math.inf, 49152.0),
    ("binary4p2se", "to_odd", "p3109", 2.01, math.inf),
    ("binary4p2ue", "to_odd", "p3109", 8.0, 6.0),
    ("binary8p3ue", "ties_to_even", "p3109", -1.0, math.nan),
    ("binary8p3ue", "ties_to_even", "p3109", -(2.0**-40), 0.0),
    ("binary8p1ue", "ties_to_even", "p3109", 1.5, 1.0),
    ("binary8p1ue", "ties_to_even", "p3109", 3.0, 4.0),
    ("binary8p1se", "ties_to_even", "p3109", 2.0**-64, 0.0),
    ("binary8p1se", "ties_to_away", "p3109", 2.0**-64, 2.0**-63),
]


@pytest.mark.parametrize(("name", "rounding", "overflow", "x", "result"), CASES)
def test_projections_of_the_draft(name, rounding, overflow, x, result):
    found = qsim.quantize(np.float32(x), name, rounding=rounding, overflow=overflow)
    assert found.tobytes() == np.float32(result).tobytes() or (result != result and found != found)
    value = float(
        exact.round_exact(
            x if math.isinf(x) else Fraction(x), parse(name), rounding=rounding, overflow=overflow
        )
    )
    assert value == result or (value != value and result != result)


def test_widths_and_precisions_are_python_ints():
    with (
        unchecked(),
        pytest.raises(TypeError, match="precision of a P3109 format must be a Python"),
    ):
        p3109(8, 3.0)
