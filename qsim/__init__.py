"""qsim: emulated number formats for any JAX program, all formats of a sweep in one compiled call."""

from qsim.numbers.codes import NoNaNError, decode, encode
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.grid import Grid, lower, stack
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS
from qsim.numbers.rounding import quantize
from qsim.numbers.specs import parse

__all__ = [
    "OVERFLOWS",
    "ROUNDINGS",
    "Float",
    "Format",
    "Grid",
    "Integer",
    "NoNaNError",
    "decode",
    "encode",
    "lower",
    "parse",
    "quantize",
    "stack",
]
