"""One score of a solution from the scores of its steps, and which way to make it chooses best.

In: P(correct) of each step. Out: one number per solution. Next: metrics.py measures with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from prm_lightning.types import Aggregation

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """Make one number in [0, 1] of the probabilities of a solution's steps.

    Args:
        scores: P(correct) of each step, in [0, 1]; at least one.
        how: the least, the product, the last, the mean or the geometric mean.

    Examples:
        >>> [aggregate([0.5, 0.25, 0.75], how) for how in ("min", "prod", "last", "mean")]
        [0.25, 0.09375, 0.75, 0.5]
    """
    if not scores:
        raise ValueError("aggregate: a solution without steps has no score; leave it out.")
    if how not in AGGREGATORS:
        raise ValueError(f"aggregate: {how!r} is none of {', '.join(AGGREGATORS)}.")
    return AGGREGATORS[how](scores)


def _last(scores: Sequence[float]) -> float:
    return scores[-1]


def _geomean(scores: Sequence[float]) -> float:
    return math.exp(fmean(math.log(score) for score in scores)) if all(scores) else 0.0


# At least one probability to one number in [0, 1]; a new name goes into `types.Aggregation`, too.
AGGREGATORS: dict[Aggregation, Callable[[Sequence[float]], float]] = {
    "min": min,
    "prod": math.prod,
    "last": _last,
    "mean": fmean,
    "geomean": _geomean,
}


def choose_aggregation(
    scores: Sequence[Sequence[float]], right: NDArray[np.bool_], problems: NDArray[np.int64]
) -> tuple[Aggregation, dict[Aggregation, float]]:
    """The aggregation that orders most pairs of a right and a wrong attempt at a problem rightly.

    Args:
        scores: of the steps of each of A attempts, at least one each.
        right: ``(A,)`` whether the attempt is right.
        problems: ``(A,)`` equal for attempts at one problem.

    Returns:
        Its name, of equally good ones the first of `AGGREGATIONS`, and the pair accuracy of each;
        all are NaN where no problem has both a right and a wrong attempt.

    Examples:
        >>> attempts = [[0.9, 0.2, 0.9], [0.6, 0.6, 0.6]]  # the first one is right
        >>> choose_aggregation(attempts, np.array([True, False]), np.array([0, 0]))[0]
        'last'
    """
    accuracies: dict[Aggregation, float] = {}
    for how in AGGREGATIONS:
        values = np.array([aggregate(row, how) for row in scores], np.float64)
        _, won, compared = order_pairs(values, right, problems)
        accuracies[how] = float(won.sum() / compared.sum()) if len(compared) else math.nan
    return max(AGGREGATIONS, key=lambda how: np.nan_to_num(accuracies[how])), accuracies


def order_pairs(
    values: NDArray[np.float64],
    right: NDArray[np.bool_],
    problems: NDArray[np.int64],
    lengths: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Compare each right with each wrong attempt at the same problem.

    Takes ``(A,)`` scores of attempts, with `right` and `problems` as above; with `lengths` ``(A,)``
    only attempts of equal length are compared. Returns, of the K problems with both kinds, ``(K,)``
    each: which they are, the pairs in which the right attempt scores higher, where ties count half,
    and all pairs.
    """
    found = []
    by_problem = np.argsort(problems, kind="stable")
    for members in np.split(by_problem, np.flatnonzero(np.diff(problems[by_problem])) + 1):
        good, bad = members[right[members]], members[~right[members]]
        if not len(good) or not len(bad):
            continue
        gaps = values[good][:, None] - values[bad]  # (right, wrong)
        wins = (gaps > 0) + 0.5 * (gaps == 0)
        comparable = np.ones(gaps.shape)
        if lengths is not None:
            comparable = (lengths[good][:, None] == lengths[bad]).astype(np.float64)
        found.append((problems[good[0]], (wins * comparable).sum(), comparable.sum()))
    columns = np.array(found, np.float64).reshape(-1, 3).T
    return columns[0].astype(np.int64), columns[1], columns[2]
