"""Running a study: what its folder does not have yet is evaluated, and stored as it finishes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from qsim.numbers.records import printable, shown
from qsim.simulate.policy import Policy
from qsim.studies.database import Database
from qsim.studies.evaluations import Evaluation, evaluations, facts_of
from qsim.studies.manifest import MANIFEST, differences
from qsim.studies.result import Result
from qsim.studies.study import Study
from qsim.sweeps.digest import digest
from qsim.sweeps.evaluation import Judged, Reference, evaluate, judge, planned
from qsim.sweeps.hosts import OthersWait, of_first
from qsim.sweeps.plan import grouped
from qsim.sweeps.planner import Plan
from qsim.sweeps.scores import SCORES
from qsim.sweeps.subject import Subject, load

__all__ = ["Work", "follow", "found", "opened", "pending", "plans", "store"]

MAX_ERROR = 300  # letters of what failed


@dataclass(frozen=True)
class Work:
    """A study with its subject: everything that is to be evaluated.

    Raises:
        ValueError: for a subject that cannot be loaded, batches or measures that it does not have,
            and combinations of axes that cannot be.
    """

    study: Study

    @cached_property
    def subject(self) -> Subject:
        """The subject, with the batches that the study takes."""
        subject = load(self.study.subject)
        known = SCORES[subject.score].measures
        for measure in self.study.measures:
            if measure not in known:
                raise ValueError(
                    f"measures has {shown(measure)}; those of {subject.name} are {', '.join(known)}"
                )
        return _some_batches(subject, self.study.batches) if self.study.batches else subject

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in the order of the axes."""
        return evaluations(self.study, self.subject)

    @cached_property
    def reference(self) -> Reference:
        """The float32 answers."""
        return judge(self.subject)

    @property
    def answers(self) -> str:
        """A digest of the float32 answers, which depend on the model's code too."""
        return digest(np.asarray(self.reference.answers))

    def identity(self) -> dict[str, Any]:
        """What all results of a folder have in common, besides the conditions."""
        subject, study = self.subject, self.study
        data = {"batches": list(study.batches), "digest": digest(_data(subject))}
        return {"subject": study.subject, "score": subject.score, "data": data}

    def manifest(self) -> dict[str, Any]:
        """What a folder says of its study."""
        score, reference = SCORES[self.subject.score], self.reference
        examples = {name: sums.tolist() for name, sums in reference.examples.items()}
        return {
            "name": self.study.name,
            **self.identity(),
            "study": self.study.table(),
            "total": len(self.evaluations),
            "reference": dict(reference.measures),
            "reference_examples": examples if self.study.examples else None,
            "counts": score.counts(np.asarray(self.subject.labels)).tolist(),
        }


def opened(work: Work, folder: Path) -> Database:
    """The folder of a study, open for writing; its axes may have grown since it was made.

    Raises:
        ValueError: if the folder holds a study of something else, or cannot be written to.
    """
    if not (folder / MANIFEST).exists():
        return Database.create(folder, work.manifest())
    database = Database.open(folder, write=True)
    with contextlib.ExitStack() as closing:
        closing.callback(database.close)
        mine = work.identity()
        other = {name: database.manifest.get(name) for name in mine}
        if found := list(differences(other, mine)):
            raise ValueError(
                f"{folder} holds another study: {'; '.join(found[:3])}; choose another folder"
            )
        asked, held = {each.key for each in work.evaluations}, database.keys()
        database.describe(work.manifest() | {"total": len(asked.union(held))})
        closing.pop_all()
    return database


def pending(work: Work, database: Database) -> list[Evaluation]:
    """The evaluations that a folder has no result of; those that failed are tried again."""
    known = {result.key for result in database.results() if result.state != "failed"}
    return [evaluation for evaluation in work.evaluations if evaluation.key not in known]


def found(work: Work, chosen: Sequence[Evaluation], **how: Any) -> Iterator[list[Result]]:
    """The results of evaluations as they come: those of one structure after another.

    What cannot be evaluated has a result that says why, and the others go on.

    Args:
        work: the study.
        chosen: some of its evaluations.
        how: ``batch``, ``devices`` and ``chunk``, as for ``qsim.sweeps.sweep.stream_of``.
    """
    if not chosen:
        return
    for group in _alike(chosen):
        left = set(range(len(group)))
        try:
            for part in _judged(work, group, how):
                left -= {judged.place for judged in part}
                yield [_result(work, group[judged.place], judged) for judged in part]
        except OthersWait:
            raise
        except Exception as error:  # whatever a model's code raises
            said = _failure(error)
            failed = [group[place] for place in sorted(left)]
            yield [Result(point=e.point, facts=facts_of(e.fmt), error=said) for e in failed]


