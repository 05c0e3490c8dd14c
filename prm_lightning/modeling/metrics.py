"""How good step scores are: verdicts on steps, ranking, calibration, first errors, pairs.

In: `StepScores`. Out: a number per metric, for training, or one per bootstrap resample, for
`evaluate`; both come from the same functions. Next: training/module.py logs what `measure` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, ndtr

from prm_lightning.modeling.aggregate import aggregate, choose_aggregation, order_pairs
from prm_lightning.modeling.scored_steps import (
    Draws,
    Floats,
    Indices,
    StepScores,
    divide,
    undrawn,
)
from prm_lightning.types import ALL_CORRECT, Aggregation

LOWER_IS_BETTER = ("loss", "brier", "ece")
CALIBRATION_BINS = 15
AT_ONCE = 4_000_000  # entries of one (resamples, steps) matrix
CANDIDATES = 1024  # thresholds that are tried
SMALLEST_WIDTH = 1e-6  # of smoothing, in log-odds
POSITIONS = 8  # step positions that are reported one by one; all later ones are taken together
POSITION_NAMES = (*map(str, range(1, POSITIONS + 1)), f"{POSITIONS + 1}_and_later")
POSITION_METRICS = ("steps", "error_share", "accuracy", "balanced_accuracy", "auroc")
SOURCE_METRICS = (
    "steps", "accuracy", "error_f1", "auroc",
    "processbench_f1", "processbench_wrong", "processbench_right",
)  # fmt: skip


def measure(
    scores: StepScores,
    source_names: Sequence[str] = (),
    threshold: float | None = None,
    aggregation: Aggregation | None = None,
) -> dict[str, float]:
    """Every metric of a set of scored steps.

    Those of `measure_steps` and `measure_solutions`; ``threshold``, the one given, or the best for
    ProcessBench F1 on these data (`fit_threshold`); ``pair_accuracy/<aggregation>`` for each
    aggregation; ``source/<name>/`` and ``position/<1 to 8, 9_and_later>/``, for some metrics.

    Args:
        scores: any number of steps, none too.
        source_names: in the order of ``scores.sources``.
        threshold: None fits one.
        aggregation: of ``pair_accuracy``; None takes the one that orders most pairs rightly.

    Returns:
        Numbers under keys that depend on `source_names` alone. What the data leave undefined
        (AUROC of one class, ProcessBench F1 without right or without wrong solutions, anything of
        no steps) is NaN, never 0: leave NaN out of logs.

    Raises:
        ValueError: a score is NaN.
    """
    _refuse_nan(scores)
    if threshold is None:
        threshold = fit_threshold(scores)
    chosen, by_aggregation = choose_aggregation(*_attempts(scores))
    aggregation = aggregation or chosen
    counts = undrawn(scores.problems)
    metrics = {
        "threshold": threshold,
        **_first(measure_part(scores, threshold, counts, aggregation)),
        **{f"pair_accuracy/{how}": value for how, value in by_aggregation.items()},
    }
    for index, name in enumerate(source_names):
        mine = scores.select(scores.sources == index)
        part = _first(measure_part(mine, threshold, counts, aggregation))
        metrics |= {f"source/{name}/{key}": part[key] for key in SOURCE_METRICS}
    for name, steps in split_by_position(scores.supervised).items():
        part = _first(measure_steps(steps, threshold, counts))
        metrics |= {f"position/{name}/{key}": part[key] for key in POSITION_METRICS}
    return metrics


def measure_part(
    scores: StepScores, threshold: float | None, counts: Floats, aggregation: Aggregation = "min"
) -> dict[str, Floats]:
    """The metrics of `measure` without those of sources and positions, for every resample.

    Args:
        scores: any number of steps.
        threshold: steps below it are flagged; None leaves out what is measured at it.
        counts: ``(R + 1, P)`` as in `Draws`; every metric is ``(R + 1,)``.
        aggregation: of ``pair_accuracy``.
    """
    steps = measure_steps(scores.supervised, threshold, counts)
    return {**steps, **measure_solutions(scores, threshold, counts, aggregation)}


def split_by_position(steps: StepScores) -> dict[str, StepScores]:
    """Steps by their place in the solution: ``1`` to ``8`` and ``9_and_later``."""
    places = np.minimum(steps.positions, POSITIONS)
    return {name: steps.select(places == place) for place, name in enumerate(POSITION_NAMES)}


def measure_steps(steps: StepScores, threshold: float | None, counts: Floats) -> dict[str, Floats]:
    """Metrics that take steps one by one; arguments as for `measure_part`.

    A step counts once, whatever its weight; a label >= 0.5 counts as correct. A step is flagged as
    wrong if P(correct) < 0.5, or the threshold if the name says so. Wrong steps are the positive
    class of every ``error_`` metric.

    * ``steps``, how many; ``error_share``; ``majority_accuracy`` of naming the commoner class.
    * `judge_flags`, and ``error_f1_at_threshold``; `measure_ranking`.
    * ``brier``, against the label's value; ``ece``, see `calibration_error`.
    """
    p, labels = steps.probabilities, steps.labels
    wrong = labels < 0.5
    draws = Draws(counts, steps.problems)
    share = draws.mean(wrong)
    metrics = {
        "steps": draws.total(np.ones(len(p))),
        "error_share": share,
        "majority_accuracy": np.maximum(share, 1 - share),
        **judge_flags(p < 0.5, wrong, draws),
        **measure_ranking(p, wrong, draws),
        "brier": draws.mean(np.square(p - labels)),
        "ece": calibration_error(p, labels, draws),
    }
    if threshold is not None:
        metrics["error_f1_at_threshold"] = judge_flags(p < threshold, wrong, draws)["error_f1"]
    return metrics


def judge_flags(
    flagged: NDArray[np.bool_], wrong: NDArray[np.bool_], draws: Draws
) -> dict[str, Floats]:
    """Accuracy, and precision, recall and F1 of errors, ``(R + 1,)`` each; NaN where 0 / 0."""
    hits, misses = draws.total(flagged & wrong), draws.total(~flagged & wrong)
    alarms, passes = draws.total(flagged & ~wrong), draws.total(~flagged & ~wrong)
    recall = divide(hits, hits + misses)
    return {
        "accuracy": divide(hits + passes, hits + misses + alarms + passes),
        "balanced_accuracy": (recall + divide(passes, passes + alarms)) / 2,
        "error_precision": divide(hits, hits + alarms),
        "error_recall": recall,
        "error_f1": divide(2 * hits, 2 * hits + misses + alarms),
    }


def measure_ranking(
    probabilities: Floats, wrong: NDArray[np.bool_], draws: Draws
) -> dict[str, Floats]:
    """``auroc`` and ``error_ap``, average precision of errors; NaN where a class is missing.

    Equal probabilities count half in AUROC and are one point of average precision.
    """
    if not len(probabilities):
        undefined = np.full(len(draws.counts), np.nan)
        return {"auroc": undefined, "error_ap": undefined}
    order = np.argsort(probabilities, kind="stable")
    wrong, values, problems = wrong[order], probabilities[order], draws.problems[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    auroc, precision = [], []
    at_once = max(1, AT_ONCE // len(values))
    for start in range(0, len(draws.counts), at_once):
        drawn = draws.counts[start : start + at_once][:, problems]  # (C, N)
        bad = np.add.reduceat(drawn * wrong, starts, axis=1)  # (C, distinct values), ascending
        good = np.add.reduceat(drawn * ~wrong, starts, axis=1)
        below = np.cumsum(bad, axis=1)
        all_bad, all_good = below[:, -1], good.sum(axis=1)
        pairs = (good * (below - bad / 2)).sum(axis=1)
        auroc.append(divide(pairs, all_bad * all_good))
        flagged = np.cumsum(bad + good, axis=1)
        found = (bad * np.nan_to_num(divide(below, flagged))).sum(axis=1)
        precision.append(divide(found, all_bad))
    return {"auroc": np.concatenate(auroc), "error_ap": np.concatenate(precision)}


def calibration_error(probabilities: Floats, labels: Floats, draws: Draws) -> Floats:
    """Mean distance of P(correct) from the share of correct steps, in 15 equal bins of P(correct).

    ``(R + 1,)`` in [0, 1] for ``(N,)`` steps, of which labels >= 0.5 count as correct.

    Source: Guo et al. 2017, arXiv:1706.04599; here of P(correct), not of the likelier class.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(edges, probabilities, side="right")
    gaps = probabilities - (labels >= 0.5)
    inside = [draws.total(gaps * (bins == number)) for number in range(CALIBRATION_BINS)]
    return divide(np.abs(inside).sum(axis=0), draws.total(np.ones(len(labels))))


