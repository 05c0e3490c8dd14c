"""First errors: which thresholds find them, and the one that a model ships with.

In: `StepScores`. Out: ProcessBench F1 with its halves, and a threshold. Next: metrics.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prm_lightning.modeling.scored_steps import Draws, Floats, Indices, StepScores, harmonic_mean
from prm_lightning.types import ALL_CORRECT

CANDIDATES = 1024  # thresholds that are tried
SMALLEST_WIDTH = 1e-6  # of smoothing, in log-odds


class Windows(NamedTuple):
    """The thresholds at which each solution's first flagged step is its first error.

    Args:
        low: ``(K,)`` float64 lower ends, excluded.
        high: ``(K,)`` float64 upper ends, included; equal to `low` if no threshold does it.
        wrong: ``(K,)`` bool, whether the solution is wrong.
        problems: ``(K,)`` int64.
    """

    low: Floats
    high: Floats
    wrong: NDArray[np.bool_]
    problems: Indices


def first_error_windows(scores: StepScores) -> Windows:
    """`Windows` of the K solutions whose first error is known and was not cut off.

    With scores p and first error e a window is ``p_e < t <= min(p_0 .. p_{e-1})``; for a right
    solution, in which nothing may be flagged, it is ``t <= min(p)``.
    """
    starts = scores.starts
    if not len(starts):
        nothing = np.zeros(0)
        return Windows(nothing, nothing, nothing > 0, starts)
    step_counts = scores.ends - starts
    errors = scores.first_errors[starts]
    wrong = errors >= 0
    stops = np.where(wrong, errors, step_counts)
    before = scores.positions < np.repeat(stops, step_counts)
    high = np.minimum.reduceat(np.where(before, scores.probabilities, np.inf), starts)
    at_error = scores.probabilities[starts + np.clip(errors, 0, step_counts - 1)]
    low = np.where(wrong, at_error, -np.inf)
    known = (errors >= ALL_CORRECT) & (errors < step_counts)
    windows = Windows(low, np.maximum(low, high), wrong, scores.problems[starts])
    return Windows._make(column[known] for column in windows)


def fit_threshold(scores: StepScores) -> float:
    """The threshold in (0, 1) with the best smoothed ProcessBench F1 on these solutions.

    F1 as a function of the threshold is a staircase, whose highest step is as often luck as not
    where solutions are few. So each half is averaged over thresholds nearby: over a normal
    distribution of the threshold's log-odds, whose width is Silverman's for the ends of
    `first_error_windows` and shrinks as solutions grow many. Tried are the midpoints between
    neighbouring ends, at most `CANDIDATES` of them, evenly taken. Of equally good ones the one
    nearest 0.5 is taken, of two as near the lower. Without right or without wrong solutions there
    is nothing to fit, and it is 0.5.

    Source: the width is Silverman 1986, "Density Estimation for Statistics and Data Analysis",
        eq. 3.31. On data that the threshold was not fitted on it was never worse than the highest
        step in simulations of 40, 90 and 400 solutions, see docs/experiments.md.
    """
    windows = first_error_windows(scores)
    if windows.wrong.all() or not windows.wrong.any():
        return 0.5
    low, high, wrong = (torch.from_numpy(column) for column in windows[:3])
    ends = torch.cat([low, high])[(low < high).repeat(2)]
    inner = ends[(ends > 0) & (ends < 1)]
    ends = torch.unique(torch.cat([inner, ends.new_tensor([0.0, 1.0])]))
    thresholds = (ends[1:] + ends[:-1]) / 2
    some = torch.linspace(0, len(thresholds) - 1, min(len(thresholds), CANDIDATES))
    thresholds = thresholds[some.round().long()]
    low, high = low.clamp(min=0).logit(), high.clamp(max=1).logit()
    width = _silverman_width(inner.logit().numpy(), len(low))
    f1 = np.array([_smoothed_f1(low, high, wrong, t, width) for t in thresholds.logit().tolist()])
    distance = np.where(f1 >= f1.max() - 1e-9, np.abs(thresholds.numpy() - 0.5), np.inf)
    return float(thresholds[int(distance.argmin())])


def _silverman_width(values: Floats, count: int) -> float:
    """Of the kernel that smooths `count` observations with these values; above 0."""
    if len(values) < 2:
        return SMALLEST_WIDTH
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(ddof=1), (three_quarters - quarter) / 1.34)
    return max(float(0.9 * spread * count**-0.2), SMALLEST_WIDTH)


def _smoothed_f1(low: Tensor, high: Tensor, wrong: Tensor, center: float, width: float) -> float:
    """ProcessBench F1 with both halves averaged over normal thresholds; all in log-odds."""
    below_high, below_low = (torch.special.ndtr((end - center) / width) for end in (high, low))
    inside = below_high - below_low
    a, b = inside[wrong].mean().item(), inside[~wrong].mean().item()
    return 2 * a * b / (a + b) if a + b else 0.0


def measure_first_errors(scores: StepScores, threshold: float, counts: Floats) -> dict[str, Floats]:
    """Exact match of the first error on wrong solutions, on right ones, and their harmonic mean.

    A solution is right if every step is labelled correct, whatever its final answer is. One whose
    first error is unknown or was cut off counts in neither half.

    Args:
        scores: any number of steps.
        threshold: a step is flagged if its score is below it.
        counts: ``(R + 1, P)`` as in `Draws`.

    Returns:
        ``(R + 1,)`` each: ``f1`` (NaN without solutions of either kind, 0 if both halves are 0),
        ``wrong``, ``right``, and ``match``, over both kinds together.
    """
    low, high, wrong, problems = first_error_windows(scores)
    found = (low < threshold) & (high >= threshold)
    shares = {
        name: Draws(counts, problems[half]).mean(found[half])
        for name, half in (("wrong", wrong), ("right", ~wrong), ("match", wrong | ~wrong))
    }
    return {"f1": harmonic_mean(shares["wrong"], shares["right"]), **shares}
