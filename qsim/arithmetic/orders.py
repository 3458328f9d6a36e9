"""The orders in which an accumulator adds up products.

Every function here has the arguments ``(steps, a, b)``: the operations, and operands of the shapes
[K, *rows, 1] and [K, 1, columns] that broadcast to K products; and gives their sum [*rows,
columns]. The definitions are in ``qsim.arithmetic.accumulator``.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.arithmetic import superaccumulator as long
from qsim.arithmetic.accumulation import Steps
from qsim.arithmetic.aligned import aligned
from qsim.arithmetic.coarse import coarse
from qsim.arithmetic.integer_sums import IntegerSum, integer_sum
from qsim.arithmetic.starts import varying, zero

__all__ = ["summed"]


def summed(steps: Steps, a: Array, b: Array) -> Array:
    """The sum of the products ``a[k] * b[k]``, of which there are some, in the order asked for."""
    if isinstance(steps.how.sums, IntegerSum):
        return integer_sum(steps.how.sums, steps.products, a, b)
    return ORDERS[steps.how.order](steps, a, b)


def _numbered(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """What a loop over products goes through: their numbers and operands."""
    return jnp.arange(a.shape[0], dtype=jnp.uint32), a, b


def sequential(steps: Steps, a: Array, b: Array) -> Array:
    """One after the other."""

    def step(s, product):
        number, x, y = product
        return steps.step(s, x, y, number), None

    return lax.scan(step, zero(a, b), _numbered(a, b))[0]


def kahan(steps: Steps, a: Array, b: Array) -> Array:
    """One after the other; what a sum lost is subtracted from the next product."""

    def step(state, product):
        s, lost = state
        number, x, y = product
        count = partial(jnp.add, 4 * number)
        corrected = steps.plus(-lost, steps.product(x, y, number), count(0), steps.addends)
        total = steps.plus(s, corrected, count(1))
        lost = steps.plus(steps.plus(total, -s, count(2)), -corrected, count(3))
        return (total, lost), None

    start = zero(a, b)
    return lax.scan(step, (start, start), _numbered(a, b))[0][0]


def neumaier(steps: Steps, a: Array, b: Array) -> Array:
    """One after the other; what the sums lost is added up apart, and added at the end."""

    start = zero(a, b)

    def step(state, product):
        s, lost = state
        number, x, y = product
        count = partial(jnp.add, 5 * number)
        # what is added is rounded first, so that the error of the sum is a number of the format
        x = steps.plus(start, steps.product(x, y, number), count(0), steps.addends)
        total = steps.plus(s, x, count(1))
        larger = jnp.abs(s) >= jnp.abs(x)
        big, small = jnp.where(larger, s, x), jnp.where(larger, x, s)
        error = steps.plus(steps.plus(big, -total, count(2)), small, count(3))
        return (total, steps.plus(lost, error, count(4))), None

    s, lost = lax.scan(step, (start, start), _numbered(a, b))[0]
    return steps.plus(s, lost, 5 * a.shape[0])


def lanes(steps: Steps, a: Array, b: Array) -> Array:
    """In some sums, product k in sum k modulo their count; these are added pairwise."""
    count = min(steps.how.count, a.shape[0])
    whole = a.shape[0] // count * count
    split = lambda x: x[:whole].reshape(-1, count, *x.shape[1:])  # noqa: E731
    sums = sequential(steps, split(a), split(b))
    if rest := a.shape[0] - whole:
        last = jnp.uint32(whole // count)
        more = steps.step(sums[:rest], a[whole:], b[whole:], last)
        sums = jnp.concatenate([more, sums[rest:]])
    return _pairwise(steps, sums, a.shape[0])


def pairwise(steps: Steps, a: Array, b: Array) -> Array:
    """Neighbours two by two, then their sums; an odd one passes on."""
    count = a.shape[0]
    if count == 1:
        return steps.step(zero(a, b), a[0], b[0], 0)
    products = steps.product(a, b, 0)
    whole = count // 2 * 2
    # the first additions are of products, which may be exact and have more bits than sums
    sums = steps.plus(products[0:whole:2], products[1:whole:2], 1, steps.addends)
    if count % 2:
        last = steps.plus(zero(a, b), products[-1], 2, steps.addends)
        sums = jnp.concatenate([sums, last[None]])
    return _pairwise(steps, sums, 2)


def _pairwise(steps: Steps, sums: Array, number: int) -> Array:
    while sums.shape[0] > 1:
        number += 1
        whole = sums.shape[0] // 2 * 2
        added = steps.plus(sums[0:whole:2], sums[1:whole:2], number)
        sums = jnp.concatenate([added, sums[whole:]])
    return sums[0]


def tree(steps: Steps, a: Array, b: Array) -> Array:
    """Neighbours some at a time, exactly, and rounded once; then their sums."""
    terms, extent, number = steps.product(a, b, 0), steps.addends, 0
    fan_in = min(steps.how.count, max(len(terms), 2))
    _require_room(fan_in)
    while len(terms) > 1 or number == 0:
        number += 1
        whole = len(terms) // fan_in * fan_in
        parts = [terms[:whole].reshape(-1, fan_in, *terms.shape[1:]), terms[None, whole:]]
        nodes = [_exactly(steps, part, extent) for part in parts if part.size]
        terms = steps.settled(*map(jnp.concatenate, zip(*nodes, strict=True)), number)
        extent = steps.how.sums.extent
    return terms[0]


def _exactly(steps: Steps, terms: Array, extent) -> tuple[Array, ...]:
    """Sums along the second axis, before they are rounded: what ``Steps.settled`` takes."""
    nothing = long.empty((terms.shape[0], *terms.shape[2:]), extent, steps.carrier)
    nothing = varying(nothing, terms[:, 0])
    add = lambda total, x: (long.plus(total, x, extent, steps.carrier), None)  # noqa: E731
    total, _ = lax.scan(add, nothing, jnp.moveaxis(terms, 1, 0))
    return *long.leading(total, extent, steps.carrier), total.special


def _require_room(count: int) -> None:
    if count > long.MAX_TERMS:
        raise ValueError(
            f"an exact sum has at most {long.MAX_TERMS} terms, not {count}: add up chunks, "
            "such as chunk65536"
        )


def exact(steps: Steps, a: Array, b: Array) -> Array:
    """All exactly, and rounded once."""
    _require_room(len(a))
    extent = steps.addends

    def step(total, product):
        number, x, y = product
        return long.plus(total, steps.product(x, y, number), extent, steps.carrier), None

    start = zero(a, b)
    nothing = varying(long.empty(start.shape, extent, steps.carrier), start)
    total = lax.scan(step, nothing, _numbered(a, b))[0]
    total = total._replace(negative=jnp.zeros_like(total.negative))
    return steps.settled(*long.leading(total, extent, steps.carrier), total.special, 0)


def native(steps: Steps, a: Array, b: Array) -> Array:
    """As the back end adds, in its own order: groups of products, and the sum so far."""
    count = a.shape[0]
    size = min(steps.how.group or count, count)
    # matrices as they were: groups are cut out of them in the loop, so that nothing is transposed
    left, right = jnp.moveaxis(a[..., 0], 0, -1), jnp.moveaxis(b[..., 0, :], 0, -2)
    product = _narrow_product if steps.narrow else _product

    def added(s, number, length):
        x = lax.dynamic_slice_in_dim(left, number * size, length, axis=-1)
        y = lax.dynamic_slice_in_dim(right, number * size, length, axis=-2)
        return steps.rounded(s + product(x, y), steps.how.sums, 0, number)

    numbers = jnp.arange(count // size, dtype=jnp.uint32)
    step = lambda s, number: (added(s, number, size), None)  # noqa: E731
    # the first group apart: an array of zeros would have to be written
    s = added(lax.optimization_barrier(jnp.zeros((), a.dtype)), numbers[0], size)
    s = lax.scan(step, s, numbers[1:])[0]
    return added(s, len(numbers), count % size) if count % size else s


_product = partial(jnp.matmul, precision="highest")


def _narrow_product(a: Array, b: Array) -> Array:
    """``a @ b`` of numbers of bfloat16, whose products a CPU adds up in float32, and faster."""

    def of_halves(a, b):
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return _product(a, b, preferred_element_type=jnp.float32)

    # other back ends add products of such operands less exactly than those of float32
    return lax.platform_dependent(a, b, cpu=of_halves, default=_product)


ORDERS: dict[str, Callable[[Steps, Array, Array], Array]] = {
    "sequential": sequential,
    "lanes": lanes,
    "pairwise": pairwise,
    "tree": tree,
    "exact": exact,
    "kahan": kahan,
    "neumaier": neumaier,
    "align": aligned,
    "normalise": coarse,
    "native": native,
}
