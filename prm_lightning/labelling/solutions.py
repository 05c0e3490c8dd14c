"""Problems tried, and solutions to be judged: written by a model, by Claude, or ready in a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.files import digest
from prm_lightning.labelling.prompts import WRITTEN, Answer, canonical
from prm_lightning.scoring.score import score_each
from prm_lightning.sources.problems import Problem
from prm_lightning.sources.rows import Row
from prm_lightning.text import split_steps
from prm_lightning.types import Completion, Dropped, Generator, JudgeRequest, Prompt, Sampling

READY, UNANSWERABLE = "ready", "unanswerable"
ANSWERS = ("answer", "ground_truth_answer", "expected_answer")  # columns of reference answers
TRIED_AT_ONCE = 32  # problems given to a generator before what it wrote is stored


# What a model writes ------------------------------------------------------------------------


def complete(
    generator: Generator, prompts: Sequence[Prompt], sampling: Sampling
) -> list[list[Completion] | None]:
    """Completions of each prompt; None where the generator refuses it, as one that is too long."""
    found = score_each(lambda some: generator.generate(some, sampling), prompts)
    return [None if isinstance(each, str) else each for each in found]


def answer_of(completion: Completion, begun: str = "") -> str | None:
    """The answer of a solution that a generator has written or continued.

    What the completion itself states counts before what was begun. One that was cut at its length
    has no answer but a stated one: its last number is whatever came last.
    """
    stated = stated_answer(completion.text)
    if stated is not None or completion.ended == "length":
        return stated
    return extract_answer(begun + completion.text)


def fail_rates(
    problems: Iterable[Problem],
    generator: Generator,
    sampling: Sampling,
    known: Mapping[str, float | None],
    at_once: int = TRIED_AT_ONCE,
) -> Iterator[tuple[Problem, float | None]]:
    """Let a model try problems: there is something to learn from those it fails sometimes.

    Yields each problem with the share of its `sampling.n` attempts that fail; None if the generator
    refuses it. Problems of which an earlier run has a rate, `known` by their ids, are not tried
    again; of the others `at_once` are tried in one call.
    """
    rest, rates = iter(problems), dict(known)
    while chunk := list(islice(rest, at_once)):
        new = [problem for problem in chunk if problem.id not in rates]
        tries = complete(generator, [Prompt(problem.question) for problem in new], sampling)
        for problem, written in zip(new, tries, strict=True):
            wrong = [not same_answer(problem.answer, answer_of(c)) for c in written or ()]
            rates[problem.id] = sum(wrong) / sampling.n if written else None
        yield from ((problem, rates[problem.id]) for problem in chunk)


# Candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution that may be judged."""

    question: str
    answer: str  # the reference
    solution: str = ""  # as it was written
    steps: tuple[str, ...] = ()  # at least one where `outcome` is ``ready``
    predicted: str | None = None  # the final answer that the solution states, if it does
    is_correct: bool = False  # whether that is the reference answer
    generator: str = ""  # who wrote it
    outcome: str = READY  # or in a word why it cannot be judged

    @property
    def key(self) -> str:
        """40 hexadecimal digits that copies of the solution share."""
        return digest(canonical([self.question, self.answer, self.steps]))[:40]

    @property
    def to_judge(self) -> JudgeRequest:
        """What a judge is told: nothing of who wrote it."""
        return JudgeRequest(self.question, self.steps, self.answer, self.is_correct)


def from_row(row: Row) -> Candidate | Dropped:
    """A ready solution.

    A row holds ``question`` (or ``problem``), ``answer`` (or ``ground_truth_answer``, or
    ``expected_answer``) and ``steps`` or ``solution`` (or ``generated_solution``); it may name its
    ``generator``.
    """

    def unusable(reason: str, why: str) -> Dropped:
        return Dropped(row.place, reason, f"{row.place}: left out, {why}.")

    values, steps = row.values, row.values.get("steps")
    question, answer, solution = (
        next((values[name] for name in names if name in values), None)
        for names in (("question", "problem"), ANSWERS, ("solution", "generated_solution"))
    )
    if not isinstance(question, str) or not question.strip():
        return unusable("no question", "expected text in `question`")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        return unusable("no answer", "expected text or a number in `answer`")
    if steps is not None and not (
        isinstance(steps, list) and steps and all(isinstance(s, str) and s.strip() for s in steps)
    ):
        return unusable("steps are not texts", "expected a list of texts, none blank")
    if steps is None and not (isinstance(solution, str) and solution.strip()):
        return unusable("no solution", "expected text in `solution`, or a list in `steps`")
    reference = str(answer)
    if "####" in reference or "\n" in reference.strip():  # a solution that states it
        reference = extract_answer(reference) or reference
    text = solution if isinstance(solution, str) else ""
    found = Candidate(question, reference.strip(), text, tuple(steps or ()))
    return settle(replace(found, generator=str(values.get("generator", ""))))


def settle(candidate: Candidate) -> Candidate:
    """Split a solution into steps where it is not, find its final answer and compare that."""
    solution = candidate.solution or "\n".join(candidate.steps)
    steps = candidate.steps or tuple(split_steps(solution))
    predicted = candidate.predicted or extract_answer(solution)
    correct = same_answer(predicted, candidate.answer)
    return replace(
        candidate, solution=solution, steps=steps, predicted=predicted, is_correct=correct
    )


def from_completion(
    problem: Mapping[str, str], completion: Completion | None, writer: str
) -> Candidate:
    """What a model has written for a problem; None is a problem that it refuses."""
    bare = Candidate(problem["question"], problem["answer"], generator=sound(writer))
    if completion is None:
        return replace(bare, outcome=f"not written: {UNANSWERABLE}")
    completion = completion._replace(text=sound(completion.text))
    steps, predicted = split_steps(completion.text), answer_of(completion)
    if completion.ended == "length":  # its last step is torn
        steps = steps[:-1]
    return replace(
        bare,
        solution=completion.text,
        steps=tuple(steps),
        predicted=predicted,
        is_correct=same_answer(predicted, bare.answer),
        outcome=READY if steps else "no complete step",
    )


def from_claude(problem: Mapping[str, str], answer: Answer, model: str) -> Candidate:
    """What Claude has written for a problem."""
    bare = Candidate(problem["question"], problem["answer"], generator=model)
    if answer.outcome != WRITTEN:
        return replace(bare, outcome=f"not written: {answer.outcome}")
    steps, said = tuple(map(sound, answer.value["steps"])), sound(answer.value["answer"]) or None
    return settle(replace(bare, steps=steps, predicted=said))


def sound(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def uncertainty(scores: Sequence[float], threshold: float = 0.5) -> float:
    """How unsure a model is of a solution's first error, in [0, 1].

    The uncertainty of its least sure step, 1 - abs(2 p - 1), among those up to the first below the
    threshold, which it takes for wrong: what comes after that step decides nothing.

    Source: selection by confidence as in Duan et al. 2025, "Efficient Process Reward Model Training
    via Active Learning", arXiv:2504.10559, here with one model in place of an ensemble.
    """
    wrong = next((i for i, p in enumerate(scores) if p < threshold), len(scores))
    return max(1 - abs(2 * p - 1) for p in scores[: wrong + 1])


def least_sure(values: Sequence[float], fraction: float) -> list[int]:
    """Indices, in order, of the highest share of values, rounded up; the first of equals."""
    ranked = sorted(range(len(values)), key=lambda i: -values[i])
    return sorted(ranked[: math.ceil(len(values) * fraction)])
