"""Which of several answers to take: by their number, by their scores, or by both."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prm_lightning.answers import answer_key

TIE = 1e-9  # weights that differ by less, relatively, are equal


def group_answers(answers: Sequence[str | None]) -> list[int]:
    """Number answers so that the same ones have the same number, from 0 in order.

    Answers are the same if their keys are (see `answers.answer_key`), whatever their order; None
    and a blank answer have the number -1.

    Examples:
        >>> group_answers(["18", "20", "$18.00", None])
        [0, 1, 0, -1]
    """
    keys = [answer_key(answer) for answer in answers]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(filter(None, keys)))}
    return [-1 if key is None else numbers[key] for key in keys]


def vote(groups: Sequence[int], weights: Sequence[float | None]) -> int | None:
    """The group with the greatest sum of weights; of equal ones the one that comes first.

    Weights of 1 are a majority vote (Wang et al. 2023, "Self-consistency", arXiv:2203.11171), the
    scores of a reward model a weighted one (Li et al. 2023, "DiVeRSe", arXiv:2206.02336).

    Args:
        groups: of each sample, as from `group_answers`; -1 has no vote.
        weights: of each sample, >= 0; None has no vote.

    Returns:
        A group, or None if nobody votes.

    Examples:
        >>> vote([0, 1, 0, -1], [0.5, 0.75, 0.5, 1.0])
        0
    """
    votes: dict[int, list[float]] = {}
    for group, weight in zip(groups, weights, strict=True):
        if group >= 0 and weight is not None:
            votes.setdefault(group, []).append(weight)
    sums = {group: math.fsum(given) for group, given in votes.items()}
    most = max(sums.values(), default=0.0)
    return next((group for group, total in sums.items() if total >= most * (1 - TIE)), None)


def best_scored(scores: Sequence[float | None], among: Sequence[int]) -> int | None:
    """The index with the highest score; of equal ones the one that comes first.

    Args:
        scores: of all; None is never taken.
        among: the indices that may be taken.

    Examples:
        >>> best_scored([0.25, None, 0.75, 0.75], among=[0, 1, 2, 3])
        2
    """
    scored = {i: score for i in among if (score := scores[i]) is not None}
    return max(scored, key=lambda i: scored[i]) if scored else None  # `max` takes the first
