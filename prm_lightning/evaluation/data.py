"""What is evaluated: step-labelled solutions, and pools of sampled ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.evaluation import HUB_DATA
from prm_lightning.files import digest
from prm_lightning.modeling.scored_steps import Indices
from prm_lightning.searching.search import group_answers
from prm_lightning.sources.fields import (
    answer_in,
    flag_in,
    list_in,
    make_steps,
    mapping_in,
    problem_in,
    show,
    step_cleaner,
    texts_in,
)
from prm_lightning.sources.layouts import open_source
from prm_lightning.sources.mixture import SourceSpec, as_specs, read_mixture
from prm_lightning.sources.rows import FileSource, Row, RowError, name_of, parse_rows, read_rows
from prm_lightning.sources.splits import find_leaks
from prm_lightning.text import fold_newlines
from prm_lightning.types import Dropped, Solution, Source, Step

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")  # the splits of ProcessBench on the Hub
_ID = re.compile(r"([A-Za-z][A-Za-z0-9]*)-\d+(?:#\d+)?")  # gsm8k-17


# {"modified_question": "2 + 3?", "modified_process": ["2 + 3 = 6", "So 6."], "error_steps": [1],
#  "classification": "confidence", "idx": "prm_test_p1_0"}
@dataclass
class PRMBench(FileSource):
    """Modified solutions with the steps that were made wrong, as the PRMBench preview has them.

    ``modified_process`` are the steps, ``error_steps`` the numbers of the wrong ones, counted from
    1; all others are correct. ``classification`` is the kind of error, which the solutions are
    reported under. Of rows that share classification and ``idx`` the first counts, as in the
    authors' evaluator.

    Source: Song et al. 2025, "PRMBench", arXiv:2501.03124; layout and rules as in its repository
    ssmisya/PRMBench, ``mr_eval/tasks/prmtest_classified``.
    """

    layouts = (("modified_question", "modified_process", "error_steps", "classification", "idx"),)

    def read(self) -> Iterator[Solution | Dropped]:
        """As every `FileSource`."""
        self._seen: set[str] = set()
        return super().read()

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution, with id ``classification_idx``."""
        problem = problem_in(row["modified_question"], "modified_question")
        texts = texts_in(row["modified_process"], "modified_process")
        errors = list_in(row["error_steps"], "error_steps")
        if not all(isinstance(number, int) and 1 <= number <= len(texts) for number in errors):
            raise RowError(
                "error steps out of range",
                f"error_steps is {show(errors)} for {len(texts)} steps, they count from 1.",
            )
        labels = [float(number not in errors) for number in range(1, len(texts) + 1)]
        steps = make_steps(texts, labels, fold_newlines, "modified_process")
        kind = str(row["classification"])
        own_id = f"{kind}_{row['idx']}"
        if own_id in self._seen:
            raise RowError("repeated id", f"{own_id!r} is there twice, the first one counts.")
        self._seen.add(own_id)
        yield Solution(problem, steps, kind, own_id)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled solution."""

    steps: tuple[Step, ...]  # that are not blank; without any the sample has no score
    answer: str | None  # that it gives
    correct: bool  # whether that is the reference's


@dataclass(frozen=True, slots=True)
class Pool:
    """A problem and its samples."""

    id: str  # unique in its file
    source: str  # name of the file
    problem: str
    answer: str | None  # the reference, where the data give it
    samples: tuple[Sample, ...]  # at least one
    groups: Indices  # (N,) equal where two samples give the same answer; -1 without one

    def solutions(self) -> list[Solution]:
        """The samples that have steps, with ids ``<pool>#<sample>``."""
        return [
            Solution(self.problem, sample.steps, self.source, f"{self.id}#{number}")
            for number, sample in enumerate(self.samples)
            if sample.steps
        ]


Item = TypeVar("Item", Solution, Pool)


def read_data(
    paths: Sequence[str], benchmark: str = "steps", limit: int | None = None, seed: int = 0
) -> tuple[list[Solution], Counter[str]]:
    """Read step-labelled solutions.

    Args:
        paths: each a file, folder or Hub id in any layout that a source of ours reads, or a YAML
            file with a list of sources as in `data.sources`.
        benchmark: ``processbench`` names solutions by the subset in ids such as ``gsm8k-17``, if
            they have one. ``prmbench`` judges the steps after the first wrong one, too, which the
            others leave out of metrics, as training does.
        limit: see `draw_of_each`.
        seed: of the draw.

    Returns:
        The solutions, with labels and weights settled, and how many rows were dropped, by reason.
    """
    specs = [spec for path in paths for spec in _open(path)]
    keep_labels = benchmark == "prmbench"
    mixture = read_mixture(specs, after_first_error="keep" if keep_labels else "mask")
    dropped = Counter(row.reason for rows in mixture.dropped.values() for row in rows)
    solutions = mixture.solutions
    if benchmark == "processbench":
        solutions = [
            replace(solution, source=subset[1])
            if (subset := _ID.fullmatch(solution.id))
            else solution
            for solution in solutions
        ]
    return draw_of_each(solutions, limit, seed), dropped


