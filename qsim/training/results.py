"""Results of a training sweep: a curve for each run, in a Parquet file with a row for each step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qsim.sweeps.store import write_table
from qsim.training.sweep import Runs

__all__ = ["Curve", "curves", "read", "write"]

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "policy": pa.string(),
        "seed": pa.int64(),
        "step": pa.int32(),
        "loss": pa.float32(),
        "heldout": pa.float32(),
        "diverged": pa.int32(),
    }
)
LAST = 10  # a final training loss is the mean of this share of the steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The losses of one run.

    Attributes:
        name: of the format, or what else the policy is called.
        policy, seed: the text of the policy, and the seed.
        losses: float32 ``[steps]``, NaN after a divergence.
        heldout: the loss of held-out data after the last step.
        diverged: the step at which the run diverged, -1 if it did not.
    """

    name: str
    policy: str
    seed: int
    losses: np.ndarray
    heldout: float
    diverged: int

    @property
    def final(self) -> float:
        """The mean loss of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // LAST) :]))


def curves(runs: Runs, names: Sequence[str]) -> list[Curve]:
    """The curves of runs that were evaluated, whose policies have these names."""
    return [
        Curve(
            name=name,
            policy=runs.policies[place],
            seed=seed,
            losses=runs.loss[place, number].astype(np.float32),
            heldout=float(runs.evaluated["loss"][place, number]),
            diverged=int(runs.diverged[place, number]),
        )
        for place, name in enumerate(names)
        for number, seed in enumerate(runs.seeds)
    ]


def write(path: Path, found: Sequence[Curve], setting: dict[str, str]) -> None:
    """Curves as a Parquet file with a row for each step, replacing the file as a whole."""
    lengths = [len(curve.losses) for curve in found]
    facts = {
        name: np.repeat([getattr(curve, name) for curve in found], lengths)
        for name in ("name", "policy", "seed", "heldout", "diverged")
    }
    facts["step"] = np.concatenate([np.arange(length) for length in lengths])
    facts["loss"] = np.concatenate([curve.losses for curve in found])
    arrays = [pa.array(facts[field.name]).cast(field.type) for field in SCHEMA]
    write_table(path, pa.Table.from_arrays(arrays, schema=SCHEMA), setting)


def read(path: Path) -> tuple[list[Curve], dict[str, str]]:
    """The curves and the setting of a file that ``write`` made.

    Raises:
        ValueError: if the file is no such file.
    """
    try:
        table = pq.read_table(path)
        setting = json.loads(table.schema.metadata[b"qsim"])
        return _curves(table.select(SCHEMA.names).to_pylist()), setting
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} holds no results of a training sweep: {error}") from error


def _curves(rows: list[dict]) -> list[Curve]:
    starts = [n for n, row in enumerate(rows) if row["step"] == 0]
    found = []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        facts = {name: rows[start][name] for name in ("name", "policy", "seed", "heldout")}
        losses = np.array([row["loss"] for row in rows[start:stop]], np.float32)
        found.append(Curve(**facts, losses=losses, diverged=rows[start]["diverged"]))
    return found
