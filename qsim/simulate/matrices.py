"""Contractions as batches of matrix products, for accumulators, which add up in a known order.

Products are added up in the order of the contracted axes, the last one fastest; those of a
convolution window by window element, the features of each element fastest.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.simulate.jaxprs import JaxprEqn

__all__ = ["as_matrices"]

Product = Callable[[Array, Array], Array]


def as_matrices(eqn: JaxprEqn, a: Array, b: Array, rest: list[Any], product: Product) -> Array:
    """The result of a contraction by products of [batch, m, k] and [batch, k, n] matrices.

    Args:
        eqn: the contraction.
        a, b: its operands.
        rest: what else it takes.
        product: the product of two batches of matrices.

    Raises:
        NotImplementedError: for contractions that are no such products.
    """
    match eqn.primitive.name:
        case "dot_general":
            return _dot(a, b, eqn.params["dimension_numbers"], product)
        case "conv_general_dilated":
            return _convolution(a, b, eqn.params, product)
        case "ragged_dot_general":
            return _ragged(a, b, rest[0], eqn.params["ragged_dot_dimension_numbers"], product)
    raise NotImplementedError(f"{eqn.primitive.name} cannot be given an accumulator")


def _dot(a: Array, b: Array, numbers, product: Product) -> Array:
    (of_a, of_b), (batch_a, batch_b) = numbers
    free_a = [axis for axis in range(a.ndim) if axis not in (*of_a, *batch_a)]
    free_b = [axis for axis in range(b.ndim) if axis not in (*of_b, *batch_b)]
    lengths = lambda x, axes: [x.shape[axis] for axis in axes]  # noqa: E731
    batch, rows, columns = lengths(a, batch_a), lengths(a, free_a), lengths(b, free_b)
    size, count = math.prod(batch), math.prod(lengths(a, of_a))
    left = a.transpose(*batch_a, *free_a, *of_a).reshape(size, math.prod(rows), count)
    right = b.transpose(*batch_b, *of_b, *free_b).reshape(size, count, math.prod(columns))
    return product(left, right).reshape(*batch, *rows, *columns)


def _ragged(a: Array, b: Array, sizes: Array, numbers, product: Product) -> Array:
    """Rows by groups, each group with a matrix of its own; other kinds are refused."""
    (of_a, of_b), (batch, _) = numbers.dot_dimension_numbers
    plain = (a.ndim, b.ndim, of_a, of_b, batch) == (2, 3, (1,), (1,), ())
    if not plain or numbers.lhs_ragged_dimensions != (0,) or numbers.rhs_group_dimensions != (0,):
        raise NotImplementedError(
            "only ragged products of rows [m, k] by matrices [groups, k, n] can be given an "
            "accumulator: write another contraction, or address it with accumulators=none"
        )
    each = product(jnp.broadcast_to(a, (b.shape[0], *a.shape)), b)
    ends = jnp.cumsum(sizes)
    group = jnp.sum(jnp.arange(a.shape[0])[:, None] >= ends[None, :], axis=1)
    chosen = jnp.take_along_axis(each, jnp.clip(group, 0, len(b) - 1)[None, :, None], axis=0)[0]
    return jnp.where((group < len(b))[:, None], chosen, jnp.zeros_like(chosen))


def _convolution(x: Array, kernel: Array, params: dict, product: Product) -> Array:
    numbers = params["dimension_numbers"]
    x = x.transpose(numbers.lhs_spec)  # [images, features, *image]
    kernel = kernel.transpose(numbers.rhs_spec)  # [outputs, features of a group, *window]
    patches = _patches(x, kernel.shape[2:], params)  # [images, features, *places, *window]
    spatial = x.ndim - 2
    window, places = kernel.shape[2:], patches.shape[2 : 2 + spatial]
    by_image, by_feature = params["batch_group_count"], params["feature_group_count"]
    groups, images = max(by_image, by_feature), x.shape[0] // by_image
    features, outputs = x.shape[1] // by_feature, kernel.shape[0] // groups
    split = patches.reshape(by_image, images, by_feature, features, *places, *window)
    axes = [0, 2, 1, *range(4, 4 + spatial), *range(4 + spatial, 4 + 2 * spatial), 3]
    count = math.prod(window) * features
    left = split.transpose(axes).reshape(groups, images * math.prod(places), count)
    right = jnp.moveaxis(kernel.reshape(groups, outputs, features, *window), (1, 2), (-1, -2))
    result = product(left, right.reshape(groups, count, outputs))
    result = result.reshape(groups, images, *places, outputs)
    result = jnp.moveaxis(result, (0, -1), (1, 2)).reshape(images, groups * outputs, *places)
    back = sorted(range(x.ndim), key=lambda axis: numbers.out_spec[axis])
    return result.transpose(back)


def _patches(x: Array, window: tuple[int, ...], params: dict) -> Array:
    """What lies under the window at each place: [images, features, *places, *window]."""
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    padding = [
        (low, high, step - 1)
        for (low, high), step in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *padding])
    reach = [(n - 1) * step + 1 for n, step in zip(window, dilation, strict=True)]
    places = [
        max((length - far) // step + 1, 0)
        for length, far, step in zip(x.shape[2:], reach, strides, strict=True)
    ]
    parts = []
    for offsets in itertools.product(*map(range, window)):
        start = [n * step for n, step in zip(offsets, dilation, strict=True)]
        stop = [
            first + max(count - 1, 0) * step + (count > 0)
            for first, count, step in zip(start, places, strides, strict=True)
        ]
        parts.append(lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *strides)))
    stacked = jnp.stack(parts, axis=-1) if parts else jnp.zeros((*x.shape[:2], *places, 0))
    return stacked.reshape(*x.shape[:2], *places, *window)
