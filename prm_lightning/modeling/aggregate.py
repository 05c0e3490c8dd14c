"""One score of a solution from the scores of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from prm_lightning.types import Aggregation

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """Make one number of the probabilities of a solution's steps.

    Args:
        scores: P(correct) of each step, in [0, 1]; at least one.
        how: the least, the product, the last, the mean or the geometric mean.

    Returns:
        In [0, 1].

    Raises:
        ValueError: there are no scores, or there is no such aggregation.

    >>> [aggregate([0.5, 0.25, 0.75], how) for how in ("min", "prod", "last", "mean")]
    [0.25, 0.09375, 0.75, 0.5]
    """
    if not scores:
        raise ValueError("aggregate: a solution without steps has no score; leave it out.")
    if how == "min":
        return min(scores)
    if how == "prod":
        return math.prod(scores)
    if how == "last":
        return scores[-1]
    if how == "mean":
        return math.fsum(scores) / len(scores)
    if how == "geomean":
        return math.exp(math.fsum(map(_log, scores)) / len(scores))
    raise ValueError(f"aggregate: {how!r} is none of {', '.join(AGGREGATIONS)}.")


def _log(score: float) -> float:
    return math.log(score) if score > 0 else -math.inf
