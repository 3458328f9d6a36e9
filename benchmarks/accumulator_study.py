"""Which accumulator does a language model need? Mantissa bits by order and chunk, against the loss.

Operands are E4M3 with a scale for each tensor; all products of the bundled language model are added
up in an accumulator of 8 exponent bits. One executable for each order and chunk serves all widths.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import qsim
from benchmarks import record
from models import byte_lm

OPERANDS = "operands=ocp_e4m3 absmax"
NOISE = 0.005  # bits per byte
WAYS = {
    "one after the other": "",
    "lanes of 8": "lanes8",
    "pairwise": "pairwise",
    "chunks of 16": "chunk16",
    "chunks of 64": "chunk64",
    "aligned, groups of 32": "toward_zero align{} group32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=record.claim(__doc__))
    parser.add_argument("--mantissas", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8, 10, 13])
    parser.add_argument("--rows", type=int, default=4, help="texts of 256 bytes")
    parser.add_argument("--out", type=Path, default=Path("out/accumulators"))
    options = parser.parse_args()
    rows, floor = studied(options.mantissas, options.rows)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"machine": record.machine(), "rows": rows, "floor": floor}
    (options.out / "accumulators.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(rows, floor, options.out / "accumulators.png")
    for row in rows:
        print(f"{row['way']:24} e8m{row['mantissa']:<3} {row['loss']:.4f} bits per byte")
    print(f"sums in float32: {floor['operands']:.4f}, operands too: {floor['float32']:.4f}")


def studied(mantissas: list[int], count: int) -> tuple[list[dict], dict[str, float]]:
    """Bits per byte for every way and width, and without an accumulator."""
    subject = byte_lm.subject()
    text, following = subject.inputs[0][:count], subject.labels[0][:count]

    def loss(variables, text, following):
        log_p = jax.nn.log_softmax(subject.apply(variables, text))
        return -jnp.take_along_axis(log_p, following[..., None], -1).mean() / jnp.log(2.0)

    places = [(way, m) for way in WAYS for m in mantissas]
    policies = [f"accumulators=e8m{m} {WAYS[way].format(m)}; {OPERANDS}" for way, m in places]
    rows, began = [], time.perf_counter()
    for chosen, losses, _ in qsim.stream(loss, policies, chunk=1)(
        subject.variables, text, following
    ):
        for place, value in zip(chosen, losses, strict=True):
            way, mantissa = places[place]
            rows.append({"way": way, "mantissa": mantissa, "loss": float(value)})
        print(f"{len(rows)} of {len(policies)}, {time.perf_counter() - began:.0f} s", end="\r")
    arguments = subject.variables, text, following
    floor = {
        "float32": float(jax.jit(loss)(*arguments)),
        "operands": float(jax.jit(qsim.simulate(loss, OPERANDS))(*arguments)),
    }
    return rows, floor


def draw(rows: list[dict], floor: dict[str, float], out: Path) -> None:
    """Loss against mantissa bits, a line for each way."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for way, marker in zip(WAYS, "os^Dvx", strict=True):
        mine = [row for row in rows if row["way"] == way]
        more = [max(row["loss"] - floor["operands"], NOISE / 10) for row in mine]
        axis.plot([row["mantissa"] for row in mine], more, marker=marker, label=way)
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
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
