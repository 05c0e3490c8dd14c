"""Results of searches as records, and how often each way to choose was right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prm_lightning.answers import same_answer
from prm_lightning.labelling.problems import Problem
from prm_lightning.searching.search_result import (
    SearchResult,
    choose_best,
    choose_majority,
    choose_weighted,
)

ANSWERED = "answered"
NO_ANSWER = "no answer"
NOT_SCORED = "refused by the scorer"
NOT_WRITTEN = "refused by the generator"
COUNTED = (ANSWERED, NO_ANSWER)  # outcomes that accuracies are of
SAMPLING = ("best_of_n", "weighted_majority")


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
        self._outcomes: Counter[str] = Counter()
        self._correct: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        self._tokens = 0

    @property
    def problems(self) -> int:
        """How many records were added."""
        return self._outcomes.total()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one; a failure counts as such and in no accuracy."""
        self._outcomes[record["outcome"]] += 1
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
            "outcomes": dict(self._outcomes),
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
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in self._outcomes.most_common())
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
        return sum(self._outcomes[outcome] for outcome in COUNTED)

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
