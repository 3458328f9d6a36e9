"""The commands for formats: ``formats``, ``show``, ``compare``, ``check`` and ``round``."""

from pathlib import Path
from typing import Annotated

import typer

from qsim.cli.app import app
from qsim.cli.typed import (
    FormatArgument,
    OverflowOption,
    entries_of,
    format_of,
    number,
    picture_file,
)

__all__ = ["check_formats", "compare_formats", "list_formats", "round_numbers", "show_format"]


@app.command("formats")
def list_formats() -> None:
    """List the catalogue of named formats.

    Specs such as e4m3, e4m3fn, int8 and fixed8.4 name formats too, without being listed.
    """
    from qsim.numbers.catalogue import catalogue
    from qsim.report.console import show
    from qsim.report.terminal import format_table

    show(format_table(list(catalogue().values())))


@app.command("show")
def show_format(
    fmt: FormatArgument,
    out: Annotated[
        Path | None, typer.Option(help="The picture, .png or .svg; else out/show/FORMAT.png.")
    ] = None,
) -> None:
    """Show a format: its landmarks, up to 8 bits every value, and a picture.

    The picture has the number line, linear and logarithmic, the precision at every magnitude and,
    up to 16 bits, what each code is.

    Examples:

      qsim show e4m3

      qsim show ocp_e2m1 --out e2m1.svg
    """
    from qsim.report import console

    console.show_format(fmt, format_of(fmt), picture_file(out, "show", fmt))


@app.command("compare")
def compare_formats(
    formats: Annotated[list[str], typer.Argument(help="Specs, catalogue names or FILE.toml:NAME.")],
    out: Annotated[
        Path | None, typer.Option(help="The picture, .png or .svg; else out/compare/FORMATS.png.")
    ] = None,
) -> None:
    """Compare formats side by side: range, precision, specials and quantization noise.

    The noise is the signal-to-noise ratio in dB of rounding numbers of a known distribution, at
    the scale that makes it best; it is integrated, not sampled.

    Example: qsim compare e4m3 e5m2 int8
    """
    from qsim.report import console

    chosen = {name: format_of(name) for name in formats}
    console.compare(chosen, picture_file(out, "compare", "-".join(chosen)))


@app.command("check")
def check_formats(
    file: Annotated[Path, typer.Argument(help="A TOML file, as those of the catalogue.")],
    name: Annotated[str | None, typer.Argument(help="The format in it; all by default.")] = None,
) -> None:
    """Check the laws of number formats on formats of your own.

    Every code is decoded and encoded, every value and tie is rounded in every mode, and compared
    with the exact definition. The schema of the file is that of formats/README.md. The exit code
    is 0 if all laws hold, 1 if one is broken, 2 for a file that cannot be read.

    Examples:

      qsim check my_format.toml

      qsim check formats/ocp.toml ocp_e2m1
    """
    from qsim.report import console

    if not console.check(file, entries_of(file, name)):
        raise typer.Exit(1)


@app.command("round", context_settings={"ignore_unknown_options": True})
def round_numbers(
    fmt: FormatArgument,
    numbers: Annotated[list[str], typer.Argument(help="Numbers: 0.1, 448.5, 1/3, 0x1p-9, -inf.")],
    rounding: Annotated[
        str, typer.Option(help="Rounding mode that is not stochastic: ties_to_even, up, to_odd ..")
    ] = "ties_to_even",
    overflow: OverflowOption = "saturate",
) -> None:
    """Round numbers exactly, and show their codes.

    Example: qsim round e4m3 0.1 448.5 --rounding toward_zero
    """
    from qsim.numbers.modes import Rounding
    from qsim.report.console import show
    from qsim.report.terminal import rounding_table

    if Rounding.parse(rounding).is_stochastic:
        raise ValueError("stochastic rounding has no single answer; choose another mode")
    typed = [(text, number(text)) for text in numbers]
    show(rounding_table(format_of(fmt), typed, rounding, overflow))
