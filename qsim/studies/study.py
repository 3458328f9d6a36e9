"""A study: the subject, and the axes along which its evaluations differ, as a TOML file says it.

::

    subject = "my_model:subject"        # package.module:attribute
    name = "floats"                     # by default that of the file
    batches = "0-3"                     # of the subject's data; all by default
    measures = ["kl", "top1"]           # shown first; all of the subject's score by default
    examples = true                     # whether what each example adds is kept, for intervals

    [axes]                              # every combination of their values is evaluated
    exponents = "2-5"                   # of floats, with each number of mantissa bits
    mantissas = "1-3"
    integers = [4, 8]
    formats = ["mxfp4", "my_formats.toml:mine"]
    targets = ["weights", "both"]       # weights, activations or both
    paths = ["each"]                    # one layer at a time, or regular expressions; or all of it
    roundings = ["ties_to_even", "stochastic:8"]
    overflows = ["saturate"]
    scales = ["absmax"]
    accumulators = ["none", "e8m13:chunk128"]
    seeds = "0-4"                       # of stochastic rounding; others are evaluated once

``policies``, a list of texts in which ``{}`` stands for the format, may take the place of
``targets``, ``paths``, ``roundings``, ``overflows`` and ``scales``.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qsim.numbers.catalogue import load, short_name
from qsim.numbers.modes import suggest
from qsim.numbers.records import printable, shown
from qsim.numbers.specs import parse
from qsim.studies.ranges import numbers

__all__ = ["EACH", "MODES", "Study", "read"]

MAX_BYTES = 2**20  # of a study file
EACH = "each"  # the path that stands for every layer, one at a time
MODES = ("targets", "paths", "roundings", "overflows", "scales")  # which a policy says itself
DEFAULTS = {
    "targets": ("both",),
    "roundings": ("ties_to_even",),
    "overflows": ("saturate",),
    "scales": ("absmax",),
}
RANGES = ("exponents", "mantissas", "integers")
OF_STUDY = ("axes", "name", "subject", "batches", "measures", "examples")
OF_AXES = (*RANGES, "formats", "policies", *MODES, "accumulators", "seeds")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is evaluated.

    Attributes:
        name, subject: one word for titles; ``package.module:attribute``.
        batches: of the subject's data; all of them if empty.
        measures: which are shown first; all of them if empty.
        examples: whether what every example adds to measures is kept.
        formats: spec strings or names of the catalogue.
        policies: texts, in which ``{}`` stands for the format; empty where the modes say it.
        targets, paths, roundings, overflows, scales: see the module.
        accumulators: texts; ``"none"`` for native float32 sums.
        seeds: of stochastic rounding.
    """

    name: str
    subject: str
    batches: tuple[int, ...] = ()
    measures: tuple[str, ...] = ()
    examples: bool = True
    formats: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    roundings: tuple[str, ...] = ()
    overflows: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    accumulators: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, table: Mapping[str, Any], *, name: str = "study", folder: Path = Path()) -> "Study":
        """The study that a table describes, as a file has it.

        Args:
            table: keys and values, see the module.
            name: where the table has none.
            folder: where files of formats are looked for.

        Raises:
            ValueError: for keys or values that no study has; the message names key and remedy.

        >>> study = Study.of({"subject": "m:s", "axes": {"exponents": "4", "mantissas": "2,3"}})
        >>> study.formats, study.targets
        (('e4m2', 'e4m3'), ('both',))
        """
        axes = table.get("axes", {})
        if not isinstance(axes, dict):
            raise ValueError("axes is no table: begin it with [axes]")
        _require_known(table, OF_STUDY, "")
        _require_known(axes, OF_AXES, "axes.")
        if "policies" in axes and (said := [mode for mode in MODES if mode in axes]):
            raise ValueError(
                f"axes.{said[0]} says what axes.policies says itself: leave it out, and write "
                "modes into the rules, such as 'weights={} absmax stochastic:8'"
            )
        texts = {key: _texts(f"axes.{key}", axes[key]) for key in OF_AXES[4:-1] if key in axes}
        modes = {} if "policies" in axes else DEFAULTS
        facts = {"name": name} | {key: table[key] for key in ("name",) if key in table}
        study = cls(
            name=_text("name", facts["name"]),
            subject=_text("subject", table.get("subject", "")),
            batches=tuple(dict.fromkeys(numbers("batches", table.get("batches", []), digits=6))),
            measures=_texts("measures", table.get("measures", [])),
            examples=_truth("examples", table.get("examples", True)),
            formats=_formats(axes, folder),
            seeds=tuple(_seeds(axes.get("seeds", 0))),
            **{**modes, **texts},
        )
        _require_formats(study)
        return study

    def table(self) -> dict[str, Any]:
        """What ``of`` reads this study from: values that TOML and JSON have.

        >>> study = Study(name="a", subject="m:s", formats=("e4m3",), targets=("both",))
        >>> Study.of(study.table()) == Study.of({**study.table(), "examples": True})
        True
        """
        whole = {field.name: getattr(self, field.name) for field in fields(self)}
        whole = {key: list(v) if isinstance(v, tuple) else v for key, v in whole.items()}
        own = {key: whole.pop(key) for key in ("name", "subject", "batches", "measures")}
        own["examples"] = whole.pop("examples")
        return {**own, "axes": {key: value for key, value in whole.items() if value}}


