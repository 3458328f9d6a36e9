"""Spec strings: short names from which formats are made, and the catalogue's names.

The grammar, where ``str(fmt)`` prints what ``parse`` reads:

- ``[u]eXmY[bB][specials]``: a float with X exponent bits, Y mantissa bits and bias B. Without
  ``specials`` infinities and NaNs are IEEE's; ``fn`` has one NaN at the top and no infinity,
  ``f`` neither, ``fnuz`` one NaN at minus zero and no infinity, ``nuz`` that NaN and infinities,
  ``n`` one NaN and an infinity at the top, ``i`` only infinities. ``u`` is unsigned.
- ``eXm0``: a power-of-two scale (unsigned, no zero, one NaN); ``eXm0f`` has no NaN.
- ``[u]intN[sym]``, ``[u]fixedN.F[sym]``: N bits in all, F of them after the binary point.

Everything else is a name of the catalogue (``formats/``).
"""

import re

from qsim.numbers.catalogue import catalogue
from qsim.numbers.families import FAMILIES, register
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.modes import suggest

__all__ = ["format_of", "parse"]

NUMBER = r"(\d{1,5})"
FLOAT = rf"(u?)e{NUMBER}m{NUMBER}(?:b(-?\d{{1,5}}))?(fnuz|nuz|fn|f|n|i)?"
INTEGER = rf"(u?)(?:int{NUMBER}|fixed{NUMBER}\.{NUMBER})(sym)?"

SPECIALS = {
    None: ("ieee", True),
    "fn": ("top", False),
    "f": ("none", False),
    "fnuz": ("negative_zero", False),
    "nuz": ("negative_zero", True),
    "n": ("top", True),
    "i": ("none", True),
}


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
    for family in FAMILIES.values():
        if found := family.pattern.fullmatch(name):
            return family.read(found)
    entries = catalogue()
    if name in entries:
        return entries[name].format
    shown = spec if len(spec) <= 40 else spec[:40] + "..."
    raise ValueError(
        f"no format {shown!r}; {suggest(name[:40], sorted(entries))} "
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


def _integer(found: re.Match) -> Integer:
    unsigned, whole, bits, fraction, symmetric = found.groups()
    return Integer(
        bits=int(whole or bits),
        fraction_bits=int(fraction or 0),
        signed=not unsigned,
        symmetric=bool(symmetric),
    )


def _float(found: re.Match) -> Float:
    unsigned, exponent, mantissa, bias, specials = found.groups()
    nans, infinities = SPECIALS[specials]
    scale = int(mantissa) == 0
    if scale and specials not in (None, "f"):
        raise ValueError(f"e{exponent}m0 is a scale format; it may only be followed by 'f'")
    if scale:
        nans, infinities = ("none" if specials else "top"), False
    return Float(
        exponent_bits=int(exponent),
        mantissa_bits=int(mantissa),
        bias=None if bias is None else int(bias),
        signed=not (unsigned or scale),
        infinities=infinities,
        nans=nans,
    )


register("float", Float, pattern=FLOAT, read=_float, example="e4m3")
register("integer", Integer, pattern=INTEGER, read=_integer, example="int8")