def measure_solutions(
    scores: StepScores, threshold: float | None, counts: Floats, aggregation: Aggregation = "min"
) -> dict[str, Floats]:
    """Metrics that take solutions whole; arguments as for `measure_part`.

    * all ``solutions``; those ``cut_before_error``, which are in none of the last three lines.
    * ``lowest_at_last``: share of solutions whose lowest score is that of their last step; of
      equal scores the earliest is the lowest.
    * ``processbench_f1`` with its halves ``_wrong`` and ``_right``, at the threshold, and
      ``processbench_f1_at_0.5`` and so on; see `measure_first_errors`.
    * ``first_error_match``: share of solutions, wrong and right together, whose first flagged step
      is the first error, or that have neither.
    * `measure_pairs`.
    """
    starts, ends = scores.starts, scores.ends
    solutions = Draws(counts, scores.problems[starts])
    lowest = [
        np.argmin(scores.probabilities[start:end]) == end - start - 1
        for start, end in zip(starts, ends, strict=True)
    ]
    halves = measure_first_errors(scores, 0.5, counts)
    metrics = {
        "solutions": solutions.total(np.ones(len(starts))),
        "cut_before_error": solutions.total(scores.first_errors[starts] >= ends - starts),
        "lowest_at_last": solutions.mean(np.array(lowest, bool)),
        "first_error_match": halves.pop("match"),
        **{f"processbench_{name}_at_0.5": values for name, values in halves.items()},
        **measure_pairs(*_attempts(scores), counts, aggregation),
    }
    if threshold is not None:
        halves = measure_first_errors(scores, threshold, counts)
        metrics |= {f"processbench_{name}": halves[name] for name in ("f1", "wrong", "right")}
    return metrics


