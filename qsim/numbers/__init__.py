"""What a number is: formats, exact values, grids, rounding, codes."""

from qsim.numbers import binades as binades  # each family's module registers it
from qsim.numbers import codebooks as codebooks
from qsim.numbers import components as components
from qsim.numbers import logarithmic as logarithmic
from qsim.numbers import p3109 as p3109
from qsim.numbers import parts as parts
from qsim.numbers import posit_codes as posit_codes
from qsim.numbers import tapered as tapered
