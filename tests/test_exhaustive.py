"""The command that compares all of float32 works, and says so if a byte differs."""

from itertools import pairwise, product

import pytest

from tests import exhaustive

# coprime to powers of two, so that every exponent meets every low bit
STRIDE = 20011


@pytest.mark.parametrize(
    "options",
    [
        ["ocp_e4m3"],
        ["e8m0", "--overflow", "ieee"],
        ["ue3m2", "--rounding", "to_odd", "--overflow", "p3109"],
    ],
)
def test_no_float32_differs(options, capsys):
    assert exhaustive.main([*options, "--stride", str(STRIDE)]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(options[0]) and last.endswith(" differ") and ": 0 of 2146" in last


def _tier(name: str, rounding: str):
    at_first = name == "ocp_e4m3" or rounding in ("ties_to_even", "to_odd")
    return pytest.mark.t1 if at_first else pytest.mark.t2


@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        pytest.param(*choice, marks=_tier(*choice))
        for choice in product(
            ["ocp_e4m3", "ocp_e5m2", "ocp_e2m1", "e4m3fnuz", "mx_int8"], exhaustive.DETERMINISTIC
        )
    ],
)
def test_no_float32_of_a_finer_sample_differs(name, rounding, capsys):
    assert exhaustive.main([name, "--rounding", rounding, "--stride", "641"]) == 0
    assert ": 0 of 67004" in capsys.readouterr().out


def test_a_contiguous_range_is_compared_by_filling(monkeypatch):
    """At the stride 1 expected bytes are filled in, not looked up: about zero and the largest."""
    chosen = [(0, 4096), (0x43E00000 - 2048, 4096), (0xC3E00000 - 2048, 4096), (0x7F7FF000, 8192)]
    monkeypatch.setattr(exhaustive, "PIECE", 8192)
    monkeypatch.setattr(exhaustive, "pieces", lambda stride: iter(chosen))
    fmt = exhaustive.parse("ocp_e4m3")
    assert [n for n, _ in exhaustive.compared(fmt, "ties_to_even", "ieee", 1)] == [0, 0, 0, 0]


def test_pieces_cover_every_pattern_once():
    covered = list(exhaustive.pieces(1))
    assert sum(count for _, count in covered) == 2**32
    assert all(a + n == b for (a, n), (b, _) in pairwise(covered))
    strided = [first + k * 7**9 for first, n in exhaustive.pieces(7**9) for k in range(n)]
    assert strided == list(range(0, 2**32, 7**9))


def test_a_difference_is_reported(monkeypatch, capsys):
    """With an oracle for another mode the command fails and shows one number."""
    monkeypatch.setattr(exhaustive, "_expected", lambda o, p, *_: o.expected(p, "up", "saturate"))
    assert exhaustive.main(["ocp_e2m1", "--stride", "1000003"]) == 1
    example, last = capsys.readouterr().out.strip().splitlines()
    assert "the first: input 0x" in example and "expected 0x" in example
    assert last.startswith("ocp_e2m1 ties_to_even saturate: ") and not last.startswith("ocp_e2m1 0")


def test_strides_begin_at_one(capsys):
    with pytest.raises(SystemExit):
        exhaustive.main(["ocp_e4m3", "--stride", "0"])
    assert "--stride is 0, but it must be at least 1" in capsys.readouterr().err
