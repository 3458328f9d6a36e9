"""Gaps asked of the exact definition once: a number has the same one in every mode and policy."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from qsim.numbers import exact
from tests.unchecked import unchecked

known_gap = lru_cache(1 << 16)(exact.gap_at)


@contextmanager
def remembered() -> Iterator[None]:
    """``unchecked``, and ``round_exact`` finds the gap of a number that it has met before."""
    before = exact.gap_at
    exact.gap_at = known_gap
    try:
        with unchecked():
            yield
    finally:
        exact.gap_at = before
