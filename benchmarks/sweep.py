"""Claim: a sweep over formats costs one compilation, and each format what a plain fp32 run costs.

Tensor: 64 formats of 1 Mi values, once compiled, take at most a tenth of the gfloat loop's time;
compilation included, at most a twentieth of the same rounding jitted once per format.
Model: per format at most 1.10 times the model's own fp32 forward on one device, and at most 0.90
times with two host devices; 64 formats with compilation at most 1.75 times 64 forwards.

    python -m benchmarks.sweep [--formats N ...] [--size N] [--repeats R] [--out DIR]
                               [--scale none] [--only tensor|model] [--plain-allocator]
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse

from benchmarks import model_sweep, record, tensor_sweep


def main() -> None:
    """Measures, prints and stores."""
    parser = record.arguments(__doc__)
    parser.add_argument("--formats", type=int, nargs="+", default=[16, 64], help="up to 64")
    parser.add_argument("--size", type=int, default=2**20, help="values of the tensor")
    parser.add_argument("--layers", type=int, default=4, help="of the model")
    parser.add_argument("--heads", type=int, default=8, help="of the model, 32 wide each")
    parser.add_argument("--tokens", type=int, nargs=2, default=[8, 128], help="batch and length")
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 4], help="also under vmap")
    parser.add_argument("--scale", default="none", help="scale rule of the model's operands")
    parser.add_argument("--only", choices=("tensor", "model"), help="one of the two sweeps")
    options = parser.parse_args()
    batch, length = options.tokens
    model = {
        "layers": options.layers,
        "heads": options.heads,
        "batch": batch,
        "length": length,
        "scale": options.scale,
        "batches": options.batches,
    }
    settings = {"formats": options.formats, "size": options.size, "model": model}
    record.run("sweep", __doc__, options, lambda: measured(options, model), **settings)


def measured(options: argparse.Namespace, model: dict) -> dict:
    """The sections, targets and absent peers of the record."""
    sections, targets, absent = [], [], []
    if options.only != "model":
        count = max(options.formats)
        part, goals, absent = tensor_sweep.measured(count, options.size, options.repeats)
        sections.append(part)
        targets += goals
    if options.only != "tensor":
        repeats = max(1, options.repeats // 2)
        parts, goals = model_sweep.measured(model, options.formats, repeats)
        sections += parts
        targets += goals
    return {"sections": sections, "targets": targets, "absent": absent}


if __name__ == "__main__":
    main()
