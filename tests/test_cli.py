"""The command as people type it: what it prints, and one clear line for every mistake."""

import io
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from qsim import cli
from qsim.cli import typed as typed_words
from qsim.numbers.catalogue import catalogue
from qsim.report import picture
from qsim.report.terminal import heat_map
from qsim.studies.database import Database
from qsim.studies.result import Result
from tests.unchecked import unchecked

SUBJECT = "tests.own_subject:subject"
FORMATS = Path(__file__).parents[1] / "formats"
SMALL = ["--exponents", "3-4", "--mantissas", "1,3", "--integers", "4"]


def typed(*words: str, monkeypatch) -> int:
    """The exit code of ``qsim words...``."""
    monkeypatch.setattr("sys.argv", ["qsim", *words])
    monkeypatch.setenv("COLUMNS", "150")
    with unchecked(), pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


@pytest.fixture
def qsim(monkeypatch, capsys):
    def run(*words: str) -> str:
        assert typed(*words, monkeypatch=monkeypatch) == 0
        return capsys.readouterr().out

    return run


MISTAKES = [
    (["show", "e4m33x"], "no format 'e4m33x'; did you mean"),
    (["show", "e17m3"], "exponent_bits is 17"),
    (["round", "e4m3", "abc"], "'abc' is no number; write 0.1"),
    (["round", "e4m3", "1e99999"], "is no number"),
    (["sweep", SUBJECT, "--out", __file__], "cannot write to"),
    (["round", "e4m3", "1", "--rounding", "nearest"], "no rounding mode 'nearest'"),
    (["round", "e4m3", "1", "--rounding", "stochastic"], "no single answer"),
    (["round", "e4m3", "1", "--overflow", "sat"], "no overflow policy 'sat'; did you mean 'satur"),
    (["sweep", SUBJECT, "--exponents", "8-2"], "--exponents '8-2' is no range"),
    (["sweep", SUBJECT, "--exponents", "", "--integers", ""], "no formats are left"),
    (["sweep", SUBJECT, "--mantissas", "30"], "cannot be carried in float32"),
    (["sweep", SUBJECT, "--exponents", "9"], "cannot be carried in float32"),
    (["sweep", SUBJECT, "--integers", "1"], "a signed integer has at least 2"),
    (["sweep", SUBJECT, "--formats", "e4mx"], "no format 'e4mx'"),
    (["sweep", SUBJECT, "--target", "weight"], "no target 'weight'; did you mean 'weights'"),
    (["sweep", SUBJECT, "--scale", "max"], "no scale 'max'"),
    (["sweep", SUBJECT, "--rounding", "stochastic:40"], "1 to 32 random bits, got 40"),
    (["sweep", "nothing"], "subject 'nothing' has no attribute part"),
    (["sweep", "nothing:at_all"], "cannot import nothing"),
    (["sites", "tests.own_subject:nothing"], "has no 'nothing'"),
    (["sites", SUBJECT, "--policy", "weights"], "'weights' is no rule; write what it is for"),
    (["sweep", SUBJECT, "--policy", "weights=e4m3"], "has no {}, which stands for the format"),
    (
        ["sweep", SUBJECT, "--policy", "weights={}", "--rounding", "stochastic"],
        "--rounding says what --policy says itself: leave it out",
    ),
    (
        ["sweep", SUBJECT, "--policy", ".*nowhere.* weights={}"],
        "addresses anything in spiral: 'qsim sites PACKAGE",
    ),
    (["sweep", SUBJECT, "--out", "/proc/qsim"], "cannot write to /proc/qsim"),
    (["show", "e4m3", "--out", "e4m3.jpeg"], "is no picture; give a name that ends in .png or"),
    (["show", "e2m1", "--out", "/proc/qsim/e2m1.png"], "cannot write to /proc/qsim"),
    (["compare", "e4m3", "posit"], "no format 'posit'"),
    (["compare", "e2m1", "--out", "/proc/qsim/a.png"], "cannot write to /proc/qsim"),
    (["check", "no_such_file.toml"], "cannot read no_such_file.toml: No such file or directory"),
    (["check", str(FORMATS)], "cannot read"),
    (["check", str(FORMATS / "README.md")], "README.md: "),
    (
        ["show", "no_such_file.toml:mine"],
        "cannot read no_such_file.toml: No such file or directory",
    ),
    (["show", str(FORMATS / "ocp.toml")], "ocp.toml:NAME"),
    (["compare", str(FORMATS / "ocp.toml") + ":e4m4"], "has no format 'e4m4'"),
    (["check", str(FORMATS / "ocp.toml"), "ocp_e4m4"], "no format 'ocp_e4m4'; did you mean 'ocp_e"),
]


