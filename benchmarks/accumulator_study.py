"""Which accumulator does a language model need? Mantissa bits by order and chunk, against the loss.

Operands are E4M3 with a scale for each tensor; all products of the bundled language model are added
up in an accumulator of 8 exponent bits. One executable for each order and chunk serves all widths.
``python -m benchmarks.accumulator_study --write`` puts the stored table into docs/accumulators.md.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import qsim
from benchmarks import record, table
from models import byte_lm

NAME = "accumulator_study"
PAGE = record.ROOT / "docs" / "accumulators.md"
BEGIN = "<!-- begin: the table of python -m benchmarks.accumulator_study --write -->"
OPERANDS = "operands=ocp_e4m3 absmax"
NOISE = 0.005  # bits per byte
NEAR = 0.008  # bits per byte, above the noise
WAYS = {
    "one after the other": "",
    "lanes of 8": "lanes8",
    "pairwise": "pairwise",
    "chunks of 16": "chunk16",
    "chunks of 64": "chunk64",
    "aligned, groups of 32": "toward_zero align{} group32",
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--mantissas", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8, 10, 13])
    parser.add_argument("--rows", type=int, default=4, help="texts of 256 bytes")
    parser.add_argument("--picture", type=Path, default=Path("out/accumulators.png"))
    parser.add_argument("--write", action="store_true", help="put the stored table into the page")
    options = parser.parse_args()
    if options.write:
        write(options.out, PAGE)
        return

    def measured() -> dict[str, Any]:
        losses, floor = studied(options.mantissas, options.rows)
        draw(losses, floor, options.picture)
        return summarised(losses, floor)

    record.run(NAME, __doc__, options, measured, mantissas=options.mantissas, texts=options.rows)


Losses = dict[str, dict[int, float]]


def summarised(losses: Losses, floor: dict[str, float]) -> dict[str, Any]:
    """The losses as a record's section; the last column is what a way needs."""
    mantissas = sorted(next(iter(losses.values())))
    rows = [
        {"name": way, "needs": needed(mine, floor["operands"] + NEAR)}
        | {f"m{m}": f"{mine[m]:.3f}" for m in mantissas}
        for way, mine in losses.items()
    ]
    columns = {"name": "bits per byte"} | {f"m{m}": f"{m} bits" for m in mantissas}
    columns["needs"] = f"within {NEAR} from"
    sums, plain = floor["operands"], floor["float32"]
    title = f"With float32 sums {sums:.3f}, with nothing rounded {plain:.3f}"
    section = record.section(title, columns, rows)
    return {"sections": [section], "targets": [], "absent": [], "losses": losses, "floor": floor}


def needed(losses: dict[int, float], limit: float) -> str:
    """The least width from which on all losses are within a limit."""
    beyond = [m for m, loss in losses.items() if loss > limit]
    enough = [m for m in losses if m > max(beyond, default=0)]
    return f"{min(enough)} bits" if enough else "none"


def stored_table(results: Path = record.RESULTS) -> str:
    """The newest stored table, as Markdown; nothing if there is none."""
    found = [one for one in table.newest(results) if one["benchmark"] == NAME]
    if not found:
        return ""
    title, headings, rows = record.tables(found[0])[0]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
    return "\n".join([*lines, "", f"{title}; {found[0]['date']}.", ""])


def write(results: Path, page: Path) -> None:
    """Puts the stored table into a page, between its two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(table.END)
    if not end:
        raise SystemExit(f"{page.name} needs the lines {BEGIN!r} and {table.END!r}")
    written = f"{before}{BEGIN}\n\n{stored_table(results)}\n{end}{after}"
    page.write_text(written, encoding="utf-8")


def studied(mantissas: list[int], count: int) -> tuple[Losses, dict[str, float]]:
    """Bits per byte for every way and width, and without an accumulator."""
    subject = byte_lm.subject()
    text, following = subject.inputs[0][:count], subject.labels[0][:count]

    def loss(variables, text, following):
        log_p = jax.nn.log_softmax(subject.apply(variables, text))
        return -jnp.take_along_axis(log_p, following[..., None], -1).mean() / jnp.log(2.0)

    places = [(way, m) for way in WAYS for m in mantissas]
    policies = [f"accumulators=e8m{m} {WAYS[way].format(m)}; {OPERANDS}" for way, m in places]
    found: Losses = {way: {} for way in WAYS}
    for chosen, losses, _ in qsim.stream(loss, policies, chunk=1)(
        subject.variables, text, following
    ):
        for place, value in zip(chosen, losses, strict=True):
            way, mantissa = places[place]
            found[way][mantissa] = float(value)
    arguments = subject.variables, text, following
    floor = {
        "float32": float(jax.jit(loss)(*arguments)),
        "operands": float(jax.jit(qsim.simulate(loss, OPERANDS))(*arguments)),
    }
    return found, floor


def draw(losses: Losses, floor: dict[str, float], out: Path) -> None:
    """Loss against mantissa bits, a line for each way."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for way, marker in zip(WAYS, "os^Dvx", strict=True):
        more = [max(loss - floor["operands"], NOISE / 10) for loss in losses[way].values()]
        axis.plot([*losses[way]], more, marker=marker, label=way)
    axis.set(
        yscale="log",
        xlabel="mantissa bits of the accumulator (8 exponent bits)",
        ylabel="more bits per byte than with float32 sums",
        title="The byte-level language model, operands E4M3",
    )
    axis.set_ylim(bottom=NOISE / 2)
    axis.axhspan(NOISE / 2, NOISE, color="0.85", label="noise of so little text")
    axis.legend()
    axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
