"""Problems with several sampled solutions each, as best-of-n reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.modeling.scored_steps import Indices
from prm_lightning.searching.voting import group_answers
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import fold_newlines, normalise_problem, remove_calculator_marks
from prm_lightning.types import Dropped, Solution, Step


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled solution.

    Args:
        steps: that are not blank; none where the sample has none, which leaves it without a score.
        answer: that it gives; None where none can be found.
        correct: whether its answer is the reference's.
        generator: what wrote it.
    """

    steps: tuple[str, ...]
    answer: str | None
    correct: bool
    generator: str


@dataclass(frozen=True, slots=True)
class Pool:
    """A problem and its samples.

    Args:
        id: unique in the data.
        source: name of the file.
        problem: the question.
        answer: the reference, where the data give it.
        samples: at least one.
        groups: ``(N,)`` int64, equal where two samples give the same answer; -1 without one.
    """

    id: str
    source: str
    problem: str
    answer: str | None
    samples: tuple[Sample, ...]
    groups: Indices

    def solutions(self) -> list[Solution]:
        """The samples that have steps, with ids ``<pool>#<sample>``."""
        return [
            Solution(
                self.problem,
                tuple(Step(text) for text in sample.steps),
                source=self.source,
                id=f"{self.id}#{number}",
                answer=sample.answer,
            )
            for number, sample in enumerate(self.samples)
            if sample.steps
        ]


def read_pools(path: str) -> tuple[list[Pool], Counter[str]]:
    """Read rows of ``id, question, answer, samples``.

    A sample is ``{steps, final_answer, is_correct, generator}``. Without `final_answer` the answer
    is found in the last step; without `is_correct` it is compared with the row's `answer`.

    Args:
        path: as `read_rows` takes it.

    Returns:
        The problems with samples, and the others counted by reason, such as ``problem without
        samples``.

    Raises:
        ValueError: no problem has samples, or no row has the layout.
    """
    counts: Counter[str] = Counter()
    pools: list[Pool] = []
    ids: Counter[str] = Counter()
    first = ""
    for row in read_rows(path):
        pool = row if isinstance(row, Dropped) else _to_pool(row, path, len(pools))
        if isinstance(pool, Dropped):
            counts[pool.reason] += 1
            first = first or pool.message
            continue
        ids[pool.id] += 1
        if ids[pool.id] > 1:
            raise ValueError(
                f"best-of-n: the id {pool.id!r} stands twice in {path}, expected one row a "
                "problem with all of its samples; merge them or rename one."
            )
        pools.append(pool)
    if not pools:
        raise ValueError(f"best-of-n: no problem with samples in {path}, for one: {first}")
    return pools, counts


def count_oddities(pools: Sequence[Pool]) -> Counter[str]:
    """How many samples have no steps, no answer, or a flag that their answer contradicts."""
    return Counter(oddity for pool in pools for oddity in _oddities(pool))


def _to_pool(row: Row, path: str, index: int) -> Pool | Dropped:
    values = row.values
    problem = values.get("question", values.get("problem"))
    samples = values.get("samples")
    reference = values.get("answer")
    if not isinstance(problem, str) or not normalise_problem(problem):
        return _drop(row, "problem without a question", "question", problem, "text")
    if not isinstance(samples, list) or not samples:
        return _drop(row, "problem without samples", "samples", samples, "a list that is not empty")
    for sample in samples:
        fault = _fault_of(sample, reference)
        if fault:
            return _drop(row, "sample that cannot be read", "samples", sample, fault)
    answer = None if reference is None else str(reference)
    read = tuple(_to_sample(sample, answer) for sample in samples)
    return Pool(
        id=str(values.get("id") or f"{Path(path).stem}:{index}"),
        source=Path(path).stem,
        problem=problem.strip(),
        answer=answer,
        samples=read,
        groups=np.array(group_answers([sample.answer for sample in read]), np.int64),
    )


def _fault_of(sample: Any, reference: Any) -> str | None:
    """What a sample should be, if it is something else."""
    if not isinstance(sample, dict):
        return "objects"
    steps = sample.get("steps")
    if steps is not None and not (
        isinstance(steps, list) and all(isinstance(s, str) and _is_utf8(s) for s in steps)
    ):
        return "steps that are a list of texts"
    if not isinstance(sample.get("is_correct"), bool) and reference is None:
        return "is_correct, true or false, in each, or an answer to compare with"
    return None


def _to_sample(sample: dict[str, Any], reference: str | None) -> Sample:
    cleaned = (remove_calculator_marks(s).strip() or s for s in sample.get("steps") or [])
    steps = tuple(text for text in map(fold_newlines, cleaned) if text)
    answer = sample.get("final_answer")
    if "final_answer" not in sample and steps:
        answer = extract_answer(steps[-1])
    answer = str(answer).strip() or None if answer is not None else None
    flag = sample.get("is_correct")
    return Sample(
        steps=steps,
        answer=answer,
        correct=flag if isinstance(flag, bool) else same_answer(answer, reference),
        generator=str(sample.get("generator", "")),
    )


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _drop(row: Row, reason: str, key: str, value: Any, expected: str) -> Dropped:
    message = (
        f"{row.place}: {key} is {ascii(value)[:60]}, expected {expected}; mend or remove the row."
    )
    return Dropped(row.place, reason, message)


def _oddities(pool: Pool) -> Iterator[str]:
    for sample in pool.samples:
        if not sample.steps:
            yield "sample without steps"
        if sample.answer is None:
            yield "sample without an answer"
        elif pool.answer is not None and same_answer(sample.answer, pool.answer) != sample.correct:
            yield "sample whose flag and answer disagree"