def measure_pairs(
    scores: Sequence[Sequence[float]],
    right: NDArray[np.bool_],
    problems: Indices,
    counts: Floats,
    aggregation: Aggregation,
) -> dict[str, Floats]:
    """Share of the pairs of a right and a wrong attempt at a problem that are ordered rightly.

    ``pair_accuracy``, and ``pair_accuracy_same_length`` of those with equally many steps,
    ``(R + 1,)`` each; ties count half, NaN without pairs.

    Args:
        scores: see `choose_aggregation`, as `right` and `problems`.
        counts: ``(R + 1, P)`` as in `Draws`.
        aggregation: makes one score of an attempt.
    """
    values = np.array([aggregate(row, aggregation) for row in scores], np.float64)
    lengths = np.array([len(row) for row in scores], np.int64)
    metrics = {}
    for name, same in (("pair_accuracy", None), ("pair_accuracy_same_length", lengths)):
        of, won, compared = order_pairs(values, right, problems, same)
        metrics[name] = divide(counts[:, of] @ won, counts[:, of] @ compared)
    return metrics


def first_error_windows(
    scores: StepScores,
) -> tuple[Floats, Floats, NDArray[np.bool_], Indices]:
    """The thresholds at which each solution's first flagged step is its first error.

    With scores p and first error e they are ``p_e < t <= min(p_0 .. p_{e-1})``; for a right
    solution, in which nothing may be flagged, ``t <= min(p)``.

    Returns:
        Of the K solutions whose first error is known and was not cut off, ``(K,)`` each: lower
        ends, excluded; upper ends, included, and equal to the lower if no threshold does it;
        whether the solution is wrong; its problem.
    """
    starts = scores.starts
    if not len(starts):
        return np.zeros(0), np.zeros(0), np.zeros(0, bool), starts
    step_counts = scores.ends - starts
    errors = scores.first_errors[starts]
    wrong = errors >= 0
    before = scores.positions < np.repeat(np.where(wrong, errors, step_counts), step_counts)
    high = np.minimum.reduceat(np.where(before, scores.probabilities, np.inf), starts)
    at_error = scores.probabilities[starts + np.clip(errors, 0, step_counts - 1)]
    low = np.where(wrong, at_error, -np.inf)
    known = (errors >= ALL_CORRECT) & (errors < step_counts)
    return low[known], np.maximum(low, high)[known], wrong[known], scores.problems[starts[known]]


