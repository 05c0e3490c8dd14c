"""Solutions to be judged: written by a model, by Claude, or ready in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from prm_lightning.labelling.asking import Asker, Mode, ask
from prm_lightning.labelling.request import Request
from prm_lightning.labelling.stored import Stored, canonical
from prm_lightning.labelling.writing import OUTCOME, writer_requests
from prm_lightning.text import split_steps
from prm_lightning.types import (
    Completion,
    Dropped,
    Generator,
    JudgeRequest,
    Prompt,
    Sampling,
)

AT_ONCE = 32  # problems given to a generator before its solutions are stored
READY = "ready"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution that may be judged.

    Args:
        question: the problem.
        answer: its reference answer.
        solution: as it was written.
        steps: at least one where `outcome` is ``ready``.
        predicted: the final answer that the solution states; None where there is none.
        is_correct: whether that is the reference answer.
        generator: who wrote it.
        outcome: ``ready``, or in a word why it cannot be judged.
    """

    question: str
    answer: str
    solution: str = ""
    steps: tuple[str, ...] = ()
    predicted: str | None = None
    is_correct: bool = False
    generator: str = ""
    outcome: str = READY

    @property
    def key(self) -> str:
        """40 hexadecimal digits that copies of the solution share."""
        told = canonical([self.question, self.answer, self.steps])
        return hashlib.sha256(told.encode()).hexdigest()[:40]


class Candidates(Sequence[Candidate]):
    """Stored candidates, read as they are needed.

    Args:
        stored: as written by the functions below.
        chosen: their indices in order; None takes all.
    """

    def __init__(self, stored: Stored, chosen: Sequence[int] | None = None) -> None:
        self._stored = stored
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._stored) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _candidate(self._stored[index if self._chosen is None else self._chosen[index]])

    def __iter__(self) -> Iterator[Candidate]:
        if self._chosen is None:
            yield from map(_candidate, self._stored)
            return
        chosen = iter(self._chosen)
        wanted = next(chosen, None)
        for index, value in enumerate(self._stored):
            if index == wanted:
                yield _candidate(value)
                wanted = next(chosen, None)


