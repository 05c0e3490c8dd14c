"""What a search finds, and which of its candidates to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prm_lightning.searching.voting import best_scored, group_answers, vote

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
