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


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked ``every(k)`` each k-th case stays, the others are of tier T2."""
    seen: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("every"):
            name = f"{item.path}::{getattr(item, 'originalname', item.name)}"
            if seen[name] % mark.args[0]:
                item.add_marker(pytest.mark.t2)
            seen[name] += 1
