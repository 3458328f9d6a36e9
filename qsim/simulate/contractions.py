"""What is summed in a contraction: its axes, and how many products there are."""

import math

from qsim.simulate.jaxprs import JaxprEqn

__all__ = ["contracted_axes", "product_count"]


def contracted_axes(eqn: JaxprEqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes over which a contraction sums, of either operand.

    Of an image it is the features, of a kernel the window too, and the features last.
    """
    name, params = eqn.primitive.name, eqn.params
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        _, features, *window = numbers.rhs_spec
        return (numbers.lhs_spec[1],), (*window, features)
    if name == "ragged_dot_general":
        numbers = params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    else:
        numbers = params["dimension_numbers"]
    left, right = numbers[0]
    return tuple(sorted(left)), tuple(sorted(right))


def product_count(eqn: JaxprEqn) -> int:
    """How many products are added up for one element of the result."""
    lhs, rhs = (var.aval.shape for var in eqn.invars[:2])
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.params["dimension_numbers"].rhs_spec
        return math.prod(rhs[axis] for axis in kernel[1:])  # input features of a group, window
    return math.prod(lhs[axis] for axis in contracted_axes(eqn)[0])
