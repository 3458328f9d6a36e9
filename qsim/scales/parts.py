"""What is stored of an array on a block format: the codes of its elements and of its scales.

Sources: OCP MX 1.0, 5.1 (a block is a scale and its elements) and 5.4 (a NaN scale makes all of a
block NaN).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt

from qsim.numbers import codes
from qsim.numbers.formats import Format, Integer
from qsim.numbers.grid import Carrier, lower
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.random_bits import Key, check_key, random_words
from qsim.numbers.rounding import require_float, widen
from qsim.numbers.specs import format_of
from qsim.scales.block_grid import BlockGrid
from qsim.scales.blocks import FLOAT32, Block
from qsim.scales.layout import Layout

__all__ = ["Codes", "decode_blocks", "encode_blocks", "scale_formats"]


class Codes(NamedTuple):
    """An array on a block format, as it is stored.

    Attributes:
        elements: codes of the element format, of the array's shape; with ``tail="zero"``, of the
            shape that whole blocks fill.
        scales: codes of the scales, one for each block, and then those of the scales' scales; of
            two sides those above zero come first. Zero points, and which groups are halved, are
            the last. ``scale_formats`` lists their formats.
    """

    elements: UInt[Array, "..."]
    scales: tuple[UInt[Array, "..."], ...]


def encode_blocks(
    x: Float[ArrayLike, "..."],
    fmt: str | Block,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
) -> Codes:
    """The codes of an array on a block format.

    Args:
        x: floating-point array; float16 and bfloat16 count as the float32 that they are.
        fmt: a block format or its spec string.
        rounding, overflow, key: as for ``quantize``, for the elements.

    A block that is all NaN has a NaN as its scale, and elements of zero.

    Raises:
        NoNaNError: if there is a NaN, and no code for it.
        TypeError, ValueError: as for ``quantize``, and if ``fmt`` has no blocks; for float64 if
            its scales are float32 by definition (``order="te"``, ``centred``).

    >>> codes = encode_blocks(jnp.array([1.0, 3.0, -12.0, 0.0]), "e2m1f[2,e8m0,floor]")
    >>> codes.elements.tolist(), codes.scales[0].tolist()
    ([4, 7, 15, 0], [126, 128])
    """
    fmt, mode = _block_of(fmt), Rounding.parse(rounding)
    check_wrap(fmt, check_overflow(overflow))
    check_key(key, rounding)
    x = widen(require_float(x))
    _require_stored(fmt, x.dtype.name)
    grid = jax.tree.map(jnp.asarray, lower(fmt, x.dtype.name))
    random = None if key is None else random_words(key, x.shape, mode)
    elements, scales = _parts(mode, overflow, x, grid, random)
    layout = Layout(x.shape, fmt.recipe.sizes(x.shape))
    if fmt.recipe.tail != "zero":
        elements = elements[tuple(slice(n) for n in layout.shape)]
    of_scales = [
        codes.encode(scale, form) for scale, form in zip(scales, scale_formats(fmt), strict=True)
    ]
    return Codes(codes.encode(elements, fmt.element), tuple(of_scales))


def decode_blocks(
    encoded: Codes,
    fmt: str | Block,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: str = "float32",
) -> Float[Array, "..."]:
    """The values of codes, the inverse of ``encode_blocks``.

    Args:
        encoded: the codes of elements and scales.
        fmt: a block format or its spec string.
        shape: of the array, where codes fill whole blocks that the array did not.
        dtype: the carrier, float32 or float64.

    Raises:
        TypeError: if ``encoded`` is not a ``Codes``, or its codes are no integers.
        ValueError: if the codes are not those of such an array.

    >>> codes = Codes(jnp.uint8([4, 7, 15, 0]), (jnp.uint8([126, 128]),))
    >>> decode_blocks(codes, "e2m1f[2,e8m0,floor]").tolist()
    [1.0, 3.0, -12.0, 0.0]
    """
    fmt = _block_of(fmt)
    grid, whole = lower(fmt, jnp.dtype(dtype).name), _require_codes(encoded, fmt, dtype)
    values = tuple(
        codes.decode(scale, form, dtype=dtype)
        for scale, form in zip(encoded.scales, scale_formats(fmt), strict=True)
    )
    elements = codes.decode(encoded.elements, fmt.element, dtype=dtype)
    shape = whole if shape is None else tuple(shape)
    if len(shape) != len(whole) or not all(0 <= n <= m for n, m in zip(shape, whole, strict=True)):
        raise ValueError(f"elements of shape {whole} are not those of an array of shape {shape}")
    return _joined(elements, values, grid)[tuple(slice(n) for n in shape)]


def scale_formats(fmt: Block) -> list[Format]:
    """The formats of what is stored of a block format's scales, in the order of ``Codes.scales``.

    >>> [str(form) for form in scale_formats(format_of("e2m1f[16,e4m3fn[tensor]]"))]
    ['e4m3fn', 'e8m23']
    """
    forms = _levels(fmt.scale) * (1 + fmt.recipe.two_sided)
    forms += [fmt.element] * fmt.recipe.zero_point
    return forms + [Integer(bits=1, signed=False)] * bool(fmt.recipe.micro)


def _levels(scale: Format) -> list[Format]:
    """The formats of scales, of the scales' scales, and so on."""
    if not isinstance(scale, Block):
        return [scale]
    return [scale.element, *_levels(scale.scale), *[FLOAT32] * scale.recipe.centred]