def _failure(error: Exception) -> str:
    text = " ".join(str(error).split())
    return printable(f"{type(error).__name__}: {text}"[:MAX_ERROR])


def plans(
    work: Work, chosen: Sequence[Evaluation], **how: Any
) -> Iterator[tuple[list[Evaluation], Plan | str]]:
    """How ``found`` would run evaluations of one structure: the plan, or why there is none."""
    for group in _alike(chosen) if chosen else ():
        policies, seeds = _policies(group)
        try:
            yield group, planned(work.subject, work.reference, policies, seeds=seeds, **how)
        except Exception as error:  # whatever a model's code raises
            yield group, _failure(error)


def store(
    work: Work,
    database: Database,
    conditions: Mapping[str, str],
    *,
    told: Callable[[list[Result]], None] = lambda results: None,
    stopped: Callable[[], bool] = lambda: False,
    **how: Any,
) -> None:
    """Evaluates what is pending, and stores every part of it before the next begins.

    Args:
        work: the study.
        database: its folder, open for writing.
        conditions: what the results depend on besides.
        told: is called with what has been stored.
        stopped: is asked whether to leave the rest for another time.
        how: as for ``found``.
    """
    for results in found(work, _agreed(work, pending(work, database)), **how):
        database.add(results, conditions)
        told(results)
        if _agreed_to_stop(stopped()):
            return


def follow(work: Work, **how: Any) -> None:
    """Evaluates with process 0, which runs ``store`` of the same study, and tells what and when.

    Args:
        work: the study.
        how: as for ``found``, and as process 0 has it.
    """
    for _ in found(work, _agreed(work, []), **how):
        if _agreed_to_stop(False):
            return


def _agreed(work: Work, chosen: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations that process 0 has chosen."""
    keys = {evaluation.key for evaluation in chosen}
    mask = of_first(np.array([evaluation.key in keys for evaluation in work.evaluations], np.int32))
    return [each for each, taken in zip(work.evaluations, mask, strict=True) if taken]


def _agreed_to_stop(stop: bool) -> bool:
    return bool(of_first(np.int32(stop)))


def _judged(work: Work, group: Sequence[Evaluation], how: Mapping[str, Any]) -> Iterator[list]:
    policies, seeds = _policies(group)
    return evaluate(work.subject, work.reference, policies, seeds=seeds, **how)


def _alike(chosen: Sequence[Evaluation]) -> Iterator[list[Evaluation]]:
    """Evaluations in groups of one structure."""
    for alike in grouped([evaluation.policy for evaluation in chosen]):
        yield [chosen[place] for place in alike.places]


def _policies(group: Sequence[Evaluation]) -> tuple[list[Policy], list[int]]:
    """The policies of evaluations, and their seeds."""
    seeds = [int(evaluation.point.get("seed", 0)) for evaluation in group]
    return [evaluation.policy for evaluation in group], seeds


def _result(work: Work, evaluation: Evaluation, judged: Judged) -> Result:
    return Result(
        point=evaluation.point,
        facts=facts_of(evaluation.fmt),
        measures=judged.measures,
        seconds=judged.seconds,
        batch=judged.batch,
        examples=judged.examples if work.study.examples else {},
    )


def _some_batches(subject: Subject, batches: Sequence[int]) -> Any:
    """A subject with some batches of its data."""
    count = len(subject.labels)
    if max(batches) >= count:
        raise ValueError(
            f"batches has {max(batches)}, but {subject.name} has {count}, which count from 0"
        )
    take = lambda leaf: np.asarray(leaf)[list(batches)]  # noqa: E731
    whole = {name: getattr(subject, name) for name in Subject.__annotations__}
    data = {"inputs": jax.tree.map(take, subject.inputs), "labels": take(subject.labels)}
    return SimpleNamespace(**(whole | data))


def _data(subject: Subject) -> tuple:
    return subject.variables, subject.inputs, subject.labels
