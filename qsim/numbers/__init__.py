"""What a number is: formats, exact values, grids, rounding, codes."""

from qsim.numbers import binades as binades  # each family's module registers it
