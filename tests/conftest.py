"""Session set-up: two host devices on the CPU, strict dtypes, repeatable Hypothesis runs.

The environment is set before JAX is imported, as JAX reads it once.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # every run compiles what it tests
DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=2".strip()

from collections import Counter  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A first call compiles, so no deadline; the same examples on every machine.
hypothesis.settings.register_profile("qsim", deadline=None, derandomize=True)
hypothesis.settings.load_profile("qsim")


SHARE = 3  # of the cases of a T1 test that are in make test one in so many; CI has them all


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the cases of a test over tiers.

    Of a test that is marked ``every(k)`` each k-th case stays, the others are of tier T2; of the
    cases of a test of tier T1 every third stays, the others are for CI.
    """
    seen: Counter[tuple] = Counter()
    for item in items:
        name = f"{item.path}::{getattr(item, 'originalname', item.name)}"
        if mark := item.get_closest_marker("every"):
            _keep(item, mark.args[0], "t2", seen, name)
        marks = {mark.name for mark in item.iter_markers()}
        if "t1" in marks and "t2" not in marks and hasattr(item, "callspec"):
            _keep(item, SHARE, "ci", seen, name)


def _keep(item: pytest.Item, share: int, other: str, seen: Counter[tuple], name: str) -> None:
    """Put a case into another tier unless it is the first of so many."""
    if seen[name, other] % share:
        item.add_marker(other)
    seen[name, other] += 1