def _require_codes(encoded: Codes, fmt: Block, dtype: str) -> tuple[int, ...]:
    """The shape of the elements, where each kind of scale has the shape that belongs to it."""
    if not isinstance(encoded, Codes):
        kind = type(encoded).__name__
        raise TypeError(f"expected the qsim.Codes of encode_blocks, got {kind}")
    whole, forms = jnp.shape(encoded.elements), scale_formats(fmt)
    if len(encoded.scales) != len(forms):
        raise ValueError(f"{fmt} has {len(forms)} kinds of scales, got {len(encoded.scales)}")
    array, grid = jax.ShapeDtypeStruct(whole, dtype), lower(fmt, jnp.dtype(dtype).name)
    nearest = Rounding.parse("ties_to_even")
    _, scales = jax.eval_shape(partial(_parts, nearest, "saturate"), array, grid, None)
    for got, wanted in zip(encoded.scales, scales, strict=True):
        if jnp.shape(got) != wanted.shape:
            raise ValueError(
                f"{fmt} has scales of shape {wanted.shape} where elements have the shape {whole}, "
                f"got {jnp.shape(got)}"
            )
    return whole


@jax.jit
def _joined(elements: Array, values: tuple[Array, ...], grid: BlockGrid) -> Array:
    return grid.joined(elements, values)


def _require_stored(fmt: Block, carrier: str) -> None:
    """What is stored of scales is what the carrier computes with."""
    level = fmt
    while isinstance(level, Block):
        if carrier != "float32" and (level.recipe.order == "te" or level.recipe.centred):
            raise ValueError(
                f"{fmt} stores float32 numbers that {carrier} arithmetic does not round to: encode "
                "a float32 array"
            )
        level = level.scale


def _block_of(fmt: str | Format) -> Block:
    fmt = format_of(fmt)
    if not isinstance(fmt, Block):
        raise ValueError(f"{fmt} has no blocks: use qsim.encode and qsim.decode")
    return fmt


@partial(jax.jit, static_argnums=(0, 1))
def _parts(mode: Rounding, overflow: str, x, grid: BlockGrid, random):
    """Elements and what is stored of scales, as numbers; elements are of whole blocks."""
    return grid.parts(x, mode=mode, policy=overflow, random=random)


@codes.encoded.register
def _(fmt: Block, bits: Array, carrier: Carrier) -> Array:
    raise TypeError(f"{fmt} has codes of elements and of scales: use qsim.encode_blocks")


@codes.decoded.register
def _(fmt: Block, codes: Array, carrier: Carrier) -> Array:
    raise TypeError(f"{fmt} has codes of elements and of scales: use qsim.decode_blocks")
