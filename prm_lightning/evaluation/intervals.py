"""Bootstrap intervals over problems: solutions of one problem are drawn together, never apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEVEL = 0.95


class Estimate(NamedTuple):
    """A figure and its 95 % interval.

    Args:
        value: of the data themselves; NaN where they leave it undefined.
        low: 2.5 % quantile of the resamples; NaN where there is no interval.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float


class Draws(NamedTuple):
    """How often each of P problems stands in the data and in R resamples of them.

    Args:
        counts: ``(R + 1, P)`` float64; row 0 is all ones, the data themselves.
        problems: ``(N,)`` int64 in [0, P), the problem of each of N items.
    """

    counts: Floats
    problems: Indices

    def select(self, chosen: NDArray[np.bool_]) -> Draws:
        """The same draws, of some of the items."""
        return Draws(self.counts, self.problems[chosen])

    def total(self, values: NDArray[np.generic]) -> Floats:
        """``(R + 1,)`` sums over the items drawn, of ``(N,)`` values."""
        per_problem = np.bincount(
            self.problems, weights=values.astype(np.float64), minlength=self.counts.shape[1]
        )
        return self.counts @ per_problem

    def mean(self, values: NDArray[np.generic]) -> Floats:
        """``(R + 1,)`` means over the items drawn; NaN where none is."""
        return divide(self.total(values), self.total(np.ones(len(self.problems))))


def draw_problems(problems: Sequence[Hashable], resamples: int, seed: int) -> Draws:
    """Draw problems with replacement, as many as there are, again and again.

    Args:
        problems: the problem of each item, by any key.
        resamples: R >= 0.
        seed: the same seed and problems give the same draws, for every model that is measured.

    Source: the cluster bootstrap, Davison and Hinkley 1997, "Bootstrap Methods and their
    Application", section 3.8.
    """
    numbers: dict[Hashable, int] = {}
    of_items = [numbers.setdefault(problem, len(numbers)) for problem in problems]
    count = len(numbers)
    drawn = np.ones((1, count))
    if count > 1 and resamples:  # of one problem there is nothing to draw
        rng = np.random.default_rng(seed)
        again = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        drawn = np.concatenate([drawn, again.astype(np.float64)])
    return Draws(drawn, np.array(of_items, np.int64))


def summarise(replicates: Floats) -> Estimate:
    """Value and percentile interval of a statistic.

    Args:
        replicates: ``(R + 1,)``, that of the data themselves first. A resample that leaves the
            statistic undefined (NaN) is left out.
    """
    value, resampled = float(replicates[0]), replicates[1:]
    resampled = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(resampled):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise; NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def harmonic_mean(a: Floats, b: Floats) -> Floats:
    """Of shares in [0, 1], elementwise; 0 if both are 0, NaN if either is NaN."""
    return np.where(a + b == 0, 0.0, divide(2 * a * b, a + b))