def _open(path: str) -> list[SourceSpec]:
    if Path(path).suffix in (".yaml", ".yml"):
        return as_specs(path)
    if path == HUB_DATA["processbench"] and not Path(path).exists():
        return [SourceSpec(open_source(path, split), name=split) for split in SUBSETS]
    rows = (row for row in islice(read_rows(path), 100) if isinstance(row, Row))  # not broken
    is_prmbench = any(row.filled.keys() >= set(PRMBench.layouts[0]) for row in islice(rows, 1))
    source: Source = PRMBench(path) if is_prmbench else open_source(path)
    return [SourceSpec(source)]


def leave_out(items: Sequence[Item], tested: Sequence[Item]) -> list[Item]:
    """Those that are not of a tested problem, or of a near duplicate of one."""
    solutions = [Solution(item.problem, (), item.source, item.id) for item in items]
    held_out = {(item.problem, "test data") for item in tested}
    leaking, _ = find_leaks(solutions, held_out)
    return [item for item in items if item.problem not in leaking]


def draw_of_each(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """The items of `limit` problems of each source, drawn at random; None takes all.

    Files are often sorted, wrong solutions first, so that their first rows are no sample. What is
    drawn of a source does not depend on the order or on other sources.
    """
    problems: dict[str, set[str]] = {}
    for item in items:
        problems.setdefault(item.source, set()).add(item.problem)
    drawn = {
        source: set(sorted(found, key=lambda text: digest(f"{seed}\n{text}"))[:limit])
        for source, found in problems.items()
    }
    return [item for item in items if item.problem in drawn[item.source]]


def read_pools(
    paths: Sequence[str], limit: int | None = None, seed: int = 0
) -> tuple[list[Pool], Counter[str]]:
    """Read rows of ``id, question, answer, samples``.

    A sample is ``{steps, final_answer, is_correct}``. Without `final_answer` the answer is found in
    the last step; without `is_correct` it is compared with the row's `answer`.

    Returns:
        The problems with samples, `limit` of each file, and the rows that were dropped by reason.

    Raises:
        ValueError: a file has no problem with samples, or an id twice.
    """
    counts: Counter[str] = Counter()
    pools: list[Pool] = []
    for path in paths:
        found = list(parse_rows(read_rows(path), _parse_pool, name_of(path), (("samples",),)))
        dropped = [row for row in found if isinstance(row, Dropped)]
        counts.update(row.reason for row in dropped)
        some = [pool for pool in found if isinstance(pool, Pool)]
        if not some:
            message = dropped[0].message
            raise ValueError(f"best-of-n: no problem with samples in {path}, for one: {message}")
        id, times = Counter(pool.id for pool in some).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"best-of-n: the id {id!r} is twice in {path}, expected one row per problem with "
                "all of its samples; merge them or rename one."
            )
        pools += some
    return draw_of_each(pools, limit, seed), counts


def _parse_pool(row: dict[str, Any], id: str) -> Iterator[Pool]:
    column = "question" if "question" in row else "problem"
    problem = problem_in(row.get(column), column)
    given = list_in(row["samples"], "samples")
    if not given:
        raise RowError("no samples", "samples is an empty list; sample some, or remove the row.")
    reference = _answer_in(row.get("answer"))
    samples = tuple(_parse_sample(sample, reference) for sample in given)
    groups = np.array(group_answers([sample.answer for sample in samples]), np.int64)
    source = id.rpartition(":")[0]
    yield Pool(str(row.get("id") or id), source, problem, reference, samples, groups)


def _parse_sample(given: Any, reference: str | None) -> Sample:
    sample = mapping_in(given, "a sample")
    clean = step_cleaner("remove")
    texts = texts_in(sample.get("steps") or [], "steps")
    steps = tuple(Step(text) for text in map(clean, texts) if text)
    answer = _answer_in(sample.get("final_answer")) or (
        extract_answer(steps[-1].text) if steps else None
    )
    correct = flag_in(sample.get("is_correct"), "is_correct")
    if correct is None and reference is None:
        raise RowError(
            "no is_correct", "a sample has no is_correct and its row no answer; add one."
        )
    return Sample(steps, answer, same_answer(answer, reference) if correct is None else correct)


def _answer_in(value: object) -> str | None:
    """A value as text; None where it is null or blank."""
    return (answer_in(value) or "").strip() or None


def count_oddities(pools: Sequence[Pool]) -> Counter[str]:
    """How many samples have no steps, no answer, or a flag that their answer contradicts."""
    counts: Counter[str] = Counter()
    for pool in pools:
        for sample in pool.samples:
            counts["sample without steps"] += not sample.steps
            counts["sample without an answer"] += sample.answer is None
            if pool.answer is not None and sample.answer is not None:
                agrees = same_answer(sample.answer, pool.answer) == sample.correct
                counts["sample whose flag and answer disagree"] += not agrees
    return +counts  # without zeros
