"""Bootstrap intervals over problems: solutions of one problem are drawn together, never apart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from prm_lightning.modeling.scored_steps import Draws, Floats, number_in_order

LEVEL = 0.95
UNDEFINED = "–"


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

    def to_json(self) -> dict[str, float | None]:
        """``value``, ``low`` and ``high``; null where undefined, since JSON knows no NaN."""
        return {name: None if math.isnan(x) else x for name, x in self._asdict().items()}

    def __str__(self) -> str:
        """Such as ``0.328 [0.291, 0.366]``; the value alone where there is no interval."""
        if math.isnan(self.low):
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


def show(value: float) -> str:
    """Three digits; a dash where undefined."""
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"


def draw_problems(problems: Sequence[Hashable], resamples: int, seed: int) -> Draws:
    """Draw problems with replacement, as many as there are, again and again.

    Args:
        problems: the problem of each item, by any key.
        resamples: R >= 0.
        seed: the same seed and problems give the same draws, for every model that is measured.

    Source: the cluster bootstrap, Davison and Hinkley 1997, "Bootstrap Methods and their
    Application", section 3.8.
    """
    of_items = number_in_order(problems)
    count = int(of_items.max(initial=-1)) + 1
    drawn = np.ones((1, count))
    if count > 1 and resamples:  # of one problem there is nothing to draw
        rng = np.random.default_rng(seed)
        again = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        drawn = np.concatenate([drawn, again.astype(np.float64)])
    return Draws(drawn, of_items)


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
