"""Spec strings: short names from which formats are made, and the catalogue's names.

The grammar, where ``str(fmt)`` prints what ``parse`` reads:

- ``[u]eXmY[bB][specials]``: a float with X exponent bits, Y mantissa bits and bias B, which may
  have decimals. Without ``specials`` infinities and NaNs are IEEE's; ``fn`` has one NaN at the top
  and no infinity, ``f`` neither, ``fnuz`` one NaN at minus zero and no infinity, ``nuz`` that NaN
  and infinities, ``n`` one NaN and an infinity at the top, ``i`` only infinities. ``u`` is
  unsigned. ``e0mY`` has no special values unless some are named.
- ``eXm0``: a power-of-two scale (unsigned, no zero, one NaN); ``eXm0f`` has no NaN. A format of
  one-bit precision with sign and zero is ``eXm0[specials]_zero``.
- Options follow a float in this order: ``_zero`` and ``_no_zero`` (also of unsigned formats),
  ``_one_zero`` (minus zero is unused), ``_inf=7e.fe`` and ``_nan=7f.ff`` (special codes in
  hexadecimal, in place of ``specials``), ``_emax7`` (the codes of larger exponents are unused),
  and one of ``_flush_after``, ``_flush_before``, ``_absent``, ``_read_as_zero``, ``_normalised``,
  what is done with subnormals (``floats.SUBNORMALS``).
- ``pN``: precision N, with the exponent range of binary32; above 24 bits with that of binary64.
- ``[u]intN[sym]``, ``[u]fixedN.F[sym]``: N bits in all, F of them after the binary point.
- ``positN[.ES]``: a posit with ES exponent bits, 2 by default; ``takumN``: a linear takum;
  ``hif8``: HiFloat8.
- ``[u]lnsN.F[bB][log]``, ``[u]potN[bB][log]``: logarithms and powers of two, see ``logarithmic``;
  ``codebook(-1,0,0.5,1)``: a list of values, see ``codebooks``; ``roots4``: see ``complexes``.
- ``2xe8m7``: a sum of floats, see ``components``; ``binary8p3se`` or ``p3109_k8p3se``: see
  ``p3109``; ``e2m1f[32,e8m0,floor]``: blocks with scales, see ``qsim.scales.blocks``.

Everything else is a name of the catalogue (``formats/``), or that of a dtype (``OTHER_NAMES``).
"""

import re

from qsim.numbers.catalogue import catalogue, find
from qsim.numbers.families import FAMILIES, register
from qsim.numbers.floats import SUBNORMALS
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.modes import suggest
from qsim.numbers.records import shown
from qsim.numbers.special_codes import SUFFIXES

__all__ = ["format_of", "listed", "parse"]

# names of NumPy, JAX and ml_dtypes, and the short ones that everybody uses
OTHER_NAMES = {
    **dict.fromkeys(("float16", "fp16", "half"), "binary16"),
    **dict.fromkeys(("float32", "fp32", "single"), "binary32"),
    **dict.fromkeys(("float64", "fp64", "double"), "binary64"),
    "bf16": "bfloat16",
    "float8_e3m4": "e3m4",
    "float8_e4m3": "e4m3",
    "float8_e4m3fn": "e4m3fn",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float8_e5m2": "e5m2",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e8m0fnu": "e8m0",
    "float6_e2m3fn": "e2m3f",
    "float6_e3m2fn": "e3m2f",
    "float4_e2m1fn": "e2m1f",
}

NUMBER = r"(\d{1,5})"
CODES = r"([0-9a-f]{1,4}(?:\.[0-9a-f]{1,4})*)"
FLOAT = (
    rf"(u?)e{NUMBER}m{NUMBER}(?:b(-?\d{{1,5}}(?:\.\d{{1,9}})?))?(fnuz|nuz|fn|f|n|i)?"
    rf"(_zero|_no_zero)?(_one_zero)?(?:_inf={CODES})?(?:_nan={CODES})?(?:_emax(-?\d{{1,5}}))?"
    rf"(?:_({'|'.join(SUBNORMALS)}))?"
)
INTEGER = rf"(u?)(?:int{NUMBER}|fixed{NUMBER}\.{NUMBER})(sym)?"

# the formats of a width that "fp8" may mean
SEVERAL = {
    "4": "'e2m1f', or with scales for blocks 'mxfp4' and 'nvfp4'",
    "6": "'e2m3f' or 'e3m2f'",
    "8": "'e4m3fn' or 'e5m2'",
}

SPECIALS = {suffix: (nans, infinities) for (nans, infinities), suffix in SUFFIXES.items()}


