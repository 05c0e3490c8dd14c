"""What is evaluated: step-labelled solutions, and pools of sampled ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.evaluation.prmbench import COLUMNS, PRMBench
from prm_lightning.files import digest
from prm_lightning.modeling.scored_steps import Indices
from prm_lightning.searching.voting import group_answers
from prm_lightning.sources.fields import is_text, show
from prm_lightning.sources.file_source import RowError
from prm_lightning.sources.layouts import open_source
from prm_lightning.sources.leaks import find_leaks
from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.sources.rewards import AfterFirstError
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.sources.source_list import specs_in
from prm_lightning.text import fold_newlines, normalise_problem, remove_calculator_marks
from prm_lightning.types import Dropped, Solution, Source, Step

T = TypeVar("T")

PROCESSBENCH = "Qwen/ProcessBench"
UNREADABLE = "sample that cannot be read"
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")  # its splits
_ID = re.compile(r"([A-Za-z][A-Za-z0-9]*)-\d+(?:#\d+)?")  # gsm8k-17


@dataclass(frozen=True)
class Data:
    """What was read.

    Args:
        names: of what was read, as given.
        solutions: with labels and weights settled.
        dropped: rows that could not be used, by reason.
        limit: how many problems of each source were drawn; None if all were taken.
    """

    names: Sequence[str]
    solutions: Sequence[Solution]
    dropped: Counter[str]
    limit: int | None = None

    def to_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "names": self.names,
            "solutions": len(self.solutions),
            "problems": len({normalise_problem(p) for p in {s.problem for s in self.solutions}}),
            "dropped": self.dropped,
            "limit": self.limit,
        }


def read_data(
    paths: Sequence[str],
    limit: int | None = None,
    seed: int = 0,
    after_first_error: AfterFirstError = "mask",
) -> Data:
    """Read step-labelled solutions.

    Args:
        paths: each a file, folder or Hub id in any layout that a source of ours reads, told by the
            columns of its first row; or a YAML file with a list of sources as in `data.sources`.
        limit: problems drawn of each source; None takes all.
        seed: of the draw.
        after_first_error: ``mask`` leaves the steps after the first wrong one out of metrics, as
            training does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing in it can be used, or its layout is unknown.
    """
    specs = [spec for path in paths for spec in _open(path)]
    mixture = read_mixture(specs, after_first_error=after_first_error)
    dropped = Counter(row.reason for rows in mixture.report.dropped.values() for row in rows)
    solutions = draw_of_each(mixture.solutions, limit, seed, _source_and_problem)
    return Data(list(paths), solutions, dropped, limit)


def read_processbench(paths: Sequence[str], limit: int | None = None, seed: int = 0) -> Data:
    """Read solutions in ProcessBench's layout, named by subset.

    Ids such as ``gsm8k-17`` name the subset; where a file has others, the file does.

    Args:
        paths: as for `read_data`; a Hub id means its splits gsm8k, math, olympiadbench and
            omnimath.
        limit: problems drawn of each subset; None takes all.
        seed: of the draw.
    """
    data = read_data(paths)
    solutions = []
    for solution in data.solutions:
        subset = _ID.fullmatch(solution.id)
        solutions.append(replace(solution, source=subset[1]) if subset else solution)
    solutions = draw_of_each(solutions, limit, seed, _source_and_problem)
    return Data(data.names, solutions, data.dropped, limit)


def leave_out(
    solutions: Sequence[Solution], tested: Sequence[Solution]
) -> tuple[list[Solution], int]:
    """Solutions without those of a problem that is tested, or of a near duplicate of one.

    Returns:
        The solutions kept, and how many were left out.
    """
    problems = {solution.problem for solution in tested}
    leaking = find_leaks(solutions, ((p, "test data") for p in problems)).problems
    kept = [solution for solution in solutions if solution.problem not in leaking]
    return kept, len(solutions) - len(kept)


def draw_of_each(
    items: Sequence[T], limit: int | None, seed: int, key: Callable[[T], tuple[str, str]]
) -> list[T]:
    """The items of `limit` problems of each source, drawn at random; in the order given.

    Files are often sorted, wrong solutions first, so that their first rows are no sample.

    Args:
        limit: None takes all.
        seed: of the draw, which does not depend on the order or on other sources.
        key: source and problem of an item.
    """
    if limit is None:
        return list(items)
    problems: dict[str, set[str]] = {}
    for item in items:
        source, problem = key(item)
        problems.setdefault(source, set()).add(problem)
    drawn = {
        source: set(sorted(found, key=lambda text: digest(f"{seed}\n{text}"))[:limit])
        for source, found in problems.items()
    }
    return [item for item in items if key(item)[1] in drawn[key(item)[0]]]


def _source_and_problem(solution: Solution) -> tuple[str, str]:
    return solution.source, solution.problem


def _open(path: str) -> list[SourceSpec]:
    if Path(path).suffix in (".yaml", ".yml"):
        return specs_in(Path(path), "evaluate")
    if path == PROCESSBENCH and not Path(path).exists():
        return [SourceSpec(_open_layout(path, split), name=split) for split in SUBSETS]
    return [SourceSpec(_open_layout(path, "train"))]


def _open_layout(path: str, split: str) -> Source:
    """The source that reads rows with these columns, PRMBench's among them."""
    rows = islice(read_rows(path, split), 100)  # a first line may be broken
    first = next((row for row in rows if isinstance(row, Row)), None)
    if first and first.filled.keys() >= set(COLUMNS):
        return PRMBench(path, split)
    return open_source(path, split)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled solution.

    Args:
        steps: those that are not blank; without any the sample has no score.
        answer: that it gives; None where none can be found.
        correct: whether its answer is the reference's.
        generator: the model that wrote it.
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
    is found in the last step; without `is_correct`, which is true, false, 1 or 0, it is compared
    with the row's `answer`. A field that is null is one that is not there.

    Args:
        path: as `read_rows` takes it.

    Returns:
        The problems with samples, and the others counted by reason, such as ``problem without
        samples``.

    Raises:
        ValueError: no problem has samples, no row has the layout, or an id comes twice.
    """
    counts: Counter[str] = Counter()
    pools: dict[str, Pool] = {}
    first = ""
    for row in read_rows(path):
        pool = row if isinstance(row, Dropped) else _to_pool(row, path, len(pools))
        if isinstance(pool, Dropped):
            counts[pool.reason] += 1
            first = first or pool.message
        elif pool.id in pools:
            raise ValueError(
                f"best-of-n: the id {pool.id!r} is twice in {path}, expected one row per problem "
                "with all of its samples; merge them or rename one."
            )
        else:
            pools[pool.id] = pool
    if not pools:
        raise ValueError(f"best-of-n: no problem with samples in {path}, for one: {first}")
    return list(pools.values()), counts


def count_oddities(pools: Sequence[Pool]) -> Counter[str]:
    """How many samples have no steps, no answer, or a flag that their answer contradicts."""
    return Counter(oddity for pool in pools for oddity in _oddities(pool))


def _oddities(pool: Pool) -> Iterator[str]:
    for sample in pool.samples:
        if not sample.steps:
            yield "sample without steps"
        if sample.answer is None:
            yield "sample without an answer"
        elif pool.answer is not None and same_answer(sample.answer, pool.answer) != sample.correct:
            yield "sample whose flag and answer disagree"


def _to_pool(row: Row, path: str, index: int) -> Pool | Dropped:
    values = row.values
    question = values.get("question")
    problem = values.get("problem") if question is None else question
    samples, reference = values.get("samples"), values.get("answer")
    try:
        if not is_text(problem) or not normalise_problem(problem):
            raise RowError(
                "problem without a question",
                f"question is {show(problem)}, expected text without lone surrogates",
            )
        if not isinstance(samples, list) or not samples:
            raise RowError(
                "problem without samples",
                f"samples is {show(samples)}, expected a list that is not empty",
            )
        answer = _text_in(reference, "answer")
        read = tuple(_to_sample(sample, answer) for sample in samples)
    except RowError as error:
        return Dropped(row.place, error.reason, f"{row.place}: {error}; mend or remove the row.")
    return Pool(
        id=str(values.get("id") or f"{name_of(path)}:{index}"),
        source=name_of(path),
        problem=problem.strip(),
        answer=answer,
        samples=read,
        groups=np.array(group_answers([sample.answer for sample in read]), np.int64),
    )


def _to_sample(sample: Any, reference: str | None) -> Sample:
    if not isinstance(sample, dict):
        raise RowError(UNREADABLE, f"samples hold {show(sample)}, expected objects")
    texts = sample.get("steps")
    texts = [] if texts is None else texts
    if not isinstance(texts, list) or not all(map(is_text, texts)):
        raise RowError(UNREADABLE, f"steps are {show(texts)}, expected a list of texts")
    cleaned = (remove_calculator_marks(text).strip() or text for text in texts)
    steps = tuple(text for text in map(fold_newlines, cleaned) if text)
    answer = _text_in(sample.get("final_answer"), "final_answer")
    if answer is None and steps:
        answer = extract_answer(steps[-1])
    flag = sample.get("is_correct")
    if flag is None and reference is None:
        raise RowError(UNREADABLE, "a sample has no is_correct and its row no answer to compare")
    if flag is None:
        correct = same_answer(answer, reference)
    elif isinstance(flag, (bool, int, float)) and flag in (0, 1):
        correct = bool(flag)
    else:
        raise RowError(UNREADABLE, f"is_correct is {show(flag)}, expected true, false, 1 or 0")
    return Sample(steps, answer, correct, str(sample.get("generator") or ""))


def _text_in(value: object, name: str) -> str | None:
    """A value as text; None where it is null or blank."""
    if value is None:
        return None
    text = str(value).strip()
    if not is_text(text):
        raise RowError(UNREADABLE, f"{name} is {show(value)}, which holds a lone surrogate")
    return text or None
