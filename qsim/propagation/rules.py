"""What becomes of the scales in each operation.

A rule gives the results of an operation on data and scales such that their values are those of the
operation. Rules are grouped by the reason why they are true; with powers of two they are exact:

- what moves numbers leaves their scale alone;
- what puts numbers of several tensors together needs them at one scale, the largest;
- a sum of two tensors of independent numbers of sizes a and b has the size sqrt(a^2 + b^2), a sum
  of K such numbers the size sqrt(K) times theirs;
- the scale of a product is the product of the scales;
- a single number has the scale of its own size, which costs nothing;
- everything else computes on values, and its results have the scale 1.

Source: P. Balanca et al., arXiv:2407.17353, and the rules of its program. There the scale of a
convolution is that of a product, here it is that of a sum of products, too.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.propagation.values import (
    Uniform,
    Value,
    at_scale,
    is_floating,
    plain,
    scaled,
    sized,
    together,
)
from qsim.scales.scaled import BINARY32, ScaledArray, norm, power_of_two
from qsim.simulate.contractions import product_count
from qsim.simulate.jaxprs import JaxprEqn

__all__ = ["MARK", "Compute", "propagated"]

MARK = "qsim.rescale."  # begins the names of values that are to be scaled anew
LEAST_NORM = 1e-4  # of data, below which its scale is not adjusted further

# computes an operation on arrays, its results changed before they are rounded
Compute = Callable[..., list[Any]]
Rule = Callable[[str, JaxprEqn, list[Any], Compute], list[Any]]


def propagated(rounding: str, eqn: JaxprEqn, operands: list[Any], compute: Compute) -> list:
    """The results of an operation that holds no other programs.

    Args:
        rounding: of scales, one of ``SCALE_ROUNDINGS``.
        eqn: the operation.
        operands: its operands.
        compute: ``compute(arrays, between)`` gives the results at arrays; ``between`` changes
            them before they are rounded.
    """
    rule = RULES.get(eqn.primitive.name, _by_value)
    if not any(map(is_floating, operands)):
        rule = _by_value
    elif rule is not _uniform and all(isinstance(x, Uniform) for x in operands):
        operands = list(map(scaled, operands))
    return [_alone(x, rounding) for x in rule(rounding, eqn, operands, compute)]


def _alone(x: Any, rounding: str) -> Any:
    """A single number at the scale of its own size; what it was made of may have cancelled."""
    if not isinstance(x, ScaledArray) or x.data.ndim:
        return x
    size = lax.stop_gradient(jnp.abs(x.data).astype(jnp.float32))
    size = jnp.where((size > 0) & jnp.isfinite(size), power_of_two(size, rounding=rounding), 1)
    return _divided(x, size)


# --- rules --------------------------------------------------------------------------------------


def _by_value(rounding, eqn, operands, compute):
    """The scale 1."""
    return list(map(scaled, compute(list(map(plain, operands)))))


def _moved(rounding, eqn, operands, compute):
    """The scale of the operand: of the first, or each result that of its own."""
    operands = [scaled(x) if is_floating(x) else x for x in operands]
    results = compute([x.data if isinstance(x, ScaledArray) else x for x in operands])
    sources = operands if len(results) == len(operands) else operands[:1] * len(results)
    return [
        sized(result, source.scale)
        if isinstance(source, ScaledArray) and jnp.issubdtype(result.dtype, jnp.floating)
        else scaled(result)
        for result, source in zip(results, sources, strict=True)
    ]


def _gathered(rounding, eqn, operands, compute):
    """As ``_moved``, unless what is out of bounds becomes a number."""
    rule = _moved if eqn.params.get("fill_value") is None else _by_value
    return rule(rounding, eqn, operands, compute)


def _uniform(rounding, eqn, operands, compute):
    """As ``_moved``; a constant stays one."""
    out, first = eqn.outvars[0].aval, operands[0]
    if not jnp.issubdtype(out.dtype, jnp.floating):
        return _by_value(rounding, eqn, operands, compute)
    if not isinstance(first, Uniform):
        return _moved(rounding, eqn, operands, compute)
    number = -first.number if eqn.primitive.name == "neg" else first.number
    return [Uniform(jnp.dtype(out.dtype).type(number), tuple(out.shape))]


def _joined(rounding, eqn, operands, compute):
    """One scale for all operands and the result."""
    places = [n for n, x in enumerate(operands) if is_floating(x)]
    data, scale = together([operands[n] for n in places])
    arrays = list(operands)
    for n, x in zip(places, data, strict=True):
        arrays[n] = x
    return [
        sized(x, scale) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in compute(arrays)
    ]


def _sum_of_two(rounding, eqn, operands, compute):
    """sqrt(a^2 + b^2)."""
    a, b = (x if _is_any_size(x) else scaled(x) for x in operands)
    sizes = [x.scale for x in (a, b) if isinstance(x, ScaledArray)]
    if not sizes:
        return _by_value(rounding, eqn, operands, compute)
    larger = sizes[0] if len(sizes) == 1 else jnp.maximum(*sizes)
    if len(sizes) == 2 and rounding != "down":  # the root is less than twice the larger size
        ratio = jnp.minimum(*sizes) / jnp.where(larger > 0, larger, 1)
        larger = power_of_two(larger * jnp.sqrt(1 + ratio * ratio), rounding=rounding)
    [total] = compute([at_scale(a, larger), at_scale(b, larger)])
    return [sized(total, larger)]


def _is_any_size(x: Value) -> bool:
    return isinstance(x, Uniform) and x.exponent is None


def _product(rounding, eqn, operands, compute):
    a, b = map(scaled, operands)
    return [sized(x, a.scale * b.scale) for x in compute([a.data, b.data])]


def _quotient(rounding, eqn, operands, compute):
    a, b = map(scaled, operands)
    return [sized(x, a.scale / _or_one(b.scale)) for x in compute([a.data, b.data])]


def _power(rounding, eqn, operands, compute):
    exponent = eqn.params.get("y", 2)
    x = scaled(operands[0])
    size = x.scale if exponent >= 0 else _or_one(x.scale)
    return [sized(y, lax.integer_pow(size, exponent)) for y in compute([x.data])]


def _root(rounding, eqn, operands, compute):
    """The root of an even power of two, the rest of the scale being left to the data."""
    x = scaled(operands[0])
    root = _half_power(x.scale) if rounding != "none" else jnp.sqrt(x.scale)
    data = at_scale(x, root * root)
    size = root if eqn.primitive.name == "sqrt" else 1 / _or_one(root)
    return [sized(y, size) for y in compute([jnp.where(root > 0, data, x.data)])]


def _half_power(scale: Array) -> Array:
    """``2**floor(e/2)`` of ``2**e``; of 0 it is 0."""
    stored, bias = BINARY32.mantissa_bits, BINARY32.bias
    bits = lax.bitcast_convert_type(scale, jnp.int32)
    half = ((bits >> stored) - bias) >> 1
    power = lax.bitcast_convert_type((half + bias) << stored, jnp.float32)
    return jnp.where(bits > 0, power, 0)


def _sign(rounding, eqn, operands, compute):
    return [sized(x, 1.0) for x in compute([scaled(operands[0]).data])]


def _sum_of(count: Callable[[JaxprEqn], int]) -> Rule:
    """Sums of as many numbers, or products, as ``count`` says."""

    def rule(rounding, eqn, operands, compute):
        values = [scaled(x) if is_floating(x) else x for x in operands]
        size = _root_of_count(count(eqn), rounding)
        scale = jnp.float32(size)
        for x in values:
            if isinstance(x, ScaledArray):
                scale = scale * x.scale
        data = [x.data if isinstance(x, ScaledArray) else x for x in values]
        shrunk = lambda results: [x / jnp.asarray(size, x.dtype) for x in results]  # noqa: E731
        return [sized(x, scale) for x in compute(data, shrunk)]

    return rule


def _root_of_count(count: int, rounding: str) -> float:
    """sqrt(count), rounded as scales are, exactly.

    >>> [_root_of_count(8, rounding) for rounding in ("down", "up")]
    [2.0, 4.0]
    """
    count = max(count, 1)
    if rounding == "none":
        return math.sqrt(count)
    exponent = (count.bit_length() - 1) // 2
    return 2.0 ** (exponent + (rounding == "up" and 4**exponent < count))


def _or_one(scale: Array) -> Array:
    """What divides: a scale, or 1 for zeros."""
    return jnp.where(scale > 0, scale, 1)


def _named(rounding, eqn, operands, compute):
    """A value that is marked is scaled by a norm of its data."""
    results = _moved(rounding, eqn, operands, compute)
    name = eqn.params["name"]
    if not name.startswith(MARK) or not isinstance(results[0], ScaledArray):
        return results
    x = results[0]
    size = jnp.maximum(lax.stop_gradient(norm(x.data, name.removeprefix(MARK))), LEAST_NORM)
    size = power_of_two(jnp.where(jnp.isfinite(size), size, 1), rounding=rounding)
    return [_divided(x, size)]


def _divided(x: ScaledArray, size: Array) -> ScaledArray:
    """A value whose data is divided by a size, which its scale is multiplied with."""
    return sized(at_scale(ScaledArray(x.data, jnp.float32(1)), size), x.scale * size)


# --- the table ----------------------------------------------------------------------------------


def _axes_count(eqn: JaxprEqn) -> int:
    return math.prod(eqn.invars[0].aval.shape[axis] for axis in eqn.params["axes"])


_GROUPS: dict[Rule, str] = {
    _moved: """
        abs copy_p cummax cummin device_put dynamic_slice layout_constraint
        optimization_barrier pvary real reduce_max reduce_min reduce_precision reduce_window_max
        reduce_window_min rev sharding_constraint slice sort split stop_gradient tile top_k
        transpose unstack
    """,
    _gathered: "gather",
    _uniform: "broadcast_in_dim convert_element_type copy neg reshape squeeze",
    _joined: """
        clamp concatenate dynamic_update_slice max min pad scatter scatter-add scatter-max
        scatter-min scatter-sub select_n stack
    """,
    _sum_of_two: "add add_any sub",
    _product: "mul",
    _quotient: "div",
    _power: "integer_pow square",
    _root: "rsqrt sqrt",
    _sign: "sign",
    _named: "name",
    _sum_of(_axes_count): "reduce_sum",
    _sum_of(lambda eqn: eqn.invars[0].aval.shape[eqn.params["axis"]]): "cumsum",
    _sum_of(lambda eqn: math.prod(eqn.params["window_dimensions"])): "reduce_window_sum",
    _sum_of(product_count): "conv_general_dilated dot_general ragged_dot_general",
}
RULES = {name: rule for rule, names in _GROUPS.items() for name in names.split()}
