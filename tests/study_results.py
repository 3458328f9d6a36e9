"""Results of studies that were never run: enough of them, with everything that may go wrong."""

import math
from collections.abc import Sequence

import numpy as np

from qsim.studies.result import Result

EVIL = "<script>alert(1)</script>"
EXAMPLES, LABELS = 24, 50


def facts(fmt: str) -> dict[str, int | None]:
    """Bits of a float such as e4m3, or of an integer such as int8."""
    if fmt.startswith("e"):
        exponent, mantissa = map(int, fmt[1:].split("m"))
        return {
            "bits": 1 + exponent + mantissa, "exponent_bits": exponent, "mantissa_bits": mantissa,
        }  # fmt: skip
    bits = int(fmt.removeprefix("int")) if fmt.startswith("int") else None
    return {"bits": bits, "exponent_bits": None, "mantissa_bits": None}


def measured(examples: dict[str, np.ndarray], base: float) -> dict[str, float]:
    """The measures of sums over examples of so many labels each."""
    means = {name: float(np.sum(sums) / (EXAMPLES * LABELS)) for name, sums in examples.items()}
    loss = means["loss"]
    return {
        "loss": loss,
        "loss_difference": loss - base,
        "kl": means["kl"],
        "top1": means["top1"],
        "bits_per_byte": loss / math.log(2),
    }


def reference() -> dict[str, np.ndarray]:
    """float32's sums over examples."""
    generator = np.random.default_rng(7)
    loss = LABELS * generator.normal(1.3, 0.2, EXAMPLES)
    return {"loss": loss, "kl": np.zeros(EXAMPLES), "top1": np.full(EXAMPLES, 0.6 * LABELS)}


def result(point: dict, noise: int) -> Result:
    """A result whose distance from float32 falls with the mantissa bits."""
    known, base = facts(str(point["format"])), reference()
    generator = np.random.default_rng(noise)
    far = 2.0 ** (-2 * (known["mantissa_bits"] or known["bits"] or 1))
    kl = LABELS * far * generator.uniform(0.5, 1.5, EXAMPLES)
    examples = {
        "loss": base["loss"] + kl + far * generator.normal(0, 3, EXAMPLES),
        "kl": kl,
        "top1": LABELS * np.clip(0.6 - far + 0.02 * generator.normal(size=EXAMPLES), 0, 1),
    }
    return Result(
        point=point,
        facts=known,
        measures=measured(examples, base["loss"].sum() / (EXAMPLES * LABELS)),
        seconds=0.01,
        examples={name: sums.astype(np.float32) for name, sums in examples.items()},
    )


def results(
    formats: Sequence[str] = ("e2m1", "e2m3", "e4m1", "e4m3", "e5m2", "int4", "int8"),
    roundings: Sequence[str] = ("ties_to_even", "stochastic:8"),
    seeds: int = 2,
) -> list[Result]:
    """Results of formats and roundings, with seeds where the rounding is random."""
    points = [
        {"format": fmt, "rounding": rounding} | ({} if seed is None else {"seed": seed})
        for rounding in roundings
        for fmt in formats
        for seed in (range(seeds) if rounding.startswith("stochastic") else (None,))
    ]
    return [result(point, noise) for noise, point in enumerate(points)]


def diverged() -> Result:
    """A result that is no number."""
    nan = float("nan")
    names = ("loss", "loss_difference", "kl", "top1", "bits_per_byte")
    return Result(
        point={"format": "e3m0", "rounding": "ties_to_even"},
        facts=facts("e3m0"),
        measures=dict.fromkeys(names, nan),
        examples={"loss": np.full(EXAMPLES, nan, np.float32)},
    )


def failed(text: str = "out of memory") -> Result:
    """A result of a program that did not run."""
    point = {"format": "e8m23", "rounding": "ties_to_even"}
    return Result(point=point, facts=facts("e8m23"), error=text)


def evil() -> list[Result]:
    """Results whose every text wants to be a script."""
    point = {"format": EVIL, "path": f"'{EVIL}\"", "scale": "=1+1", "rounding": "ties_to_even"}
    made = result({"format": "e2m2"}, 99)
    return [
        Result(point=point, facts=made.facts, measures=made.measures, examples=made.examples),
        Result(point={**point, "path": "\u2028--><!--</script>"}, facts=made.facts, error=EVIL),
    ]


def manifest(found: Sequence[Result], **more: object) -> dict:
    """What a folder says of such a study."""
    base = reference()
    return {
        "name": "floats",
        "subject": "models.byte_lm:subject",
        "score": "bits_per_byte",
        "total": len(found),
        "reference": measured(base, base["loss"].sum() / (EXAMPLES * LABELS)),
        "reference_examples": {name: sums.tolist() for name, sums in base.items()},
        "counts": [LABELS] * EXAMPLES,
        "study": {
            "name": "floats",
            "subject": "models.byte_lm:subject",
            "axes": {"formats": ["e4m3"]},
        },
        "conditions": {"jax": "0.10.2", "xla_flags": ""},
        **more,
    }