def read(path: Path) -> Study:
    """The study that a TOML file describes.

    Raises:
        ValueError: for a file that cannot be read, and for one that describes no study; the
            message names the file, the key and the remedy.
    """
    try:
        if path.is_fifo():
            raise ValueError("it is a pipe, no file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes: a study file is short")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return Study.of(table, name=path.stem, folder=path.parent)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason}): save it as UTF-8") from None
    except RecursionError:
        raise ValueError(f"{path}: brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# --- keys and values ------------------------------------------------------------------------


def _require_known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            name = printable(key[:40])
            if key in (OF_STUDY if where else OF_AXES):
                place = "above" if where else "below"
                raise ValueError(f"no key {where}{name}: write it {place} [axes]")
            raise ValueError(f"no key {where}{name}; {suggest(name, list(known))}")


def _require_formats(study: Study) -> None:
    wanted = not study.policies or any("{}" in text for text in study.policies)
    if wanted and not study.formats:
        raise ValueError("axes has no formats; give exponents and mantissas, integers, or formats")
    for text in study.policies:
        if "{}" not in text and study.formats:
            raise ValueError(
                f"axes.policies has {shown(text)} without {{}}, which stands for the format: "
                "write weights={}, or leave the formats out"
            )


def _text(key: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip() or not given.isprintable():
        example = ' = "models.byte_lm:subject"' if key == "subject" else ' = "a text"'
        raise ValueError(f"{key} is {shown(given)}; write {key}{example}")
    return given


def _texts(key: str, given: Any) -> tuple[str, ...]:
    """The texts of a list, each once; a single text is a list of one."""
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f'{key} is {shown(given)}, no list of texts; write {key} = ["a", "b"]')
    if not all(text.isprintable() for text in given):
        raise ValueError(f"{key} is {shown(given)}, which has letters that cannot be printed")
    if key.startswith("axes.") and not given:
        raise ValueError(f"{key} is empty: leave it out, or write values")
    return tuple(dict.fromkeys(given))


def _truth(key: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"{key} is {shown(given)}; write true or false")
    return given


def _seeds(given: Any) -> list[int]:
    """Seeds, which may be larger than what is written as a range."""
    several = given if isinstance(given, list) else [given]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in several)
    seeds = several if whole else numbers("axes.seeds", given)
    if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"axes.seeds is {shown(given)}; seeds are whole numbers in 0..2**32-1")
    return list(dict.fromkeys(seeds))


def _formats(axes: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The formats of an axis by their short names, each once."""
    whole = {key: numbers(f"axes.{key}", axes[key]) for key in RANGES if key in axes}
    for one, other in (RANGES[:2], RANGES[1::-1]):
        if one in whole and other not in whole:
            raise ValueError(f"axes.{one} needs axes.{other}: a float has both")
    floats = [f"e{e}m{m}" for e in whole.get("exponents", []) for m in whole.get("mantissas", [])]
    specs = [*floats, *(f"int{bits}" for bits in whole.get("integers", []))]
    named = _texts("axes.formats", axes["formats"]) if axes.get("formats") else ()
    return tuple(dict.fromkeys(_format(spec, folder) for spec in [*specs, *named]))


def _format(text: str, folder: Path) -> str:
    """The short name of a format, which may be one of a file: ``FILE.toml:NAME``."""
    file, _, name = text.strip().rpartition(":")
    if not file.lower().endswith(".toml"):
        return short_name(parse(text))
    entries = load(folder / file)
    if name not in entries:
        raise ValueError(f"{file} has no format {name!r}; {suggest(name, list(entries))}")
    return short_name(entries[name].format)
