"""What a benchmark leaves behind: a data file with its circumstances, and a table to look at.

A record is a dict, stored as JSON: ``benchmark``, ``claim``, ``date``, ``machine``, ``settings``,
``sections`` (a title, the headings of its columns by key, rows of values by key), ``targets``
and ``absent`` (peers that were not measured, and why).
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

# With the default settings every large fresh array costs page faults, and a benchmark measures
# the kernel of the operating system: huge pages, one arena, and freed memory is kept.
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "arena_max": 1,
        "mmap_threshold": 4_000_000_000,
        "trim_threshold": 8_000_000_000,
    }.items()
)
TUNED = "QSIM_BENCHMARK_ALLOCATOR"  # set in the environment of the process that runs again
WIDE = "--xla_cpu_prefer_vector_width=512"

PACKAGES = (
    *("jax", "jaxlib", "numpy", "ml_dtypes", "flax", "gfloat", "pychop", "qtorch", "torch"),
    *("bitsandbytes", "softposit", "apytypes"),
)


def arguments(doc: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have; its description is the claim."""
    parser = argparse.ArgumentParser(description=claim(doc))
    parser.add_argument("--repeats", type=int, default=11, help="rounds of interleaved runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the data file")
    parser.add_argument(
        "--plain-allocator", action="store_true", help="leave the allocator's settings alone"
    )
    return parser


def claim(doc: str) -> str:
    """The first line of a benchmark's docstring."""
    return doc.partition("\n")[0]


def run(
    benchmark: str,
    doc: str,
    options: argparse.Namespace,
    measured: Callable[[], dict[str, Any]],
    **settings: Any,
) -> None:
    """Measures, prints and stores a record; warnings would be those of the peers."""
    os.environ.setdefault("XLA_FLAGS", WIDE)  # read when JAX computes something for the first time
    tune_allocator(options)
    result = {
        "benchmark": benchmark,
        "claim": claim(doc),
        "date": today(),
        "machine": machine(),
        "settings": settings | {"repeats": options.repeats},
    }
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result |= measured()
    show(result)
    print(store(result, options.out).name)


def tune_allocator(options: argparse.Namespace) -> None:
    """Runs this program again with a tuned allocator, once; glibc reads its settings at start."""
    tunable = platform.libc_ver()[0] == "glibc" and not options.plain_allocator
    if tunable and TUNED not in os.environ:
        environment = os.environ | {"GLIBC_TUNABLES": TUNABLES, TUNED: "tuned"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


# --- circumstances --------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the times depend on besides the program."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "last_level_cache": _cache(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "qsim")),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "allocator": os.environ.get("GLIBC_TUNABLES") or "default",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cache() -> str | None:
    size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return size.read_text().strip() if size.exists() else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


# --- records --------------------------------------------------------------------------------


def target(
    name: str, value: float, *, at_most: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """What was measured, beside the one of both limits that is given."""
    value = float(value)
    if at_most is not None:
        kind, limit, met = "at most", at_most, value <= at_most
    else:
        kind, limit, met = "at least", at_least, value >= (at_least or 0)
    return {"target": name, "measured": value, "kind": kind, "limit": limit, "met": met}


def absent(peer: str, error: Exception) -> dict[str, str]:
    """A peer that failed to import, to build itself, or to be found."""
    reason = str(error).partition("\n")[0][:80]
    return {"peer": peer, "reason": f"{type(error).__name__}: {reason}"}


def section(title: str, columns: dict[str, str], rows: list[dict]) -> dict[str, Any]:
    """A table: the headings of its columns by key, and rows of values by key."""
    return {"title": title, "columns": columns, "rows": rows}


def store(record: dict[str, Any], out: Path) -> Path:
    """Writes a record to ``out/BENCHMARK-DATE.json`` and returns the path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{record['benchmark']}-{record['date']}.json"
    path.write_text(json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")
    return path


def today() -> str:
    """The date in universal time."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _finite(value: Any) -> Any:
    """JSON has neither infinities nor NaN, which become words, nor NumPy's scalars."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case np.generic():
            return _finite(value.item())
        case float() if not math.isfinite(value):
            return str(value)
    return value


# --- tables ---------------------------------------------------------------------------------


def cell(value: Any) -> str:
    """A value in a few characters."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() | np.floating():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def tables(record: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of a record in text (title, headings, rows); the last has the targets, if any."""
    shown = [
        (
            part["title"],
            list(part["columns"].values()),
            [[cell(row.get(key)) for key in part["columns"]] for row in part["rows"]],
        )
        for part in record["sections"]
    ]
    goals = [
        [
            goal["target"],
            f"{goal['kind']} {cell(goal['limit'])}",
            cell(goal["measured"]),
            "met" if goal["met"] else "missed",
        ]
        for goal in record["targets"]
    ]
    targets = [("Targets", ["target", "limit", "measured", ""], goals)]
    return [*shown, *(targets if goals else [])]


def show(record: dict[str, Any]) -> None:
    """Prints the tables of a record."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 240)
    for title, headings, rows in tables(record):
        table = Table(title=title, title_justify="left", header_style="bold")
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for peer in record["absent"]:
        console.print(f"not measured: {peer['peer']} ({peer['reason']})", markup=False)
