"""Problems with reference answers, and which of them a model fails sometimes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import normalise_problem
from prm_lightning.types import Completion, Dropped, Generator, Prompt, Sampling

QUESTION_COLUMNS = ("question", "problem")
ANSWER_COLUMNS = ("expected_answer", "answer", "final_answer", "ground_truth_answer")

MiningOutcome = Literal["kept", "too easy", "too hard"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A question whose answer is known.

    Args:
        id: 16 hexadecimal digits made from the normalised question.
        question: plain text.
        answer: the reference answer, such as ``18`` or ``\\frac{1}{2}``.
    """

    id: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Mined:
    """A problem that a model has tried.

    Args:
        problem: which one.
        fail_rate: share of its attempts without the reference answer, in [0, 1].
        outcome: ``kept`` if the fail rate lies in the wanted range.
        completions: the attempts; empty where the fail rate was known from an earlier run.
    """

    problem: Problem
    fail_rate: float
    outcome: MiningOutcome
    completions: tuple[Completion, ...] = ()


def read_problems(path: str, limit: int | None = None) -> Iterator[Problem | Dropped]:
    """Problems of a data set in file order, each question once; unusable rows as `Dropped`.

    Reads OpenMathInstruct-1 (rows that are flagged correct and whose predicted answer is the
    expected one: the flag alone is noisy), GSM8K (the answer behind ``####``), and any rows with a
    question (``question`` or ``problem``) and an answer (``answer``, ``final_answer``,
    ``expected_answer`` or ``ground_truth_answer``: the answer itself, or a solution that states
    it). Questions are compared by `normalise_problem`.

    Args:
        path: a file, a folder or a Hub id, as for `read_rows`.
        limit: at most this many problems; None takes all.

    Raises:
        FileNotFoundError: there is no such file, and no such data set can be reached.
        ValueError: the data set is empty, or none of its rows is a problem.
    """
    seen: set[str] = set()
    last: Dropped | None = None
    for row in read_rows(path):
        if limit is not None and len(seen) >= limit:
            return
        found = row if isinstance(row, Dropped) else _problem_of(row, seen)
        if isinstance(found, Dropped):
            last = found
        else:
            seen.add(found.id)
        yield found
    if last is not None and not seen:
        raise ValueError(f"problems: no row of {path} is a problem with an answer ({last.message})")


def problem_id(question: str) -> str:
    """16 hexadecimal digits that copies of a question share."""
    return hashlib.sha256(normalise_problem(question).encode()).hexdigest()[:16]


def mine(
    problems: Iterable[Problem],
    generator: Generator,
    samples: int = 8,
    min_fail: float = 0.3,
    max_fail: float = 0.8,
    limit: int | None = 1000,
    sampling: Sampling | None = None,
    known: Mapping[str, float] | None = None,
    at_once: int = 32,
) -> Iterator[Mined]:
    """Let a model try problems, and keep those that it fails sometimes, not always, not never.

    Every problem tried is yielded in order, so that a caller can record it and count outcomes.
    It ends with the problem that completes `limit`; what stood behind that one in the same call to
    the generator is let go.

    Args:
        problems: in the order to try them.
        generator: what tries.
        samples: attempts at each problem, >= 1.
        min_fail: lowest fail rate that is kept, in [0, 1].
        max_fail: highest fail rate that is kept, in [0, 1].
        limit: how many to keep; None keeps all.
        sampling: how the generator samples; its `n` is replaced by `samples`.
        known: fail rates of an earlier run by problem id; these are not tried again, and count
            towards `limit`.
        at_once: problems given to the generator in one call, >= 1.

    Raises:
        ValueError: the range is empty, or `samples` or `at_once` is below 1.
    """
    if not 0 <= min_fail <= max_fail <= 1 or samples < 1 or at_once < 1:
        raise ValueError(
            f"mine: got min_fail={min_fail}, max_fail={max_fail}, samples={samples}, "
            f"at_once={at_once}; expected 0 <= min_fail <= max_fail <= 1, and 1 or more of the "
            "other two."
        )
    return _mine(
        iter(problems),
        generator,
        replace(sampling or Sampling(), n=samples),
        (min_fail, max_fail),
        limit,
        known or {},
        at_once,
    )


