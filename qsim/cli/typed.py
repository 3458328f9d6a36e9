"""What was typed, and what it stands for: formats, ranges, numbers, files; and options of many."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BUNDLED",
    "FormatArgument",
    "OverflowOption",
    "RoundingOption",
    "SubjectArgument",
    "cores",
    "entries_of",
    "format_of",
    "formats_of",
    "number",
    "picture_file",
    "require_unsaid",
    "use_devices",
]

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


def require_unsaid(context: typer.Context, *names: str) -> None:
    """Options that a policy stands in for are left out."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"--{name} says what --policy says itself: leave it out, and write modes into the "
                "rule, such as 'weights={} absmax stochastic:8'"
            )


def formats_of(exponents: str, mantissas: str, integers: str, more: str) -> list:
    """The formats of ranges and names, each once."""
    from qsim.numbers.specs import listed
    from qsim.studies.ranges import numbers

    floats = [
        f"e{e}m{m}"
        for e in numbers("--exponents", exponents)
        for m in numbers("--mantissas", mantissas)
    ]
    whole = [f"int{n}" for n in numbers("--integers", integers)]
    named = [name for name in listed(more) if name]
    chosen = list(dict.fromkeys(format_of(spec) for spec in [*floats, *whole, *named]))
    if not chosen:
        raise ValueError("no formats are left; give --exponents and --mantissas, or --integers")
    return chosen


def entries_of(file: Path, name: str | None) -> list:
    """The entries of a catalogue file, or the one of a name."""
    from qsim.numbers.catalogue import load
    from qsim.numbers.modes import suggest

    entries = load(file)
    if name is None:
        return list(entries.values())
    if name not in entries:
        raise ValueError(f"{file} has no format {name!r}; {suggest(name, list(entries))}")
    return [entries[name]]


def format_of(text: str):
    """The format of a spec, of a name of the catalogue, or of ``FILE.toml:NAME``."""
    from qsim.numbers.specs import parse

    file, _, name = text.strip().rpartition(":")
    if file.lower().endswith(".toml"):
        return entries_of(Path(file), name)[0].format
    if name.lower().endswith(".toml"):
        raise ValueError(f"{text} is a file of formats; say which one: {name}:NAME")
    return parse(text)


def picture_file(out: Path | None, folder: str, name: str) -> Path:
    """The file to draw to: as asked for, or ``out/FOLDER/NAME.png``."""
    if out is None:
        return Path("out") / folder / (re.sub(r"[^\w.+-]+", "_", name)[:80] + ".png")
    if out.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--out {str(out)!r} is no picture; give a name that ends in .png or .svg")
    return out


def number(text: str) -> Fraction | float:
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


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_devices(count: int) -> None:
    """Let the CPU count as several devices, unless the user has set XLA up already.

    One thread per device then does what a pool of threads would do in each operation, with one
    device too, so that their number changes no result. XLA reads the flags when it is first used,
    which must come later.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        flags += f" --xla_force_host_platform_device_count={count}"
        flags += " --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags.strip()
