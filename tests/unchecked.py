"""Running qsim as users do: without the run-time type checks that the test session adds.

The checks of jaxtyping and beartype would meet a wrong argument before qsim's own messages do,
and they cost the exact definitions most of their time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jaxtyping


@contextmanager
def unchecked() -> Iterator[None]:
    """A context in which annotations are not checked."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def as_users_run() -> Iterator[None]:
    """``unchecked``, and dtypes are promoted as JAX does by default, which optax relies on."""
    with unchecked(), jax.numpy_dtype_promotion("standard"):
        yield
