"""What an operation does: the exact real result, rounded as the emulated hardware rounds it."""

from qsim.arithmetic.accumulation import Accumulation
from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.bit_serial import bit_planes, bit_serial_matmul, table_matmul
from qsim.arithmetic.contraction import matmul
from qsim.arithmetic.dynamic_fixed import dfp, dfp_matmul, dfp_value, down_convert
from qsim.arithmetic.elementwise import add, divide, fma, multiply, sqrt, subtract
from qsim.arithmetic.error_free import fast_two_sum, grow, two_product, two_sum
from qsim.arithmetic.integers import integer_matmul
from qsim.arithmetic.requantization import dyadic, requantize

__all__ = [
    "Accumulation",
    "Accumulator",
    "add",
    "bit_planes",
    "bit_serial_matmul",
    "dfp",
    "dfp_matmul",
    "dfp_value",
    "divide",
    "down_convert",
    "dyadic",
    "fast_two_sum",
    "fma",
    "grow",
    "integer_matmul",
    "matmul",
    "multiply",
    "requantize",
    "sqrt",
    "subtract",
    "table_matmul",
    "two_product",
    "two_sum",
]