def measure_first_errors(scores: StepScores, threshold: float, counts: Floats) -> dict[str, Floats]:
    """Exact match of the first error on wrong solutions, on right ones, and their harmonic mean.

    A solution is right if every step is labelled correct, whatever its final answer is. One whose
    first error is unknown or was cut off counts in neither half.

    Arguments as for `measure_part`. Returns ``(R + 1,)`` each: ``f1`` (NaN without solutions of
    either kind, 0 if both halves are 0), ``wrong``, ``right``, and ``match``, over both kinds.

    Source: ProcessBench F1 as in Zheng et al. 2024, arXiv:2412.06559.
    """
    low, high, wrong, problems = first_error_windows(scores)
    found = (low < threshold) & (high >= threshold)
    shares = {
        name: Draws(counts, problems[half]).mean(found[half])
        for name, half in (("wrong", wrong), ("right", ~wrong), ("match", wrong | ~wrong))
    }
    return {"f1": _harmonic_mean(shares["wrong"], shares["right"]), **shares}


def _harmonic_mean(a: Floats, b: Floats) -> Floats:
    """Of shares, elementwise; 0 if both are 0, NaN if either is NaN."""
    return np.where(a + b == 0, 0.0, divide(2 * a * b, a + b))


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
        eq. 3.31; docs/experiments.md compares the threshold with the highest step.
    """
    low, high, wrong, _ = first_error_windows(scores)
    if wrong.all() or not wrong.any():
        return 0.5
    ends = np.concatenate([low, high])[np.tile(low < high, 2)]
    inner = ends[(ends > 0) & (ends < 1)]
    ends = np.unique(np.r_[0.0, inner, 1.0])
    thresholds = (ends[1:] + ends[:-1]) / 2
    some = np.linspace(0, len(thresholds) - 1, min(len(thresholds), CANDIDATES))
    thresholds = thresholds[some.round().astype(int)]
    low, high = logit(np.maximum(low, 0)), logit(np.minimum(high, 1))
    width = _silverman_width(logit(inner), len(low))

    def smoothed_f1(center: float) -> float:
        inside = ndtr((high - center) / width) - ndtr((low - center) / width)
        return float(_harmonic_mean(inside[wrong].mean(), inside[~wrong].mean()))

    f1 = np.array([smoothed_f1(center) for center in logit(thresholds)])
    distance = np.where(f1 >= f1.max() - 1e-9, np.abs(thresholds - 0.5), np.inf)
    return float(thresholds[distance.argmin()])


def _silverman_width(values: Floats, count: int) -> float:
    """Of the kernel that smooths `count` observations with these values; above 0."""
    if len(values) < 2:
        return SMALLEST_WIDTH
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(ddof=1), (three_quarters - quarter) / 1.34)
    return max(float(0.9 * spread * count**-0.2), SMALLEST_WIDTH)


def majority_scores(scores: StepScores) -> StepScores:
    """The scores of a scorer that knows only the share of correct steps, and gives it to each step.

    So each gets the verdict of the commoner class; AUROC is 0.5 and ProcessBench F1 is 0.
    """
    correct = scores.supervised.labels >= 0.5
    share = correct.mean() if len(correct) else 0.5
    return scores._replace(probabilities=np.full(len(scores.probabilities), share))


def _attempts(scores: StepScores) -> tuple[list[list[float]], NDArray[np.bool_], Indices]:
    """Scores, outcome and problem of each solution whose first error is known and not cut off."""
    starts, ends = scores.starts, scores.ends
    errors = scores.first_errors[starts]
    known = (errors >= ALL_CORRECT) & (errors < ends - starts)
    rows = [
        scores.probabilities[start:end].tolist()
        for start, end in zip(starts[known], ends[known], strict=True)
    ]
    return rows, errors[known] == ALL_CORRECT, scores.problems[starts[known]]


def _first(metrics: Mapping[str, Floats]) -> dict[str, float]:
    """The values of the data themselves."""
    return {name: float(values[0]) for name, values in metrics.items()}


def _refuse_nan(scores: StepScores) -> None:
    broken = np.isnan(scores.probabilities)
    if broken.any():
        where = int(broken.argmax())
        raise ValueError(
            f"measure: {int(broken.sum())} of {len(broken)} step scores are NaN, first at step "
            f"{int(scores.positions[where]) + 1} of solution {int(scores.solutions[where])}; "
            "lower the learning rate or train in higher precision."
        )