@pytest.mark.parametrize("words, message", MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_and_exit_code_2(words, message, monkeypatch, capsys):
    assert typed(*words, monkeypatch=monkeypatch) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1 and errors.startswith("qsim: ")


@pytest.mark.parametrize("words", [["swep"], ["show"], ["sweep", "--mantisas", "3"]])
def test_a_word_that_is_no_command_is_exit_code_2(words, monkeypatch, capsys):
    assert typed(*words, monkeypatch=monkeypatch) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_round_is_exact(qsim):
    out = qsim("round", "e4m3", "0.1", "448.5", "-0.3", "nan", "1/3")
    assert "0.1015625" in out and "240" in out and "0x77" in out and "-0.3125" in out
    assert "inf" in qsim("round", "e4m3", "448.5", "--overflow", "ieee")
    assert "1.125" in qsim("round", "e4m3", "0x1.1000000000000001p0")
    assert "0x80" in qsim("round", "e4m3", "-0e5") and "240" in qsim("round", "e4m3", "0x1p9999")
    assert "0.09375" in qsim("round", "e4m3", "0.1", "--rounding", "toward_zero")


@pytest.mark.t1
def test_show_lists_every_value_of_a_small_format(qsim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = qsim("show", "ocp_e2m1")
    for value in ("0.5", "1.5", "3", "4", "6", "-6", "-0"):
        assert f" {value} " in out
    assert "values by code" not in qsim("show", "e5m6")


@pytest.mark.t1
@pytest.mark.parametrize(
    "spec",
    ["e2m1f", "e8m0", "int8sym", "binary64", "uint1", pytest.param("e11m1", marks=pytest.mark.t2)],
)
def test_show_draws_every_format(qsim, monkeypatch, tmp_path, spec):
    monkeypatch.chdir(tmp_path)
    assert f"out/show/{spec}.png" in qsim("show", spec)
    assert (tmp_path / "out" / "show" / f"{spec}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.t1
def test_pictures_are_png_or_svg(qsim, tmp_path):
    qsim("show", "e2m1", "--out", str(tmp_path / "new" / "e2m1.svg"))
    assert "<svg" in (tmp_path / "new" / "e2m1.svg").read_text()
    qsim("compare", "e2m1", "--out", str(tmp_path / "a.SVG"))
    assert "<svg" in (tmp_path / "a.SVG").read_text()


def test_show_and_compare_do_without_matplotlib(qsim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(picture, "available", lambda: False)
    assert "pip install 'jax-qsim[plots]'" in qsim("show", "e2m1")
    assert "pip install 'jax-qsim[plots]'" in qsim("compare", "e2m1")
    assert not list(tmp_path.iterdir())


@pytest.mark.t1
def test_compare_puts_formats_side_by_side(qsim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = qsim("compare", "ocp_e2m1", "int4", "e8m0", "binary32")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert ["int4", "4", "-8", "7", "1", "2.8", "1", "yes", "no", "0"] in lines
    assert ["ocp_e2m1", "4", "-6", "6", "0.5", "3.6", "2", "+0, -0", "no", "0"] in lines
    assert ["2^0 .. 2^2", "2", "1 .. 4", "1", "8388608"] in lines
    assert ["2^-149 .. 2^-128", "-", "-", "-", "1 .. 2097152"] in lines
    (uniform,) = (line for line in lines if line and line[0] == "uniform on -1..1")
    assert float(uniform[2]) == pytest.approx(10 * math.log10(15.5**2), abs=0.3)
    assert uniform[-1] == "-"  # too many values to list
    assert (tmp_path / "out/compare/ocp_e2m1-int4-e8m0-binary32.png").stat().st_size > 1000


MINE = """
[mine]
family = "float"
exponent_bits = 2
mantissa_bits = 1
infinities = false
nans = "none"
title = "My own"
source = "this test"
[mine.landmarks]
max = "6"
[other]
family = "integer"
bits = 3
title = "Another"
source = "this test"
"""


@pytest.mark.ci
def test_check_reports_every_law(qsim, monkeypatch, capsys, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    out = qsim("check", str(file))
    assert "mine: e2m1f" in out and "other: int3" in out and "broken" not in out
    assert out.count("every law holds") == 2 and "does not apply" in out
    file.write_text(MINE.replace('"6"', '"7"'))
    assert typed("check", str(file), "mine", monkeypatch=monkeypatch) == 1
    out = capsys.readouterr().out
    assert "max is said to be 7, and the definition gives 6" in out
    assert "1 of 23 laws broken" in out and "other" not in out


def test_formats_of_a_file_are_named_by_it(qsim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    assert "0x7" in qsim("round", f"{file}:mine", "448.5")
    assert "e2m1f" in qsim("show", f"{file}:mine")
    more = f"{file}:mine, int4[4,e8m0,floor]"
    chosen = typed_words.formats_of("", "", "", more)
    assert [str(fmt) for fmt in chosen] == ["e2m1f", "int4[4,e8m0,floor]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mine", "mine.toml: "),
        ("", "holds no format"),
        ("a = 3", "'a' is no table"),
        ("[a]\nfamily = 'float'", "'title' is missing"),
        ("[a]\nfamily = ['float']\n", "'a'"),
        (MINE.replace("bits = 3", "bits = 0"), "'other': bits is 0, but a signed integer has"),
        (MINE.replace("bits = 3", "bytes = 3"), "'bytes'"),
        (MINE.replace("max =", "maximum ="), "no landmark 'maximum'; did you mean 'max'"),
        (MINE.replace('"6"', '"six"'), "landmark 'six' is no number"),
    ],
)
def test_mistakes_in_a_file_are_one_line(text, message, monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    assert typed("check", str(tmp_path / "mine.toml"), monkeypatch=monkeypatch) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.strip().count("\n") == 0 and "qsim: " in errors


@pytest.mark.t1
def test_nothing_is_cut_on_a_narrow_terminal(qsim, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    listed = qsim("formats")
    assert all(name in listed for name in catalogue())
    shown = qsim("show", "ocp_e4m3", "--out", str(tmp_path / "e4m3.png"))
    assert "0.00195312" in shown and "-0.00195312" in shown and "…" not in shown
    blocks = qsim("show", "nvfp4", "--out", str(tmp_path / "nvfp4.png"))
    assert "e4m3fn[tensor]" in blocks and "4.5" in blocks and "…" not in blocks


def test_formats_lists_the_catalogue(qsim):
    out = qsim("formats")
    for name in ("binary16", "ocp_e4m3", "e4m3b11fnuz", "int8"):
        assert name in out


def test_sites_are_a_tree_with_costs(qsim):
    out = qsim("sites", SUBJECT)
    assert "Spiral" in out and "hidden  20.5 kflop" in out and "activation 64x64 · weight" in out
    assert "weight_gradient: gradient" in qsim("sites", SUBJECT, "--backward")
    ruled = qsim("sites", SUBJECT, "--policy", "weights=e4m3; decoder.*=e5m2")
    assert "0. weights=e4m3: 2 places" in ruled and "1. decoder.*=e5m2: 0 places" in ruled


COMMANDS = tuple(command.name for command in cli.app.registered_commands)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples(qsim, command):
    out = qsim(*command, "--help")
    assert "Usage" in out
    assert command in ([], ["formats"]) or "qsim " + command[0] in out


@pytest.mark.t1
@pytest.mark.parametrize(
    "rounding", ["ties_to_even", pytest.param("stochastic:8", marks=pytest.mark.t2)]
)
def test_sweep_draws_and_stores(qsim, tmp_path, rounding):
    out = qsim("sweep", SUBJECT, *SMALL, "--rounding", rounding, "--out", str(tmp_path / "a" / "b"))
    for word in ("e3m1", "e4m3", "int4", "kl: exponent bits down", "kl: other formats"):
        assert word in out
    with Database.open(tmp_path / "a" / "b") as database:
        assert [row.spec for row in database.results()] == ["e3m1", "e3m3", "e4m1", "e4m3", "int4"]
        assert {row.point["rounding"] for row in database.results()} == {rounding}
        assert database.manifest["subject"] == SUBJECT
    table = pq.read_table(tmp_path / "a" / "b" / "sweep.parquet")
    assert table["format"].to_pylist() == ["e3m1", "e3m3", "e4m1", "e4m3", "int4"]
    assert (tmp_path / "a" / "b" / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.t1
def test_sweep_takes_a_policy(qsim, tmp_path):
    text = "weights={} absmax; activations=int8 absmax; caches=int8"
    out = qsim("sweep", SUBJECT, *SMALL, "--policy", text, "--out", str(tmp_path))
    assert "rule 'caches=int8' addresses nothing in spiral" in out
    table = pq.read_table(tmp_path / "sweep.parquet")
    assert "e3m1" in out and set(table["policy"].to_pylist()) == {text}


def test_the_cpu_becomes_several_devices_unless_the_user_chose(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    typed_words.use_devices(2)
    flags = os.environ["XLA_FLAGS"]
    assert flags.startswith("--xla_dump_to=x --xla_force_host_platform_device_count=2")
    typed_words.use_devices(4)
    assert os.environ["XLA_FLAGS"] == flags


def row(spec: str, exponent: int | None, mantissa: int | None, kl: float) -> Result:
    measures = {"loss": 1 + kl, "loss_difference": kl, "kl": kl, "top1": 0.5}
    facts = {"bits": 8, "exponent_bits": exponent, "mantissa_bits": mantissa}
    return Result(point={"format": spec}, facts=facts, measures=measures, seconds=0.1)


ROWS = [row("e4m3", 4, 3, 0.1), row("e5m2", 5, 2, float("nan")), row("int8", None, None, 0.0)]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[2:], ROWS[1:2]])
def test_maps_are_drawn_with_holes_and_diverged_formats(rows, tmp_path):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(*heat_map(rows, "kl"))
    text = console.export_text()
    assert ("nan" in text) == any(np.isnan(row.measures["kl"]) for row in rows)
    picture.heat_map(tmp_path / "map.png", rows, "kl", "a title")
    assert (tmp_path / "map.png").stat().st_size > 1000
