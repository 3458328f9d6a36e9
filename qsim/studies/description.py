"""What a manifest says of a study, once it is known to say it; folders may be anybody's."""

from collections.abc import Mapping
from typing import Any

from qsim.studies.database import Database
from qsim.studies.study import Study
from qsim.sweeps.scores import SCORES

__all__ = ["described"]

MOST = 2**53  # evaluations


def described(database: Database) -> dict[str, Any]:
    """The manifest of a folder, which is that of a study that was run.

    Raises:
        ValueError: if it is not.
    """
    manifest = database.manifest
    try:
        _require(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{database.folder} holds no study that qsim run has made "
            f"({type(error).__name__}: {error}): choose another folder"
        ) from error
    return manifest


def _require(manifest: Mapping[str, Any]) -> None:
    """Raises whatever comes where a manifest is not as ``Work.manifest`` makes it."""
    for name in ("name", "subject"):
        if not manifest[name].isprintable():
            raise ValueError(f"its {name} cannot be printed")
    if type(manifest["total"]) is not int or not 0 <= manifest["total"] < MOST:
        raise ValueError("its total is no number of evaluations")
    Study.of(manifest["study"])
    measures = {*SCORES[manifest["score"]].measures}
    reference = manifest["reference"]
    if reference.keys() != measures or {*map(type, reference.values())} != {float}:
        raise ValueError("its reference has other measures than its score")
    examples, counts = manifest["reference_examples"] or {}, manifest["counts"]
    if {*map(type, counts)} - {int, float} or len(counts) < 1:
        raise ValueError("its counts are no numbers")
    for sums in examples.values():
        if len(sums) != len(counts) or {*map(type, sums)} != {float}:
            raise ValueError("its examples are no numbers, or of another length than its counts")
