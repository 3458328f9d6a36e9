"""The README is true: its example prints what it says, commands exist, links lead somewhere."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from qsim import cli
from tests.unchecked import as_users_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.S)
NUMBER = re.compile(r"-?\b\d+\.\d+(?:e[+-]\d+)?")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("qsim ")]


@pytest.mark.ci
@pytest.mark.parametrize(("example", "expected"), EXAMPLES, ids=["programs", "codes"])
def test_the_examples_print_what_the_readme_says(example, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with as_users_run(), contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", expected)
    shown, found = (
        [float(number) for number in NUMBER.findall(text)]
        for text in (expected, printed.getvalue())
    )
    # native float32 sums differ from machine to machine, and a last printed digit with them
    assert found == pytest.approx(shown, rel=0.01)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["simulate.md", "accumulators.md", "functions.md", "training.md"])
def test_the_examples_of_a_page_print_what_it_says(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    known: dict = {}
    examples = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", page, re.S)
    for example, expected in examples:
        printed = io.StringIO()
        with as_users_run(), contextlib.redirect_stdout(printed):
            exec(compile(example, name, "exec"), known)
        assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", expected)
        shown, found = (
            [float(n) for n in NUMBER.findall(t)] for t in (expected, printed.getvalue())
        )
        assert found == pytest.approx(shown, rel=0.01)


LONG = "sweep", "run ", "resume ", "status ", "serve ", "report ", "export "  # have their own tests


@pytest.mark.parametrize("line", [s for s in COMMANDS if not any(word in s for word in LONG)])
def test_commands_work(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", shlex.split(line))
    with as_users_run(), pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code and capsys.readouterr().out


def test_every_command_of_the_program_is_shown():
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert {shlex.split(line)[1] for line in COMMANDS} == known


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).is_file()
