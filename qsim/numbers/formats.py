"""What a number format is: frozen, hashable records of exact facts.

A format is a finite set of values with a code (an unsigned integer) for each of them.

Glossary, used with these meanings everywhere in qsim:

- *code*: the unsigned integer that the hardware stores.
- *mantissa bits*: the stored fraction bits; they do not count the implicit bit.
- *precision*: the bits of the significand, the implicit bit counted: ``mantissa_bits + 1``.
- *bias*: what is subtracted from a stored exponent field; ``emin = 1 - bias`` where the
  field 0 holds subnormals.
- *emin*, *emax*: the exponents of the smallest and of the largest normal value.
- *subnormal*: a value below ``2**emin``; subnormals are spaced as the lowest binade is.
- *quantum*: the exponent of the smallest gap between two neighbours (a power of two).
- *carrier*: the IEEE type (float32, float64) in which emulated values travel.

Source of the terms: IEEE 754-2019, sections 2.1 and 3.3; OCP Microscaling Formats 1.0, section 5.
"""

from qsim.numbers.floats import Float
from qsim.numbers.integers import Integer
from qsim.numbers.records import Format, power

__all__ = ["Float", "Format", "Integer", "power"]
