"""Other programs that round arrays to small formats, behind one interface.

Peers differ in the formats and the overflow they know. Each is compared with the exact result for
what it implements: ``spec`` and ``overflow`` say so. None of them is a dependency of qsim.
"""

import ctypes
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from qsim.numbers.formats import Float

CPFLOAT = "QSIM_CPFLOAT"  # names a shared library, see README.md


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to round an array to one format.

    Attributes:
        name: of the peer and the kind of its arrays.
        spec: the format to which it rounds, in qsim's words; the nearest one that it has.
        overflow: what it does beyond the largest value, in qsim's words.
        array: from a NumPy array to the peer's own.
        round: from its array to its array.
        traced: whether ``round`` is meant to be compiled by ``jax.jit``.
    """

    name: str
    spec: str
    overflow: str
    array: Callable[[np.ndarray], Any]
    round: Callable[[Any], Any]
    traced: bool = False


def peers(fmt: Float, *, stochastic: bool = False) -> tuple[list[Peer], list[dict[str, str]]]:
    """The peers that are installed, for one format, and why others are not.

    They round to nearest, or those that draw their own random numbers stochastically.
    """
    found, absent = [], []
    for name, make in PEERS.items():
        if stochastic and name not in STOCHASTIC:
            continue
        try:
            found += list(make(fmt, stochastic=True) if stochastic else make(fmt))
        except Exception as error:
            absent.append(record.absent(name, error))
    return found, absent


def _ieee(fmt: Float) -> str:
    """The format of the same widths with the special values of IEEE 754."""
    return f"e{fmt.exponent_bits}m{fmt.mantissa_bits}"


def _ml_dtypes(fmt: Float) -> Iterator[Peer]:
    import ml_dtypes

    dtype = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e8m7": ml_dtypes.bfloat16}.get(str(fmt))
    if dtype is not None:
        name, modes = np.dtype(dtype).name, (str(fmt), "ieee")
        cast = lambda x: x.astype(dtype).astype(np.float32)  # noqa: E731
        yield Peer(f"ml_dtypes {name}, NumPy", *modes, np.asarray, cast)
        yield Peer(f"JAX cast to {name}", *modes, jnp.asarray, cast, traced=True)


def _xla(fmt: Float) -> Iterator[Peer]:
    """The compiler's own rounding: static, IEEE formats only, and without their subnormals."""
    turn = lambda x: jax.lax.reduce_precision(x, fmt.exponent_bits, fmt.mantissa_bits)  # noqa: E731
    yield Peer("lax.reduce_precision", _ieee(fmt), "ieee", jnp.asarray, turn, traced=True)


def _gfloat(fmt: Float) -> Iterator[Peer]:
    import gfloat
    from gfloat.types import Domain

    special = {"ieee": 2**fmt.mantissa_bits - 1, "top": 1, "none": 0}
    info = gfloat.FormatInfo(
        name=str(fmt),
        k=fmt.bits,
        precision=fmt.precision,
        bias=fmt.bias,
        is_signed=True,
        domain=Domain.Extended if fmt.infinities else Domain.Finite,
        has_nz=fmt.has_negative_zero,
        num_high_nans=special[fmt.nans],
        has_subnormals=True,
        is_twos_complement=False,
    )
    even = gfloat.RoundMode.TiesToEven
    turn = lambda x: gfloat.round_ndarray(info, x, even, sat=True)  # noqa: E731
    yield Peer("gfloat, NumPy", str(fmt), "saturate", np.asarray, turn)
    yield Peer("gfloat, JAX in jit", str(fmt), "saturate", jnp.asarray, turn, traced=True)


def _pychop(fmt: Float, stochastic: bool = False) -> Iterator[Peer]:
    import pychop

    # its default chunks of 800 values would make the NumPy arrays far slower
    widths = {"exp_bits": fmt.exponent_bits, "sig_bits": fmt.mantissa_bits, "chunk_size": 2**20}
    widths["rmode"] = 5 if stochastic else 1
    kinds = (("numpy", "NumPy", np.asarray, False), ("jax", "JAX in jit", jnp.asarray, True))
    for backend, name, array, traced in kinds[:1] if stochastic else kinds:

        def turn(x, backend=backend):
            pychop.backend(backend)
            return pychop.Chop(**widths)(x)

        yield Peer(f"pychop, {name}", _ieee(fmt), "ieee", array, turn, traced)


def _qtorch(fmt: Float, stochastic: bool = False) -> Iterator[Peer]:
    import torch
    from qtorch.quant import float_quantize

    rounding = "stochastic" if stochastic else "nearest"
    widths = {"exp": fmt.exponent_bits, "man": fmt.mantissa_bits, "rounding": rounding}
    # it has no special values: its largest value uses the highest exponent, where float32 can
    spec = _ieee(fmt) if fmt.exponent_bits == 8 else f"{_ieee(fmt)}f"
    turn = lambda x: float_quantize(x, **widths)  # noqa: E731
    yield Peer("QPyTorch, torch", spec, "saturate", torch.from_numpy, turn)


def _cpfloat(fmt: Float, stochastic: bool = False) -> Iterator[Peer]:
    if not os.environ.get(CPFLOAT):
        raise FileNotFoundError(f"{CPFLOAT} names no library")
    library = ctypes.CDLL(os.environ[CPFLOAT])
    call = library.round_floats_stochastically if stochastic else library.round_floats
    pointer, integer = np.ctypeslib.ndpointer(np.float32, flags="C"), ctypes.c_int
    call.argtypes = [pointer, pointer, ctypes.c_size_t, integer, integer, integer]
    emax = 2 ** (fmt.exponent_bits - 1) - 1

    def turn(x):
        y = np.empty_like(x)
        call(y, x, x.size, fmt.precision, 1 - emax, emax)
        return y

    yield Peer("CPFloat, OpenMP", _ieee(fmt), "ieee", np.asarray, turn)


PEERS = {
    "ml_dtypes": _ml_dtypes,
    "XLA": _xla,
    "gfloat": _gfloat,
    "pychop": _pychop,
    "QPyTorch": _qtorch,
    "CPFloat": _cpfloat,
}
STOCHASTIC = ("pychop", "QPyTorch", "CPFloat")