def parse(spec: str) -> Format:
    """The format that a spec string or a name of the catalogue stands for.

    Raises:
        TypeError: if ``spec`` is not a string.
        ValueError: for an unknown name (with the near ones), or a spec of an impossible format.

    >>> parse("e5m10") == parse("binary16")
    True
    >>> str(parse("ocp_e4m3"))
    'e4m3fn'
    """
    if not isinstance(spec, str):
        raise TypeError(f"a format is named by a string such as 'e4m3', got {spec!r}")
    name = spec.strip().lower()
    name = OTHER_NAMES.get(name, name)
    for family in FAMILIES.values():
        if found := family.pattern.fullmatch(name):
            return family.read(found)
    if entry := find(name):
        return entry.format
    if found := re.fullmatch(r"(?:fp|float)([468])", name):
        raise ValueError(f"{shown(spec)} is not one format: write {SEVERAL[found[1]]}")
    raise ValueError(
        f"no format {shown(spec)}; {suggest(name[:40], sorted(catalogue()))} "
        "('qsim formats' lists the catalogue; any e4m3, int8 or fixed8.4 may be written)"
    )


def format_of(fmt: str | Format) -> Format:
    """``fmt`` itself, or the format that a string stands for.

    Raises:
        TypeError: for anything else.
        ValueError: as ``parse``.
    """
    if isinstance(fmt, Format):
        return fmt
    if not isinstance(fmt, str):
        kind = type(fmt).__name__
        raise TypeError(f"expected one format, a string such as 'e4m3' or a qsim.Float, got {kind}")
    return parse(fmt)


def listed(text: str, separator: str = ",") -> list[str]:
    """The parts of a list, which is not separated within brackets; space around them is dropped.

    What follows a backslash, as in regular expressions, is no bracket.

    >>> listed("e2m1f[16,e4m3fn[tensor]], int4")
    ['e2m1f[16,e4m3fn[tensor]]', 'int4']
    """
    parts, depth = [""], 0
    for before, letter in zip(" " + text, text, strict=False):
        if before != "\\":
            depth += (letter in "[({") - (letter in "])}")
        if letter == separator and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _integer(found: re.Match) -> Integer:
    unsigned, whole, bits, fraction, symmetric = found.groups()
    return Integer(
        bits=int(whole or bits),
        fraction_bits=int(fraction or 0),
        signed=not unsigned,
        symmetric=bool(symmetric),
    )


def _float(found: re.Match) -> Float:
    unsigned, exponent, mantissa, bias, suffix, zero, one_zero, inf, nan, emax, sub = found.groups()
    scale = int(mantissa) == 0 and zero != "_zero"
    if scale and suffix not in (None, "f"):
        raise ValueError(
            f"e{exponent}m0 is a scale format; it may only be followed by 'f': for a format with "
            f"sign and zero write 'e{exponent}m0{suffix}_zero'"
        )
    nans, infinities = _specials(suffix, inf, nan, scale=scale, fixed=int(exponent) == 0)
    return Float(
        exponent_bits=int(exponent),
        mantissa_bits=int(mantissa),
        bias=None if bias is None else float(bias) if "." in bias else int(bias),
        signed=not (unsigned or scale),
        zero=None if zero is None else zero == "_zero",
        one_zero=bool(one_zero),
        infinities=infinities,
        nans=nans,
        emax_limit=None if emax is None else int(emax),
        subnormals=sub or "gradual",
    )


def _specials(suffix: str | None, inf: str | None, nan: str | None, *, scale: bool, fixed: bool):
    """The fields ``nans`` and ``infinities`` of a float."""
    if inf or nan:
        if suffix:
            raise ValueError(f"{suffix!r} names special codes that are listed too: leave one out")
        listed = [
            tuple(int(c, 16) for c in codes.split(".")) if codes else () for codes in (nan, inf)
        ]
        return tuple(listed)
    if scale:
        return ("none" if suffix else "top"), False
    return SPECIALS["f" if fixed and suffix is None else suffix or ""]


def _whole_range(precision: int) -> Float:
    """A precision with the exponent range of the carrier that holds it."""
    if not 1 <= precision <= 53:
        raise ValueError(f"precision is {precision}, but it must be within 1..53")
    return Float(exponent_bits=8 if precision <= 24 else 11, mantissa_bits=precision - 1)


register("float", Float, pattern=FLOAT, read=_float, example="e4m3")
register(
    "precision",
    _whole_range,
    pattern=rf"p{NUMBER}",
    read=lambda found: _whole_range(int(found[1])),
    example="p8",
)
register("integer", Integer, pattern=INTEGER, read=_integer, example="int8")
