"""Programs that run within limits, which are set in the new process and not after a fork."""

import sys

SETUP = "import os, resource, signal, sys; "
SMALL_FILES = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + (
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes})); "
)
LITTLE_MEMORY = "resource.setrlimit(resource.RLIMIT_DATA, ({bytes}, {bytes})); "
ONE_CORE = "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]); "


def limited(limits: str, words: list[str]) -> list[str]:
    """A command that sets limits, such as ``ONE_CORE``, and becomes another one."""
    return [sys.executable, "-c", f"{SETUP}{limits}os.execv(sys.argv[1], sys.argv[1:])", *words]
