"""What a search finds, which candidate to take, and how often each way to choose is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from prm_lightning.answers import same_answer
from prm_lightning.searching.voting import best_scored, group_answers, vote
from prm_lightning.sources.problems import Problem

ANSWERED = "answered"
NO_ANSWER = "no answer"
NOT_SCORED = "refused by the scorer"
NOT_WRITTEN = "refused by the generator"
COUNTED = (ANSWERED, NO_ANSWER)  # outcomes that accuracies are of
SAMPLING = ("best_of_n", "weighted_majority")

Ended = Literal[
    "end", "answer", "blank", "length", "steps", "budget", "unscorable", "pruned", "duplicate"
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution, or the beginning of one, that the search has written.

    Args:
        text: as written, separators included.
        steps: as scored.
        scores: P(correct) of each step; empty where there is none or the scorer refused.
        score: of the whole; None where there is none.
        answer: that it gives; None where it gives none, or was cut before it stated one.
        tokens: generated for its text. What it shares with others counts in each of them.
        ended: ``end`` by the generator's choice, ``answer``: a step stated the final answer,
            ``blank``: nothing but a separator was written, ``length``: cut at `max_tokens` or the
            generator's context, ``steps`` or ``budget``: cut by that bound, ``unscorable``: the
            scorer refused it, ``pruned``: others scored higher, ``duplicate`` of another one's
            steps.
        note: what the scorer said where it refused.
    """

    text: str
    steps: tuple[str, ...]
    scores: tuple[float, ...]
    score: float | None
    answer: str | None
    tokens: int
    ended: Ended
    note: str = ""

    @property
    def is_final(self) -> bool:
        """Whether it was neither pruned nor a duplicate, so that it may be chosen."""
        return self.ended not in ("pruned", "duplicate")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Args:
        candidates: the final ones first, at most n, in the order in which they were finished; then
            those that were dropped.
        chosen: index of the candidate that is the result; None if no final one has a score.
        tokens: generated in all, each counted once.
    """

    candidates: tuple[Candidate, ...]
    chosen: int | None
    tokens: int

    @property
    def answer(self) -> str | None:
        """Of the chosen candidate; None without one."""
        return None if self.chosen is None else self.candidates[self.chosen].answer

    @property
    def finals(self) -> tuple[Candidate, ...]:
        """The candidates that may be chosen."""
        return tuple(candidate for candidate in self.candidates if candidate.is_final)


def choose_best(candidates: Sequence[Candidate]) -> int | None:
    """The final candidate with the highest score, those with an answer before those without.

    Of equal scores the first is taken.

    Returns:
        Its index; None if no final candidate has a score.
    """
    finals = [i for i, candidate in enumerate(candidates) if candidate.is_final]
    answering = [i for i in finals if candidates[i].answer is not None]
    best = _best(candidates, answering)
    return _best(candidates, finals) if best is None else best


def choose_weighted(candidates: Sequence[Candidate]) -> int | None:
    """The best candidate of the answer with the highest sum of scores.

    Of equal sums the answer that was given first is taken; without any answer the best candidate.

    Returns:
        Its index; None if no final candidate has a score.
    """
    voters = _voters(candidates, [candidate.score for candidate in candidates])
    return _best(candidates, voters) if voters else choose_best(candidates)


def choose_majority(candidates: Sequence[Candidate]) -> int | None:
    """The first candidate of the answer that most of the final ones give; scores do not count.

    Of equally frequent answers the one that was given first is taken.

    Returns:
        Its index; None if there is no answer.
    """
    voters = _voters(candidates, [1.0] * len(candidates))
    return voters[0] if voters else None


def _voters(candidates: Sequence[Candidate], weights: Sequence[float | None]) -> list[int]:
    """Who votes for the answer that wins; empty if nobody votes."""
    groups = group_answers([c.answer if c.is_final else None for c in candidates])
    won = vote(groups, weights)
    return [i for i, group in enumerate(groups) if won is not None and group == won]


def _best(candidates: Sequence[Candidate], among: Sequence[int]) -> int | None:
    return best_scored([candidate.score for candidate in candidates], among)


def record_of(problem: Problem, result: SearchResult) -> dict[str, Any]:
    """A line of the results.

    Returns:
        ``id, question, reference, outcome, answer, chosen, correct, ways, oracle, tokens`` and
        ``candidates``, each with the fields of `Candidate` and ``correct``. ``ways`` says of
        ``first``, ``majority``, ``best`` and ``weighted`` whether the candidate that each takes is
        correct; ``oracle`` whether any final one is.
    """
    answers = {candidate.answer for candidate in result.candidates}
    right = {answer for answer in answers if same_answer(problem.answer, answer)}
    finals = [i for i, candidate in enumerate(result.candidates) if candidate.is_final]
    ways = {
        "first": finals[0] if finals else None,
        "majority": choose_majority(result.candidates),
        "best": choose_best(result.candidates),
        "weighted": choose_weighted(result.candidates),
    }
    correct = [candidate.answer in right for candidate in result.candidates]
    was_refused = result.chosen is None and any(result.candidates[i].note for i in finals)
    outcome = NO_ANSWER if result.answer is None else ANSWERED
    return _head(problem) | {
        "outcome": NOT_SCORED if was_refused else outcome,
        "message": next((c.note for c in result.finals if c.note), ""),
        "answer": result.answer,
        "chosen": result.chosen,
        "correct": result.answer in right,
        "ways": {way: i is not None and correct[i] for way, i in ways.items()},
        "oracle": any(correct[i] for i in finals),
        "tokens": result.tokens,
        "candidates": [
            asdict(candidate) | {"correct": is_right}
            for candidate, is_right in zip(result.candidates, correct, strict=True)
        ],
    }


def refused(problem: Problem, message: str) -> dict[str, Any]:
    """The line of a problem that the generator refuses: nulls, and what it said."""
    unknown = dict.fromkeys(("answer", "chosen", "correct", "ways", "oracle"))
    return (
        _head(problem)
        | {"outcome": NOT_WRITTEN, "message": message}
        | unknown
        | {"tokens": 0, "candidates": []}
    )


class Figures:
    """Counts over records, as they come.

    Args:
        method: that made them, which says what the chosen candidate is.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self.outcomes: Counter[str] = Counter()
        self._correct: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        self._tokens = 0

    @property
    def problems(self) -> int:
        """How many records were added."""
        return self.outcomes.total()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one; a failure counts as such and in no accuracy."""
        self.outcomes[record["outcome"]] += 1
        self._tokens += record["tokens"]
        if record["outcome"] in COUNTED:
            ways = {**record["ways"], "oracle": record["oracle"]}
            self._correct.update({way: int(right) for way, right in ways.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; accuracies are null where no problem counts."""
        counted = self._counted
        accuracy = {way: n / counted if counted else None for way, n in self._correct.items()}
        return {
            "problems": self.problems,
            "outcomes": dict(self.outcomes),
            "counted": counted,
            "chosen_by": self._chosen_by,
            "correct": dict(self._correct),
            "accuracy": accuracy,
            "tokens": self._tokens,
        }

    def lines(self, left_out: Mapping[str, int]) -> list[str]:
        """A table for a person.

        Args:
            left_out: rows of the input that are no problems, by reason.
        """
        counted = self._counted
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes.most_common())
        lines = [f"problems   {self.problems}: {outcomes}"]
        if left_out:
            reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            lines.append(f"left out   {reasons}")
        each = self._tokens / max(1, self.problems)
        lines += [f"tokens     {self._tokens}, {each:.0f} a problem", ""]
        for way, name in self._names().items():
            share = f"{self._correct[way] / counted:.3f}" if counted else "  –  "
            mark = "*" if way == self._chosen_by else " "
            lines.append(f"{name:24} {mark} {share}   {self._correct[way]} of {counted}")
        return [*lines, "* is the answer of this search", ""]

    @property
    def _counted(self) -> int:
        return sum(self.outcomes[outcome] for outcome in COUNTED)

    @property
    def _chosen_by(self) -> str:
        return "weighted" if self._method == "weighted_majority" else "best"

    def _names(self) -> dict[str, str]:
        first = "first sample (pass@1)" if self._method in SAMPLING else "first to finish"
        return {
            "first": first,
            "majority": "majority",
            "best": "highest score",
            "weighted": "weighted majority",
            "oracle": "oracle (any correct)",
        }


def _head(problem: Problem) -> dict[str, Any]:
    return {"id": problem.id, "question": problem.question, "reference": problem.answer}
