"""The command ``qsim``, for people at a terminal: sweeps, studies, training, formats, sites."""

import os
import sys

from qsim.cli import formats, studies, sweeps, training
from qsim.cli.app import app

__all__ = ["app", "formats", "main", "studies", "sweeps", "training"]


def main() -> None:
    """Run the command; a mistake of the user's ends in one line and exit code 2.

    With QSIM_DEBUG set in the environment it ends in a traceback instead.
    """
    try:
        app()
    except Exception as error:
        if os.environ.get("QSIM_DEBUG"):
            raise
        print(f"qsim: {_said(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("qsim: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _said(error: Exception) -> str:
    """An error in a line; one that is not ours has its name, and where to see more of it."""
    from qsim.numbers.records import printable

    text = printable(" ".join(str(error).split()))
    if isinstance(error, (ValueError, TypeError, RuntimeError, MemoryError, OSError)):
        return text
    return f"{type(error).__name__}: {text} (QSIM_DEBUG=1 in the environment shows where)"
