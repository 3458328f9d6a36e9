"""How an array is split into blocks."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt

__all__ = ["Layout"]

RUNS = (128, 64, 32, 16)  # numbers whose maximum is taken at once


class Layout(NamedTuple):
    """How an array of one shape is split into blocks.

    Attributes:
        shape: of the array.
        sizes: the lengths of a block along its axes.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many blocks there are along each axis: the shape of the array of scales."""
        return tuple(-(-n // max(size, 1)) for n, size in zip(self.shape, self.sizes, strict=True))

    @property
    def filled(self) -> tuple[int, ...]:
        """The shape once the last blocks are filled up."""
        return tuple(n * size for n, size in zip(self.counts, self.sizes, strict=True))

    @property
    def _parts(self) -> list[tuple[tuple[int, bool], ...]]:
        """For each axis the axes that it becomes: their lengths, and whether they are a block's."""
        parts = []
        for count, size in zip(self.counts, self.sizes, strict=True):
            if size == 1:
                parts.append(((count, False),))
            elif count == 1:
                parts.append(((size, True),))
            else:
                parts.append(((count, False), (size, True)))
        return parts

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes of a split array that run within blocks."""
        flat = [within for part in self._parts for _, within in part]
        return tuple(place for place, within in enumerate(flat) if within)

    def largest(self, x: UInt[Array, "..."]) -> UInt[Array, "..."]:
        """The largest of every block of an array of magnitudes, which has the shape ``filled``.

        Along the last axis runs of numbers come first, each as two axes: of the maximum over two
        short axes the compiler makes vector instructions, of that over one, or a long one, not. The
        maxima of runs are taken as signed numbers, lest it make one maximum of both.
        """
        parts = [part for parts in self._parts for part in parts]
        run = next((n for n in RUNS if parts and parts[-1][1] and parts[-1][0] % n == 0), None)
        if run:
            within = 2 if run == 16 else 4
            lengths = [n for n, _ in parts[:-1]]
            runs = x.reshape(*lengths, parts[-1][0] // run, run // within, within)
            x, parts[-1] = jnp.max(runs, axis=(-2, -1)), (parts[-1][0] // run, True)
        inner = tuple(place for place, (_, within) in enumerate(parts) if within)
        signed = lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")
        tops = jnp.max(signed.reshape([length for length, _ in parts]), axis=inner, initial=0)
        return lax.bitcast_convert_type(tops, x.dtype).reshape(self.counts)

    def split(self, x: Array) -> Array:
        """``x`` with the last blocks filled up with zeros, every axis split in two."""
        if self.filled != self.shape:
            x = jnp.pad(x, [(0, m - n) for n, m in zip(self.shape, self.filled, strict=True)])
        return x.reshape([length for part in self._parts for length, _ in part])

    def spread(self, scales: Array) -> Array:
        """An array of the shape ``counts``, such that it broadcasts against a split one."""
        return scales.reshape([1 if within else n for part in self._parts for n, within in part])

    def join(self, x: Array) -> Array:
        """The inverse of ``split``."""
        x = x.reshape(self.filled)
        return x if self.filled == self.shape else x[tuple(slice(n) for n in self.shape)]

    def gathered(self, x: Array) -> Array:
        """A split array, or one of the shape ``filled``, as ``[*counts, numbers of a block]``."""
        x = x.reshape([length for part in self._parts for length, _ in part])
        last = tuple(range(x.ndim - len(self.inner), x.ndim))
        return jnp.moveaxis(x, self.inner, last).reshape(*self.counts, math.prod(self.sizes))