def fail_rate(problem: Problem, completions: Sequence[Completion]) -> float:
    """Share of completions, at least one, that do not state the problem's answer, in [0, 1]."""
    wrong = sum(not same_answer(problem.answer, answer_of(c)) for c in completions)
    return wrong / len(completions)


def answer_of(completion: Completion, begun: str = "") -> str | None:
    """The answer of a solution that a generator has written or gone on with.

    What the completion itself states counts before what was begun. One that was cut at its length
    has no answer but a stated one: its last number is whatever came last.
    """
    stated = stated_answer(completion.text)
    if stated is not None or completion.ended == "length":
        return stated
    return extract_answer(begun + completion.text)


def _mine(
    problems: Iterator[Problem],
    generator: Generator,
    sampling: Sampling,
    wanted: tuple[float, float],
    limit: int | None,
    known: Mapping[str, float],
    at_once: int,
) -> Iterator[Mined]:
    kept = 0
    while (limit is None or kept < limit) and (chunk := list(islice(problems, at_once))):
        new = [problem for problem in chunk if problem.id not in known]
        prompts = [Prompt(problem.question) for problem in new]
        tries = generator.generate(prompts, sampling) if prompts else []
        tried = {problem.id: tuple(c) for problem, c in zip(new, tries, strict=True)}
        for problem in chunk:
            completions = tried.get(problem.id, ())
            rate = fail_rate(problem, completions) if completions else known[problem.id]
            outcome = _outcome(rate, *wanted)
            yield Mined(problem, rate, outcome, completions)
            kept += outcome == "kept"
            if limit is not None and kept >= limit:
                return


def _outcome(rate: float, min_fail: float, max_fail: float) -> MiningOutcome:
    if rate < min_fail:
        return "too easy"
    return "too hard" if rate > max_fail else "kept"


def _problem_of(row: Row, seen: set[str]) -> Problem | Dropped:
    question, answer = _first_of(row, QUESTION_COLUMNS), _first_of(row, ANSWER_COLUMNS)
    if not isinstance(question, str) or not question.strip():
        return _dropped(row, "no question", f"expected text in {' or '.join(QUESTION_COLUMNS)}")
    key = problem_id(question)
    if key in seen:
        return _dropped(row, "question seen before", "each question is taken once")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        return _dropped(
            row, "no answer", f"expected text or a number in {', '.join(ANSWER_COLUMNS)}"
        )
    if row.values.get("is_correct") is False:
        return _dropped(row, "not flagged correct", "its is_correct is false")
    stated = _stated(str(answer))
    if stated is None:
        return _dropped(row, "no answer", f"its answer {str(answer)[:60]!r} states none")
    predicted = row.values.get("predicted_answer")
    flagged = bool(row.values.get("is_correct")) and predicted is not None
    if flagged and not same_answer(stated, str(predicted)):
        said = f"predicted {str(predicted)[:40]!r}, expected {stated[:40]!r}"
        return _dropped(row, "flagged correct with another answer", said)
    return Problem(key, question.strip(), stated)


def _first_of(row: Row, columns: Sequence[str]) -> Any:
    return next((row.values[c] for c in columns if row.values.get(c) is not None), None)


def _stated(answer: str) -> str | None:
    """An answer as it stands, or the one that a solution states."""
    is_solution = "####" in answer or "\\boxed" in answer or "\n" in answer.strip()
    return extract_answer(answer) if is_solution else answer.strip() or None


def _dropped(row: Row, reason: str, why: str) -> Dropped:
    return Dropped(row.place, reason, f"{row.place}: left out, {why}.")