class ToJudge(Sequence[JudgeRequest]):
    """What a judge is told of candidates: nothing of who wrote them, or how they end."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates

    def __len__(self) -> int:
        return len(self._candidates)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return told(self._candidates[index])

    def __iter__(self) -> Iterator[JudgeRequest]:
        return map(told, self._candidates)


def from_rows(rows: Iterable[Any], stored: Stored, dropped: Callable[[Dropped], None]) -> None:
    """Store the ready solutions of some rows of `read_rows`.

    A row holds ``question`` (or ``problem``), ``answer`` (or ``ground_truth_answer``, or
    ``expected_answer``) and ``steps`` or ``solution`` (or ``generated_solution``); it may name its
    ``generator``.

    Args:
        rows: in order.
        stored: empty, or as an earlier call left it.
        dropped: called with each row that is of no use, at every call.
    """
    rest = iter(rows)
    seen = 0
    while chunk := list(islice(rest, 1000)):
        read = [row if isinstance(row, Dropped) else _from_row(row) for row in chunk]
        for row in read:
            if isinstance(row, Dropped):
                dropped(row)
        found = [row for row in read if isinstance(row, Candidate)]
        new = found[max(0, len(stored) - seen) :]  # the rest is stored already
        seen += len(found)
        stored.append(asdict(settle(candidate)) for candidate in new)


def by_generator(
    problems: Sequence[dict[str, str]],
    generator: Callable[[], Generator],
    sampling: Sampling,
    stored: Stored,
    done: Callable[[int], None],
) -> None:
    """Let a model write `sampling.n` solutions of each problem, and store them as they come.

    Args:
        problems: `question` and `answer` of each.
        generator: gives the model; called only if anything is left to write.
        sampling: how.
        stored: whose length says how many are written already.
        done: called with how many solutions were written.
    """
    rest = islice(iter(problems), len(stored) // sampling.n, None)
    writer = None
    while chunk := list(islice(rest, AT_ONCE)):
        writer = writer or generator()
        prompts = [Prompt(problem["question"]) for problem in chunk]
        written = writer.generate(prompts, sampling)
        stored.append(
            asdict(_completed(problem, completion, writer.name))
            for problem, completions in zip(chunk, written, strict=True)
            for completion in completions
        )
        done(len(chunk) * sampling.n)
    stored.finish()


def by_claude(
    problems: Sequence[dict[str, str]],
    asker: Asker,
    settings: list[str],
    model: str,
    solutions: int,
    mode: Mode,
    stored: Stored,
) -> None:
    """Let Claude write some solutions of each problem, and store them once all are there.

    Args:
        problems: `question` and `answer` of each.
        asker: asks.
        settings: of each variant of the prompt, from `writer_settings`.
        model: of the settings.
        solutions: of each problem, >= 1.
        mode: live requests or Message Batches.
        stored: whose length says how many are stored already.

    Raises:
        UnfinishedError: before all was answered.
    """

    def pairs() -> Iterator[tuple[dict[str, str], Request]]:
        for problem in problems:
            for request in writer_requests(settings, problem["question"], solutions):
                yield problem, request

    ask(asker, lambda: (request for _, request in pairs()), mode)
    rest = islice(pairs(), len(stored), None)
    while chunk := list(islice(rest, 1000)):
        stored.append(asdict(_written(asker, model, *pair)) for pair in chunk)
    stored.finish()


def settle(candidate: Candidate) -> Candidate:
    """Split a solution into steps where it is not, find its final answer and compare that."""
    from prm_lightning.answers import extract_answer, same_answer

    solution = candidate.solution or "\n".join(candidate.steps)
    steps = candidate.steps or tuple(split_steps(solution))
    predicted = candidate.predicted or extract_answer(solution)
    correct = same_answer(predicted, candidate.answer)
    return replace(
        candidate, solution=solution, steps=steps, predicted=predicted, is_correct=correct
    )


def _completed(problem: dict[str, str], completion: Completion, writer: str) -> Candidate:
    from prm_lightning.answers import same_answer
    from prm_lightning.labelling.problems import answer_of

    text, predicted = sound(completion.text), answer_of(completion)
    steps = split_steps(text)
    if completion.ended == "length":  # its last step is torn
        steps = steps[:-1]
    return Candidate(
        problem["question"],
        problem["answer"],
        text,
        tuple(steps),
        predicted,
        same_answer(predicted, problem["answer"]),
        writer,
        READY if steps else "no complete step",
    )


def _written(asker: Asker, model: str, problem: dict[str, str], request: Request) -> Candidate:
    answer = asker.outcome(request)
    assert answer is not None, "ask returns only when everything is answered"
    bare = Candidate(problem["question"], problem["answer"], generator=model)
    if answer.outcome != OUTCOME:
        return replace(bare, outcome=f"not written: {answer.outcome}")
    steps, said = tuple(map(sound, answer.value["steps"])), sound(answer.value["answer"]) or None
    return settle(replace(bare, steps=steps, predicted=said))


def _from_row(row: Any) -> Candidate | Dropped:
    values = row.values
    question = values.get("question", values.get("problem"))
    answer = next(
        (values[n] for n in ("answer", "ground_truth_answer", "expected_answer") if n in values),
        None,
    )
    steps = values.get("steps")
    solution = values.get("solution", values.get("generated_solution"))
    if not isinstance(question, str) or not question.strip():
        return _unusable(row, "no question", "expected text in `question`")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        return _unusable(row, "no answer", "expected text or a number in `answer`")
    if steps is not None and not (
        isinstance(steps, list) and steps and all(isinstance(s, str) and s.strip() for s in steps)
    ):
        return _unusable(row, "steps are not texts", "expected a list of texts, none blank")
    if steps is None and not (isinstance(solution, str) and solution.strip()):
        return _unusable(row, "no solution", "expected text in `solution`, or a list in `steps`")
    return Candidate(
        sound(question),
        sound(_reference(str(answer))),
        sound(solution) if isinstance(solution, str) else "",
        tuple(sound(step) for step in steps or ()),
        generator=str(values.get("generator", "")),
    )


def _reference(answer: str) -> str:
    """An answer as it stands, or the one that a reference solution states."""
    from prm_lightning.answers import extract_answer

    is_solution = "####" in answer or "\n" in answer.strip()
    return (extract_answer(answer) if is_solution else None) or answer.strip()


def sound(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _unusable(row: Any, reason: str, why: str) -> Dropped:
    return Dropped(row.place, reason, f"{row.place}: left out, {why}.")


def _candidate(value: dict[str, Any]) -> Candidate:
    return Candidate(**value | {"steps": tuple(value["steps"])})


def told(candidate: Candidate) -> JudgeRequest:
    """What a judge is told of a candidate."""
    return JudgeRequest(candidate.question, candidate.steps, candidate.answer)
