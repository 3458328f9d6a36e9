"""The documented differences from other programs: every example is run, and the table is theirs.

``python -m tests.test_differences`` writes the table of ``docs/differences.md``.
"""

import doctest
import importlib
import re
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim.numbers import exact
from tests.unchecked import unchecked

FILE = Path(__file__).parents[1] / "docs" / "differences.md"
TEXT = FILE.read_text(encoding="utf-8")
BEGIN = "<!-- table: written by python -m tests.test_differences -->\n"
END = "<!-- end of table -->\n"
EXAMPLES = doctest.DocTestParser()


def sections(text: str) -> dict[str, str]:
    """The parts under second-level headings, by heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def differences(section: str) -> list[tuple[str, list[doctest.Example]]]:
    """The third-level headings of a part, each with its examples."""
    parts = re.split(r"^### (.+)$", section, flags=re.MULTILINE)[1:]
    found = zip(parts[::2], parts[1::2], strict=True)
    return [(title, EXAMPLES.get_examples(body.replace("```", ""))) for title, body in found]


def table(text: str) -> str:
    """A row for each difference: what the other program gives, and what qsim gives."""
    rows = ["| program | difference | it gives | qsim gives |", "| --- | --- | --- | --- |"]
    for program, section in sections(text).items():
        for title, examples in differences(section):
            theirs, ours = [e.want.strip() for e in examples if e.want][:2]
            rows.append(f"| {program} | {title} | `{theirs}` | `{ours}` |")
    return "\n".join(rows) + "\n"


def names(program: str) -> dict:
    """The names that the examples of a part use; skips where the program is not installed."""
    known = {"np": np, "jnp": jnp, "qsim": qsim, "exact": exact, "Fraction": Fraction}
    known[program] = pytest.importorskip(program)
    if program == "gfloat":
        known["formats"] = importlib.import_module("gfloat.formats")
    if program == "qtorch":
        known["torch"] = pytest.importorskip("torch")
        try:  # it builds itself when it is first imported
            known["float_quantize"] = importlib.import_module("qtorch.quant").float_quantize
        except Exception as error:
            pytest.skip(f"qtorch does not build here: {error}")
    return known


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", [p for p, s in sections(TEXT).items() if differences(s)])
def test_every_example_gives_what_is_printed(program):
    globs = names(program)
    runner = doctest.DocTestRunner(verbose=False)
    for title, examples in differences(sections(TEXT)[program]):
        test = doctest.DocTest(examples, dict(globs), title, str(FILE), 0, None)
        with unchecked(), np.errstate(all="ignore"):
            said: list[str] = []
            assert runner.run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("program", [p for p, s in sections(TEXT).items() if differences(s)])
def test_both_sides_differ_in_every_example(program):
    for title, examples in differences(sections(TEXT)[program]):
        theirs, ours = [e.want for e in examples if e.want]
        assert theirs != ours, title


def test_the_table_is_that_of_the_examples():
    assert BEGIN + "\n" + table(TEXT) + "\n" + END in TEXT, "run python -m tests.test_differences"


if __name__ == "__main__":
    before, rest = TEXT.split(BEGIN)
    after = rest.split(END)[1]
    FILE.write_text(before + BEGIN + "\n" + table(TEXT) + "\n" + END + after, encoding="utf-8")
