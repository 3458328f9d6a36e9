"""Matrix products with an emulated accumulator.

Source: the definition in ``qsim.arithmetic.exact_sums``, which this equals.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.arithmetic.accumulation import LOWEST, Accumulation, Steps
from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.extents import Extent
from qsim.arithmetic.orders import summed
from qsim.arithmetic.starts import zero
from qsim.numbers.formats import Float as FloatFormat
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Carrier, word
from qsim.numbers.random_bits import Key
from qsim.numbers.records import shown
from qsim.numbers.rounding import require_float, widen
from qsim.numbers.specs import format_of

__all__ = ["accumulated", "matmul"]

AT_ONCE = ("pairwise", "tree")  # orders that have all products of a chunk at once
TILE = 1 << 17  # elements of a result that are added up together, which a cache holds
NATIVE_TILE = 1 << 20  # for which the back end's own product is at its best
PRODUCTS = 1 << 24  # products that are there together
BFLOAT16 = Carrier("bfloat16", 16, 7, 127)


def matmul(
    a: Float[ArrayLike, "..."],
    b: Float[ArrayLike, "..."],
    accumulator: str | Accumulator | Accumulation,
    *,
    formats: Sequence[str | Format] | None = None,
    key: Key | None = None,
) -> Float[Array, "..."]:
    """``a @ b``, added up as an accumulator does.

    Args:
        a, b: arrays [..., m, k] and [..., k, n], or vectors, as for ``jax.numpy.matmul``, whose
            elements are taken for exact numbers.
        accumulator: its text form, see ``qsim.arithmetic.accumulator``, an ``Accumulator``, or its
            lowering, in which other formats do not compile anew.
        formats: the formats whose values ``a`` and ``b`` hold, if that is known: products that are
            exact in floats make it many times faster. Other values give wrong results.
        key: random key for stochastic rounding, and for that only.

    The result is float32, or float64 for float64 operands, and has the same bytes eagerly and under
    ``jit`` and ``vmap``, but for order ``native``, and for a key that is captured under ``vmap``,
    which gives every row the same random bits. The derivative is that of ``a @ b``.

    Raises:
        TypeError: for operands that are no floats, or of unlike carriers.
        ValueError: for what the accumulator cannot be, what the carrier cannot round once, and a
            missing or superfluous key.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((1, 4096))
    >>> matmul(ones, ones.T, "e5m10").tolist(), matmul(ones, ones.T, "e5m10 chunk64").tolist()
    ([[2048.0]], [[4096.0]])
    """
    given = [require_float(x) for x in (a, b)]
    extents, least = _of_operands(formats, given)
    a, b = map(widen, given)
    if a.dtype != b.dtype:
        raise TypeError(f"operands are {a.dtype} and {b.dtype}: cast both to float64")
    if not isinstance(accumulator, Accumulation):
        if not isinstance(accumulator, Accumulator):
            accumulator = Accumulator.parse(accumulator)
        accumulator = Accumulation.of(accumulator, a.dtype.name)
    if accumulator.carrier != a.dtype.name:
        raise TypeError(
            f"operands are {a.dtype}, but the accumulation was lowered for {accumulator.carrier}: "
            f"write Accumulation.of(accumulator, {a.dtype.name!r})"
        )
    if key is not None and not accumulator.is_stochastic:
        raise ValueError("this accumulator draws no random bits: it takes no key")
    # of these formats alone, as no extent of a sweep is: the order of native sums hangs on it
    narrow = accumulator.carrier == "float32" and (extents[0] | extents[1]).is_normal_in(BFLOAT16)
    return _as_matrices(a, b, accumulator, least, key, extents=extents, narrow=narrow)


def _of_operands(formats, operands: list[Array]) -> tuple[tuple[Extent, Extent], tuple[int, int]]:
    """The extents of operands, and the exponents of their smallest normal numbers."""
    if formats is None:
        first, second = (Extent.of_dtype(x.dtype.name) for x in operands)
        return (first, second), (LOWEST, LOWEST)
    if not isinstance(formats, Sequence) or isinstance(formats, str) or len(formats) != 2:
        raise ValueError(
            f"formats is {shown(formats)}, but names those of a and of b: ('e4m3', 'e4m3')"
        )
    first, second = map(format_of, formats)
    least = [fmt.emin if isinstance(fmt, FloatFormat) else LOWEST for fmt in (first, second)]
    return (Extent.of(first), Extent.of(second)), (least[0], least[1])


@partial(jax.jit, static_argnames=("extents", "narrow"))
def _as_matrices(a: Array, b: Array, how: Accumulation, least, key, **static) -> Array:
    """``accumulated``, where vectors and batches are as in ``jnp.matmul``."""
    out = jax.eval_shape(jnp.matmul, a, b)
    rows = a[None] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    batch = jnp.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows, columns = (
        jnp.broadcast_to(x, (*batch, *x.shape[-2:])).reshape(math.prod(batch), *x.shape[-2:])
        for x in (rows, columns)
    )
    found = accumulated(rows, columns, how, least=least, key=key, **static)
    return found.reshape(out.shape)


@partial(jax.jit, static_argnames=("extents", "narrow"))
def accumulated(
    a: Float[Array, "batch m k"],
    b: Float[Array, "batch k n"],
    how: Accumulation,
    *,
    extents: tuple[Extent, Extent],
    least: tuple[Array | int, Array | int] = (LOWEST, LOWEST),
    key: Key | None = None,
    narrow: bool = False,
) -> Float[Array, "batch m n"]:
    """``a @ b`` for operands in the carrier, added up as an accumulation does.

    Args:
        a, b: batches of matrices.
        how: the accumulation.
        extents: of the values of ``a`` and ``b``.
        least: the exponents of the smallest normal numbers of their formats.
        key: for stochastic rounding.
        narrow: whether native sums may take operands for numbers of bfloat16, none subnormal; they
            differ from those of float32 operands in their order.
    """
    return _straight_through(extents, narrow, a, b, how, least, key)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _straight_through(extents, narrow, a, b, how: Accumulation, least, key):
    if not (a.size and b.size):
        return jnp.zeros((a.shape[0], a.shape[1], b.shape[2]), a.dtype)
    products = extents[0] * extents[1]
    if how.multiplier is not None:
        products = how.multiplier.extent(products, CARRIERS[how.carrier])
    steps = Steps(how, products, key, least, narrow)
    left = jnp.moveaxis(a, 2, 0)[..., None]  # [k, batch, m, 1]
    right = jnp.moveaxis(b, 1, 0)[:, :, None]  # [k, batch, 1, n]
    return canonical(_by_tiles(partial(_chunked, steps), left, right, steps))


@_straight_through.defjvp
def _jvp(extents, narrow, primals, tangents):
    a, b, how, least, key = primals
    real = partial(jnp.matmul, precision="highest")
    tangent = jax.jvp(real, (a, b), tangents[:2])[1]
    return _straight_through(extents, narrow, a, b, how, least, key), tangent


def canonical(x: Array) -> Array:
    """``x`` with one bit pattern for all NaNs."""
    carrier = CARRIERS[x.dtype.name]
    nan = lax.bitcast_convert_type(word(carrier.nan, carrier), x.dtype)
    return jnp.where(jnp.isnan(x), nan, x)


def _by_tiles(run, left: Array, right: Array, steps: Steps) -> Array:
    """``run`` on some rows at a time, so that their sums stay in a cache."""
    count, batch, rows, _ = left.shape
    together = steps.how.chunk or count if steps.how.order in AT_ONCE else 1
    tile = NATIVE_TILE if steps.how.order == "native" else max(TILE // max(steps.how.group, 1), 1)
    limit = min(tile, PRODUCTS // max(together, 1)) // max(batch * right.shape[-1], 1)
    size = next((n for n in range(min(rows, max(limit, 1)), 0, -1) if rows % n == 0), 1)
    if size >= rows or steps.key is not None:
        return run(left, right)
    tiles = left.reshape(count, batch, rows // size, size, 1)
    found = lax.map(lambda tile: run(tile, right), jnp.moveaxis(tiles, 2, 0))
    return jnp.moveaxis(found, 0, 1).reshape(batch, rows, -1)


def _chunked(steps: Steps, left: Array, right: Array) -> Array:
    """Sums of products, those of chunks added up in the outer accumulator."""
    size, outer = steps.how.chunk, steps.how.outer
    if outer is None:
        return summed(steps, left, right)
    count = left.shape[0]
    total = zero(left, right)
    whole = count // size * size

    def step(total, chunk):
        number, x, y = chunk
        return steps.outer(total, summed(steps.folded(number), x, y)), None

    cut = lambda x: x[:whole].reshape(-1, size, *x.shape[1:])  # noqa: E731
    numbers = jnp.arange(whole // size, dtype=jnp.uint32)
    total, _ = lax.scan(step, total, (numbers, cut(left), cut(right)))
    if whole < count:
        rest = summed(steps.folded(len(numbers)), left[whole:], right[whole:])
        total = steps.outer(total, rest)
    return total
