"""qsim: emulated number formats for any JAX program, all formats of a sweep in one compiled call."""

from qsim.numbers.formats import Float, Integer
from qsim.numbers.grid import Grid, lower, stack
from qsim.numbers.rounding import quantize
from qsim.numbers.specs import parse

__all__ = ["Float", "Grid", "Integer", "lower", "parse", "quantize", "stack"]
