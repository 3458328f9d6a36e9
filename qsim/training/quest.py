"""QuEST: training with weights and activations of few bits, by rotation, scale and trust.

Rows x are rotated, rounded at a scale that fits normal numbers, and rotated back; gradients pass
where rounding moved a rotated number by no more than half a step::

    z = x H,   s = a * rms(z) / V,   q = s * round(z / s, to the format),   result = q H
    gradient of x = ((dq H) * (|q - z| <= half a step)) H

V is the largest value of the format, and a the clip of least squared error in standard deviations;
for b bits the format is the mid-rise grid of ``2**b`` odd integers. Without the rotation and with
another estimator this is training with a straight-through estimator, clipped or not.

Source: A. Panferov et al., QuEST: Stable training of LLMs with 1-bit weights and activations,
arXiv:2502.05003, 3; IST-DASLab/QuEST, whose table of clips this is.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.codebooks import Codebook
from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.records import require, shown
from qsim.numbers.rounding import require_float, widen
from qsim.numbers.specs import format_of
from qsim.training.gaussian import MAX_BITS, gaussian_clip, mid_rise
from qsim.training.hadamard import hadamard
from qsim.training.scaled_rounding import as_grid, largest_of, quantize_at

__all__ = ["CLIPS", "ESTIMATORS", "clip_of", "quest"]

# of least squared error by the number of bits, as published; log2(3) is 1.585
CLIPS = {
    1: 0.7978845587140913,
    1.585: 1.2240089519030855,
    2: 1.4935346200015913,
    3: 2.051068354131873,
    4: 2.513930578568423,
    5: 2.9160938834961225,
    6: 3.276597282593217,
    7: 3.6010497188221655,
    8: 3.884938678807525,
}
PUBLISHED = {
    Codebook(values=(-1, 0, 1)): CLIPS[1.585],
    **{mid_rise(bits): CLIPS[bits] for bits in range(1, 9)},
}
ESTIMATORS = {
    "trust": "gradients pass where rounding moves a number by at most half the largest gap",
    "clipped": "gradients pass between the lowest and the largest value",
    "identity": "all gradients pass",
}
LEAST = 1e-8  # added to the largest value, lest a row of zeros have none


def quest(
    x: Float[ArrayLike, "..."],
    fmt: int | str | Format | Grid,
    *,
    clip: float | Float[Array, ""] | None = None,
    estimator: str | None = None,
    block: int | None = 128,
    rotate_back: bool = True,
) -> Float[Array, "..."]:
    """Rows rounded as QuEST does, in float32, or float64 for float64 rows.

    Args:
        x: ``[..., n]``; each row of the last axis has a scale of its own.
        fmt: a number of bits, for a mid-rise grid; or a spec string, a ``Format`` or a single
            ``Grid``, such as ``e2m1f`` for FP4 or ``codebook(-1,0,1)`` for ternary numbers.
        clip: where the largest value lies, in root mean squares of a row; by default that of
            ``clip_of``. A grid needs one.
        estimator: a key of ``ESTIMATORS``. By default ``"trust"``, but ``"clipped"`` for two
            values, of which the gap tells nothing.
        block: the order of the Hadamard matrix; None for no rotation.
        rotate_back: whether the result is rotated back. A product of two results that are not is
            the same, with half as many rotations.

    Scales are not differentiated.

    Raises:
        TypeError: for other numbers.
        ValueError: for an unknown format or estimator, blocks that do not fill the rows, or a grid
            without a clip.

    >>> x = jnp.array([0.5, -0.1, 1.5, -2.0])
    >>> quest(x, 2, block=None).round(3).tolist()
    [0.6350000500679016, -0.6350000500679016, 1.90500009059906, -1.90500009059906]
    """
    if isinstance(fmt, int):
        fmt = mid_rise(fmt)
    if clip is None:
        require(
            not isinstance(fmt, Grid),
            "the clip of a Grid, whose values may be traced, is unknown: pass clip=clip_of(fmt)",
        )
        clip = clip_of(fmt)
    x = widen(require_float(x))
    grid = as_grid(fmt, x.dtype.name)
    rotated = x if block is None else hadamard(x, block=block)
    size = jnp.sqrt(jnp.mean(jnp.square(lax.stop_gradient(rotated)), axis=-1, keepdims=True))
    scale = (jnp.asarray(clip, x.dtype) * size + LEAST) / largest_of(grid)
    rounded = quantize_at(rotated, scale, grid, gradient=_gradient(estimator, fmt))
    return hadamard(rounded, block=block) if block is not None and rotate_back else rounded


def clip_of(fmt: int | str | Format) -> float:
    """The clip of least squared error: the published one if there is one, else ``gaussian_clip``.

    Raises:
        TypeError, ValueError: as ``gaussian_clip``.

    >>> clip_of(4), round(clip_of("e2m1f"), 4)
    (2.513930578568423, 2.9225)
    """
    fmt = mid_rise(fmt) if isinstance(fmt, int) else format_of(fmt)
    found = PUBLISHED.get(fmt) if fmt.bits <= MAX_BITS else None
    return gaussian_clip(fmt).clip if found is None else found


def _gradient(estimator: str | None, fmt: Any) -> str:
    if estimator is None:
        alone = not isinstance(fmt, Grid) and format_of(fmt).bits == 1
        return "clipped" if alone else "trust"
    require(
        estimator in ESTIMATORS,
        f"no estimator {shown(estimator)}; known are {', '.join(ESTIMATORS)}",
    )
    return estimator
