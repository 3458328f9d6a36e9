"""Being told to stop: SIGINT and SIGTERM wait until what is under way is finished and stored."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stopping"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether this process has been told to stop.

    Attributes:
        number: of the signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number != 0

    @property
    def code(self) -> int:
        """The exit code that says so: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number if self.number else 0


@contextmanager
def stopping() -> Iterator[Stop]:
    """A context in which the first signal is noted and the second one interrupts.

    Outside the main thread, which alone is told of signals, nothing is noted.

    >>> with stopping() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop(), stop.code
    (True, 143)
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop():
            raise KeyboardInterrupt
        stop.number = number

    try:
        before = {number: signal.signal(number, note) for number in SIGNALS}
    except ValueError:  # no main thread
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
