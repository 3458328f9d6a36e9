"""Every float32 there is, rounded by the kernel and compared with the exact definition.

``python -m tests.exhaustive FORMAT [--rounding MODE] [--overflow POLICY] [--stride N]`` rounds all
2**32 bit patterns (or every N-th of them) through ``jit`` and compares bytes with the interval
oracle. The last line says how many differ; the exit status is 1 if any does. About a minute for
each format and mode on two cores.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import track

from qsim import parse
from qsim.numbers.formats import Format
from qsim.numbers.grid import lower
from qsim.numbers.modes import check_overflow
from tests.compiled import rounded
from tests.intervals import DETERMINISTIC, POLICIES, Intervals, first_difference, intervals

PATTERNS = 1 << 32
PIECE = 1 << 22


def pieces(stride: int) -> Iterator[tuple[int, int]]:
    """The first pattern of each piece and how many follow at the stride; a piece has one sign.

    >>> next(pieces(1)), len(list(pieces(1))), sum(n for _, n in pieces(1000))
    ((0, 4194304), 1024, 4294968)
    """
    half = PATTERNS // 2
    for sign in (0, half):
        first = sign + (-sign) % stride
        while first < sign + half:
            count = min(PIECE, -(-(sign + half - first) // stride))
            yield first, count
            first += count * stride


def compared(fmt: Format, rounding: str, overflow: str, stride: int) -> Iterator[tuple[int, str]]:
    """For each piece, how many of its patterns differ and an account of the first that does."""
    grid, oracle = lower(fmt), intervals(fmt)
    inputs = np.arange(PIECE, dtype=np.uint32) * np.uint32(stride)
    for first, count in pieces(stride):
        patterns = inputs + np.uint32(first)  # those beyond count wrap and are not looked at
        result = rounded(patterns.view(np.float32), grid, rounding=rounding, overflow=overflow)
        expected = _expected(oracle, patterns[:count], first, stride, rounding, overflow)
        actual = np.asarray(result).view(np.uint32)[:count]
        if np.array_equal(actual, expected):
            yield 0, ""
        else:
            wrong = int((actual != expected).sum())
            yield wrong, first_difference(actual, expected, patterns[:count])


def _expected(oracle: Intervals, patterns, first: int, stride: int, rounding: str, overflow: str):
    if stride == 1:
        return oracle.expected_range(first, len(patterns), rounding, overflow)
    return oracle.expected(patterns, rounding, overflow)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=__doc__)
    parser.add_argument("format", help="a spec string or a name of the catalogue")
    parser.add_argument("--rounding", default="ties_to_even", choices=DETERMINISTIC)
    parser.add_argument("--overflow", default="saturate", choices=POLICIES)
    parser.add_argument("--stride", default=1, type=int, help="compare every N-th pattern only")
    chosen = parser.parse_args(argv)
    if chosen.stride < 1:
        parser.error(f"--stride is {chosen.stride}, but it must be at least 1")
    return chosen


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 if every byte is equal, 1 if not."""
    chosen = arguments(argv)
    fmt, overflow = parse(chosen.format), check_overflow(chosen.overflow)
    console, total, wrong, example = Console(stderr=True), 0, 0, ""
    steps = list(pieces(chosen.stride))
    results = compared(fmt, chosen.rounding, overflow, chosen.stride)
    title = f"{chosen.format} {chosen.rounding} {overflow}"
    for _, count in track(steps, description=title, console=console):
        different, account = next(results)
        total, wrong, example = total + count, wrong + different, example or account
    if example:
        print(example)
    print(f"{title}: {wrong} of {total} differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
