"""What people read in a terminal: tables of formats and results, and the heat map."""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

from rich.table import Table
from rich.text import Text

from qsim.analysis.laws import Verdict
from qsim.analysis.values import element
from qsim.numbers import exact
from qsim.numbers.catalogue import Entry
from qsim.numbers.formats import Float, Format
from qsim.scales.blocks import Block
from qsim.studies.result import Result, on_the_map
from qsim.sweeps.scores import SCORES

__all__ = [
    "format_table",
    "heat_map",
    "landmarks",
    "number",
    "result_table",
    "rounding_table",
    "summary",
    "values",
    "verdict_table",
]

# from few losses to many: blue, green, yellow, red
COLOURS = [(49, 104, 142), (53, 183, 121), (253, 231, 37), (220, 80, 40)]


def number(value: exact.Value, digits: int = 6) -> str:
    """A value in a few characters, and exactly if they are enough.

    >>> number(Fraction(1, 512)), number(Fraction(448)), number(Fraction(2) ** -133)
    ('0.00195312', '448', '9.18355e-41')
    """
    if isinstance(value, float):
        return f"{value:g}"
    with localcontext(prec=digits):
        text = f"{Decimal(value.numerator) / Decimal(value.denominator):.{digits}g}"
    whole = value.denominator == 1 and abs(value) < 10 ** (digits + 3)
    return str(value.numerator) if whole else text


SPEC_WIDTH = 24


