"""The command ``qsim``: sweeps, formats, single numbers and sites, for people at a terminal."""

import os
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["main"]

app = typer.Typer(
    name="qsim",
    help="Emulated number formats for JAX programs: every format of a sweep in one compiled call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

BUNDLED = "models.byte_lm:subject"

RoundingOption = Annotated[
    str, typer.Option(help="Rounding mode, such as ties_to_even, toward_zero or stochastic:8.")
]
OverflowOption = Annotated[
    str,
    typer.Option(help="What overflow becomes: saturate, saturate_propagate, ieee, p3109 or wrap."),
]
SubjectArgument = Annotated[str, typer.Argument(help="The model: package.module:attribute.")]
FormatArgument = Annotated[
    str, typer.Argument(help="A spec such as e4m3, a catalogue name or FILE.toml:NAME.")
]


@app.command()
def sweep(
    context: typer.Context,
    subject: SubjectArgument = BUNDLED,
    exponents: Annotated[str, typer.Option(help="Exponent bits of the floats.")] = "2-8",
    mantissas: Annotated[str, typer.Option(help="Mantissa bits of the floats.")] = "1-10",
    integers: Annotated[str, typer.Option(help="Bits of the integers; '' for none.")] = "2-8",
    formats: Annotated[
        str, typer.Option(help="More formats, separated by commas: specs, names or FILE.toml:NAME.")
    ] = "",
    target: Annotated[str, typer.Option(help="weights, activations or both.")] = "both",
    rounding: RoundingOption = "ties_to_even",
    overflow: OverflowOption = "saturate",
    scale: Annotated[
        str,
        typer.Option(
            help="One scale per tensor: absmax, power_of_two or none. e8 formats need none."
        ),
    ] = "absmax",
    policy: Annotated[
        str | None,
        typer.Option(
            help="A policy, {} in the place of the format; instead of target, rounding, overflow "
            "and scale."
        ),
    ] = None,
    accumulator: Annotated[
        str | None,
        typer.Option(help="How contractions add up, such as e8m13:chunk128 or hopper_fp8."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of stochastic rounding.", min=0, max=2**32 - 1)
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for sweep.parquet and sweep.png.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="CPU devices to share the formats out over; by default all cores.", min=1
        ),
    ] = None,
) -> None:
    """Try every format on a trained model, and draw the exponent x mantissa map.

    Examples:

      qsim sweep --out out/sweep

      qsim sweep models.efficientnet_lite0:subject --exponents 3-5 --mantissas 2-4 --target weights

      qsim sweep my_model:subject --exponents '' --integers 4,8 --formats ocp_e4m3,ocp_e2m1

      qsim sweep --policy 'weights={} absmax; .*head.* activations=none; activations=e4m3 absmax'

      qsim sweep --exponents 4 --mantissas 3 --integers '' --accumulator e5m10:chunk64
    """
    if policy:
        _require_unsaid(context, "target", "rounding", "overflow", "scale")
    _use_devices(devices or _cores())
    from qsim.report import console

    chosen = _formats(exponents, mantissas, integers, formats)
    setting = {"target": target, "rounding": rounding, "overflow": overflow, "scale": scale}
    setting = {"policy": policy} if policy else setting
    if accumulator:
        setting["accumulator"] = accumulator
    console.sweep(subject, chosen, setting, seed=seed, out=out)


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

    console.show_format(fmt, _format(fmt), _picture(out, "show", fmt))


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

    chosen = {name: _format(name) for name in formats}
    console.compare(chosen, _picture(out, "compare", "-".join(chosen)))


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

    if not console.check(file, _entries(file, name)):
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
    typed = [(text, _number(text)) for text in numbers]
    show(rounding_table(_format(fmt), typed, rounding, overflow))


@app.command("sites")
def list_sites(
    subject: SubjectArgument = BUNDLED,
    backward: Annotated[
        bool, typer.Option("--backward", help="Of the model's gradient, forward pass included.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(help="Show which rule of this policy counts where.")
    ] = None,
) -> None:
    """Show the operations of a model that a policy can address, as a tree with their costs.

    Operations are added up by the path, the primitive, the direction and the roles of operands.

    Examples:

      qsim sites models.byte_lm:subject --backward

      qsim sites --policy 'weights=mxfp4; .*attention.*=bfloat16'
    """
    from qsim.report import console
    from qsim.sweeps.subject import load

    console.sites(load(subject), backward=backward, policy=policy)


# --- reading what was typed -----------------------------------------------------------------


def _require_unsaid(context: typer.Context, *names: str) -> None:
    """Options that a policy stands in for are left out."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"--{name} says what --policy says itself: leave it out, and write modes into the "
                "rule, such as 'weights={} absmax stochastic:8'"
            )


def _formats(exponents: str, mantissas: str, integers: str, more: str) -> list:
    from qsim.numbers.specs import listed

    floats = [
        f"e{e}m{m}"
        for e in _numbers("--exponents", exponents)
        for m in _numbers("--mantissas", mantissas)
    ]
    whole = [f"int{n}" for n in _numbers("--integers", integers)]
    named = [name for name in listed(more) if name]
    chosen = list(dict.fromkeys(_format(spec) for spec in [*floats, *whole, *named]))
    if not chosen:
        raise ValueError("no formats are left; give --exponents and --mantissas, or --integers")
    return chosen


def _entries(file: Path, name: str | None) -> list:
    """The entries of a catalogue file, or the one of a name."""
    from qsim.numbers.catalogue import load
    from qsim.numbers.modes import suggest

    entries = load(file)
    if name is None:
        return list(entries.values())
    if name not in entries:
        raise ValueError(f"{file} has no format {name!r}; {suggest(name, list(entries))}")
    return [entries[name]]


def _format(text: str):
    """The format of a spec, of a name of the catalogue, or of ``FILE.toml:NAME``."""
    from qsim.numbers.specs import parse

    file, _, name = text.strip().rpartition(":")
    if file.lower().endswith(".toml"):
        return _entries(Path(file), name)[0].format
    if name.lower().endswith(".toml"):
        raise ValueError(f"{text} is a file of formats; say which one: {name}:NAME")
    return parse(text)


def _picture(out: Path | None, folder: str, name: str) -> Path:
    """The file to draw to: as asked for, or ``out/FOLDER/NAME.png``."""
    if out is None:
        return Path("out") / folder / (re.sub(r"[^\w.+-]+", "_", name)[:80] + ".png")
    if out.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--out {str(out)!r} is no picture; give a name that ends in .png or .svg")
    return out


def _numbers(option: str, text: str) -> list[int]:
    """The numbers of ``2-8`` or ``2,4,6-8``."""
    found: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{option} {text!r} is no range; write 2-8 or 2,4,6")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _number(text: str) -> Fraction | float:
    """A number exactly as it was typed: decimal, fraction, hexadecimal float or special value."""
    word = text.strip().lower()
    value = _magnitude_and_sign(text, word)
    return -0.0 if value == 0 and word.startswith("-") else value


def _magnitude_and_sign(text: str, word: str) -> Fraction | float:
    if re.fullmatch(r"[+-]?(inf|infinity|nan)", word):
        return float(word)
    if found := re.fullmatch(
        r"([+-]?)0x([0-9a-f]{1,99})(?:\.([0-9a-f]{0,99}))?(?:p([+-]?\d{1,4}))?", word
    ):
        sign, whole, part, exponent = found.groups("")
        power = int(exponent or 0) - 4 * len(part)
        return int(f"{sign}{whole}{part}", 16) * Fraction(2) ** power
    if re.fullmatch(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})(e[+-]?\d{1,4})?", word):
        return Fraction(word)
    if re.fullmatch(r"[+-]?\d{1,400}/0*[1-9]\d{0,399}", word):
        return Fraction(word)
    raise ValueError(f"{text!r} is no number; write 0.1, 448.5, 1/3, 0x1p-9, inf or nan")


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _use_devices(count: int) -> None:
    """Let the CPU count as several devices, unless the user has set XLA up already.

    One thread per device then does what a pool of threads would do in each operation. XLA reads
    the flags when it is first used, which must come later.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        flags += f" --xla_force_host_platform_device_count={count}"
        flags += " --xla_cpu_multi_thread_eigen=false" if count > 1 else ""
        os.environ["XLA_FLAGS"] = flags.strip()


def main() -> None:
    """Run the command; a mistake of the user's ends in one line and exit code 2.

    With QSIM_DEBUG set in the environment it ends in a traceback instead.
    """
    try:
        app()
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        if os.environ.get("QSIM_DEBUG"):
            raise
        print(f"qsim: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("qsim: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
