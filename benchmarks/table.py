"""Puts the tables of the newest stored results into ``benchmarks/README.md``.

python -m benchmarks.table [--results DIR] [--readme FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import record

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- begin: written by python -m benchmarks.table -->", "<!-- end -->"


def main() -> None:
    """Rewrites the part of the file between the two marks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    options = parser.parse_args()
    before, _, rest = options.readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{options.readme.name} needs the lines {BEGIN!r} and {END!r}")
    written = "\n".join([before + BEGIN, "", report(newest(options.results)), END + after])
    options.readme.write_text(written)


def newest(results: Path) -> list[dict[str, Any]]:
    """The last record of each benchmark."""
    last = {}
    for path in sorted(results.glob("*.json"), key=lambda path: path.stem[-len("2000-01-01") :]):
        found = json.loads(path.read_text())
        last[found["benchmark"]] = found
    return [last[name] for name in sorted(last)]


def report(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [line for found in records for line in _lines(found)]
    return "\n".join(lines or ["No results are stored.", ""])


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"## {found['benchmark']}", "", found["claim"], "", _circumstances(found), ""]
    for title, headings, rows in record.tables(found):
        rule = ["---", *["---:"] * (len(headings) - 1)]
        lines += [f"**{title}**", "", *map(_row, [headings, rule, *rows]), ""]
    absent = [f"{peer['peer']} ({peer['reason']})" for peer in found["absent"]]
    return [*lines, f"Not measured: {', '.join(absent)}.", ""] if absent else lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _circumstances(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    allocator = "default" if machine["allocator"] == "default" else "tuned"
    return (
        f"{found['date']}, commit {machine['commit'][:10]}; {machine['cpu']}, "
        f"{machine['cores']} cores, last-level cache {machine['last_level_cache']}; "
        f"{allocator} allocator; load before the run {machine['load_before']}; "
        f"{found['settings']['repeats']} rounds; Python {machine['python']}, {versions}."
    )


if __name__ == "__main__":
    main()