def format_table(entries: Sequence[Entry]) -> Table:
    """The catalogue as a table; of block formats it is the elements that have a range."""
    table = Table(title="Catalogue", header_style="bold")
    table.add_column("name", no_wrap=True, min_width=max(len(entry.name) for entry in entries))
    table.add_column("spec", overflow="fold", max_width=SPEC_WIDTH)
    table.add_column("title", overflow="fold")
    for column in ("bits", "largest", "smallest"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        fmt, spec = element(entry.format), str(entry.format)
        facts = (str(fmt.bits), number(fmt.largest), number(fmt.smallest))
        spec = spec if len(spec) <= 2 * SPEC_WIDTH else f"{spec[: SPEC_WIDTH - 4]} ..."
        table.add_row(entry.name, Text(spec), Text(entry.title), *facts)
    return table


def landmarks(fmt: Format) -> Table:
    """The landmark values of a format; those of the elements, where it has blocks."""
    table = Table(title=Text(f"{fmt}"), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    whole, fmt, facts = fmt, element(fmt), []
    if isinstance(whole, Block):
        facts += [("bits of a number, with its share of scales", number(whole.bits_per_value))]
        facts += [("scales", whole.scale), ("rule of scales", whole.recipe.rule)]
        facts += [("elements", fmt)]
    facts += [("bits of a code", fmt.bits), ("precision, bits", fmt.precision)]
    if isinstance(fmt, Float):
        facts += [("bias", fmt.bias), ("emin", fmt.emin), ("emax", fmt.emax)]
    facts += [("largest", number(fmt.largest)), ("lowest", number(fmt.lowest))]
    if isinstance(fmt, Float):
        facts.append(("smallest normal", number(fmt.smallest_normal)))
    facts += [
        ("smallest positive", number(fmt.smallest)),
        ("infinities", "yes" if fmt.infinities else "no"),
        ("NaN codes", fmt.nan_count),
        ("minus zero", "yes" if fmt.has_negative_zero else "no"),
    ]
    for name, value in facts:
        table.add_row(name, Text(str(value)))
    return table


def values(fmt: Format, width: int = 160) -> Table:
    """Every value of a format by its code, in hexadecimal, read downwards."""
    listed = exact.values(fmt)
    widest = max(len(number(value)) for value in listed) + math.ceil(fmt.bits / 4) + 6
    columns = max(n for n in (1, 2, 4, 8) if n == 1 or n * widest < width)
    rows = math.ceil(len(listed) / columns)
    table = Table(title="values by code", show_header=False, padding=(0, 1))
    for _ in range(min(columns, len(listed))):
        table.add_column(justify="right", style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    digits = math.ceil(fmt.bits / 4)
    for row in range(rows):
        codes = [code for code in range(row, len(listed), rows)]
        cells = [(f"{code:0{digits}X}", number(listed[code])) for code in codes]
        table.add_row(*[cell for pair in cells for cell in pair])
    return table


def rounding_table(
    fmt: Format, numbers: Sequence[tuple[str, exact.Value]], rounding: str, overflow: str
) -> Table:
    """Numbers, what they round to, the code and the error."""
    table = Table(title=f"{fmt}, {rounding}, {overflow}", header_style="bold")
    for column in ("number", "rounded", "code", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    digits = math.ceil(fmt.bits / 4)
    for text, x in numbers:
        rounded = exact.round_exact(x, fmt, rounding=rounding, overflow=overflow)
        is_nan = isinstance(rounded, float) and math.isnan(rounded)
        code = (
            "none"
            if is_nan and not fmt.has_nan
            else f"{exact.encode(fmt, rounded):#0{digits + 2}x}"
        )
        exactly = isinstance(x, Fraction) and isinstance(rounded, Fraction)
        error = number(rounded - x, 3) if exactly else ""
        table.add_row(text, number(rounded, 17), code, error)
    return table


def verdict_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """What became of each law, with the counterexample where one is broken."""
    colours = {"held": "green", "broken": "bold red", "does not apply": "dim"}
    table = Table(title=Text(title), header_style="bold")
    table.add_column("law")
    table.add_column("verdict", no_wrap=True)
    table.add_column("first counterexample, or why not", overflow="fold")
    for verdict in verdicts:
        style = colours[verdict.state]
        table.add_row(verdict.law, Text(verdict.state, style=style), Text(verdict.detail))
    return table


# the heading of each measure, and how its values are written
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("loss", "{:.4f}".format),
    "loss_difference": ("difference", "{:+.4f}".format),
    "kl": ("KL to fp32", "{:.2e}".format),
    "top1": ("top-1", lambda share: f"{100 * share:.1f} %"),
    "bits_per_byte": ("bits per byte", "{:.4f}".format),
    "perplexity": ("perplexity", "{:.4f}".format),
    "cosine_distance": ("cosine distance", "{:.2e}".format),
    "pearson": ("Pearson", "{:.4f}".format),
}


def result_table(rows: Sequence[Result], score: str) -> Table:
    """Results, fewest bits first."""
    measures = SCORES[score].measures
    table = Table(header_style="bold")
    table.add_column("format", no_wrap=True)
    for heading in ("bits", *(COLUMNS[measure][0] for measure in measures), "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (row.facts["bits"], row.facts["exponent_bits"] or 0)):
        cells = [COLUMNS[measure][1](row.measures[measure]) for measure in measures]
        table.add_row(Text(row.spec), str(row.facts["bits"]), *cells, f"{1e3 * row.seconds:.0f}")
    return table


def summary(found: Mapping[str, float], score: str) -> str:
    """Measures of the float32 answers in a few words; distances to themselves are left out."""
    judge = SCORES[score]
    names = dict.fromkeys([judge.headline, *judge.measures])
    words = [
        f"{COLUMNS[name][0]} {COLUMNS[name][1](found[name])}"
        for name in names
        if name not in (judge.distance, "loss_difference")
    ]
    return ", ".join(words)


def heat_map(rows: Sequence[Result], measure: str) -> list[Table | Text]:
    """The exponent x mantissa map of the plain float formats, and a strip of all others."""
    floats, others = on_the_map(rows)
    title = measure.replace("_", " ")
    colour = _scale([row.measures[measure] for row in rows if measure in row.measures])
    parts: list[Table | Text] = []
    if floats:
        by_bits = {
            (row.facts["exponent_bits"], row.facts["mantissa_bits"]): row.measures.get(measure)
            for row in floats
        }
        mantissas = sorted({mantissa for _, mantissa in by_bits})
        table = Table(pad_edge=False)
        table.add_column("", justify="right", style="bold")
        for mantissa in mantissas:
            table.add_column(f"m{mantissa}", justify="right", no_wrap=True)
        for exponent in sorted({exponent for exponent, _ in by_bits}):
            cells = [_cell(by_bits.get((exponent, mantissa)), colour) for mantissa in mantissas]
            table.add_row(f"e{exponent}", *cells)
        parts += [Text(f"{title}: exponent bits down, mantissa bits across"), table]
    if others:
        table = Table(pad_edge=False)
        for row in others:
            table.add_column(Text(row.spec), justify="right", no_wrap=True)
        table.add_row(*[_cell(row.measures.get(measure), colour) for row in others])
        parts += [Text(f"{title}: other formats"), table]
    return parts


def _cell(value: float | None, colour: Callable[[float], str]) -> Text:
    if value is None:
        return Text("")
    return Text(f" {value:.4g} ", style=f"black on {colour(value)}" if value == value else "red")


def _scale(values: Sequence[float]) -> Callable[[float], str]:
    """Colours for values, by their rank, so that a few extremes do not flatten the rest."""
    known = sorted({value for value in values if value == value})

    def colour(value: float) -> str:
        at = known.index(value) / max(len(known) - 1, 1) * (len(COLOURS) - 1)
        low = min(int(at), len(COLOURS) - 2)
        pairs = zip(COLOURS[low], COLOURS[low + 1], strict=True)
        return "#" + "".join(f"{round(a + (b - a) * (at - low)):02x}" for a, b in pairs)

    return colour
