"""How good step scores are: verdicts on steps, ranking, calibration, and where a solution breaks.

Pure functions over `StepScores`; `StepMetrics` only gathers those over batches and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import classification as functional
from torchmetrics.utilities import dim_zero_cat

from prm_lightning.types import ALL_CORRECT, StepBatch

CALIBRATION_BINS = 15
CANDIDATES = 1024  # thresholds that are tried
SMALLEST_WIDTH = 1e-6  # of smoothing, in log-odds
POSITIONS = 8  # step positions that are reported one by one; all later ones are taken together
POSITION_METRICS = ("steps", "error_share", "accuracy", "balanced_accuracy", "auroc")
SOURCE_METRICS = ("steps", "accuracy", "error_f1", "auroc")


class StepScores(NamedTuple):
    """N scored steps; those of one solution stand together, in order, unsupervised ones included.

    Args:
        probabilities: ``(N,)`` float64 in [0, 1], P(the step is correct).
        labels: ``(N,)`` float64 in [0, 1]; read only where ``weights > 0``.
        weights: ``(N,)`` float64 >= 0.
        positions: ``(N,)`` int64, 0-based index in the solution; each 0 begins a solution.
        first_errors: ``(N,)`` int64, of the step's solution, as in `StepBatch`.
        sources: ``(N,)`` int64, index into the names of the data's sources.
        solutions: ``(N,)`` int64, index into the data.
    """

    probabilities: Tensor
    labels: Tensor
    weights: Tensor
    positions: Tensor
    first_errors: Tensor
    sources: Tensor
    solutions: Tensor


class ProcessBench(NamedTuple):
    """Exact match of the first error at one threshold.

    Args:
        threshold: a step is flagged if P(correct) is below it.
        f1: harmonic mean of `wrong` and `right`; NaN if there are none of either kind.
        wrong: share of wrong solutions whose first flagged step is their first error.
        right: share of right solutions without a flagged step.
    """

    threshold: float
    f1: float
    wrong: float
    right: float


class StepMetrics(Metric):
    """Gathers step scores over batches and ranks; `compute` gives what `measure` says.

    Args:
        source_names: report each of these sources apart; ``batch.sources`` are indices into it.
        threshold: None fits it on these very data (validation); test data want the one fitted
            on validation data. It may be set again before `compute`.
    """

    rows: list[Tensor]

    def __init__(self, source_names: Sequence[str] = (), threshold: float | None = None) -> None:
        super().__init__()
        self.source_names = tuple(source_names)
        self.threshold = threshold
        # One flat float64 state, exact for every column, takes one gather instead of seven.
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, batch: StepBatch) -> None:
        """Take in a batch, which may hold no solution.

        Args:
            logits: ``(B, S)`` float, log-odds that each step is correct; anything, NaN too,
                behind a solution's `step_counts`.
            batch: its solutions have at least one step each.

        Raises:
            ValueError: the shape differs from that of the batch's labels.
        """
        if logits.shape != batch.labels.shape:
            raise ValueError(
                f"StepMetrics: got logits of shape {tuple(logits.shape)}, expected that of the "
                f"labels, {tuple(batch.labels.shape)}; pass one logit per entry of step_nodes."
            )
        positions = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
        per_solution = (batch.first_errors, batch.sources, batch.solution_ids)
        repeated = (value[:, None].expand(logits.shape) for value in per_solution)
        # In float32 all logits above 17 would tie at a probability of 1.
        probabilities = logits.detach().double().sigmoid()
        columns = StepScores(probabilities, batch.labels, batch.weights, positions, *repeated)
        rows = torch.stack([column.double() for column in columns], dim=-1)  # (B, S, 7)
        exists = positions < batch.step_counts[:, None]
        self.rows.append(rows[exists].flatten())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the ranks' states; torchmetrics calls this."""
        # torchmetrics would let a rank without data send a float32 block, which does not match.
        if not self._is_synced:
            empty = torch.zeros(0, dtype=torch.float64, device=self.device)
            self.rows = [torch.cat([empty, *self.rows])]
        super().sync(*args, **kwargs)

    def scores(self) -> StepScores:
        """All steps seen, of all ranks; every rank has to call it."""
        with self.sync_context():
            return self._unpack()

    def compute(self) -> dict[str, Tensor]:
        """`measure` of all steps seen, of all ranks; every rank has to call it."""
        return measure(self._unpack(), self.source_names, self.threshold)

    def _unpack(self) -> StepScores:
        columns = dim_zero_cat(self.rows).view(-1, len(StepScores._fields)).unbind(1)
        return StepScores(*columns[:3], *(column.long() for column in columns[3:]))


def measure(
    scores: StepScores, source_names: Sequence[str] = (), threshold: float | None = None
) -> dict[str, Tensor]:
    """Every metric of a set of scored steps.

    A step of weight > 0 counts once, whatever its weight; a label >= 0.5 counts as correct. A step
    is flagged as wrong if P(correct) < threshold: 0.5 unless the name says otherwise. Wrong steps
    are the positive class of every ``error_`` metric.

    * ``steps`` of weight > 0; all ``solutions``; those ``cut_before_error``, which stand in no
      metric of first errors.
    * ``error_share`` of steps; ``majority_accuracy`` of always naming the commoner class.
    * ``accuracy``, ``balanced_accuracy``, ``error_precision``, ``error_recall``, ``error_f1``, and
      ``error_f1_at_threshold`` at the reported ``threshold``.
    * ``auroc``; ``error_ap``, average precision of errors; ``brier``, against the label's value;
      ``ece``, of P(correct) in 15 equal bins.
    * ``threshold``: the one given, or the best for ProcessBench F1 on these data (`fit_threshold`);
      ``processbench_f1`` there with its halves ``processbench_wrong`` and ``processbench_right``;
      the same at 0.5 as ``processbench_f1_at_0.5`` and so on.
    * ``first_error_match``: share of solutions, wrong and right together, whose first flagged step
      is the first error, or that have neither.
    * ``lowest_at_last``: share of solutions whose lowest score is that of their last step; of equal
      scores the earliest is the lowest.
    * ``source/<name>/`` and ``position/<1 to 8, 9_and_later>/``, for some of these.

    Args:
        scores: any number of steps, none too.
        source_names: in the order of ``scores.sources``.
        threshold: None fits one.

    Returns:
        Scalars, float64, under keys that depend on `source_names` alone. What the data leave
        undefined (AUROC of one class, ProcessBench F1 without right or without wrong solutions,
        anything of no steps) is NaN, never 0: leave NaN out of logs, and take its absence from
        ``processbench_f1`` as the sign to choose models by ``auroc``.

    Raises:
        ValueError: a score is NaN.

    Source: ProcessBench F1 as in Zheng et al. 2024, arXiv:2412.06559.
    """
    _refuse_nan(scores)
    solutions = pad_solutions(scores)
    steps = _select(scores, scores.weights > 0)
    if threshold is None:
        best = fit_threshold(*solutions)
    else:
        best = processbench_at(*solutions, threshold)
    flags = judge_flags(steps.probabilities < best.threshold, steps.labels < 0.5)
    metrics = {
        **measure_steps(steps.probabilities, steps.labels),
        "error_f1_at_threshold": flags["error_f1"],
        **measure_solutions(*solutions),
        "threshold": torch.tensor(best.threshold, dtype=torch.float64),
        **_name_processbench(best),
    }
    for index, name in enumerate(source_names):
        part = _measure_source(_select(scores, scores.sources == index), best.threshold)
        metrics |= {f"source/{name}/{key}": value for key, value in part.items()}
    for position in range(POSITIONS + 1):
        chosen = _select(steps, steps.positions.clamp(max=POSITIONS) == position)
        part = measure_steps(chosen.probabilities, chosen.labels)
        name = str(position + 1) if position < POSITIONS else f"{POSITIONS + 1}_and_later"
        metrics |= {f"position/{name}/{key}": part[key] for key in POSITION_METRICS}
    return {key: value.double().to(scores.weights.device) for key, value in metrics.items()}


def majority_baseline(scores: StepScores, source_names: Sequence[str] = ()) -> dict[str, Tensor]:
    """`measure` of a scorer that knows only the share of correct steps, and gives it to each step.

    So each gets the verdict of the commoner class; AUROC is 0.5 and ProcessBench F1 is 0.
    """
    correct = scores.labels[scores.weights > 0] >= 0.5
    share = correct.double().mean().nan_to_num(0.5)  # no step: every metric is NaN anyway
    constant = share.expand_as(scores.probabilities)
    return measure(scores._replace(probabilities=constant), source_names)


def measure_steps(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The metrics of `measure` that take steps one by one, for supervised ``(N,)`` steps."""
    probabilities, labels = probabilities.double(), labels.double()
    wrong = labels < 0.5
    error_share = wrong.double().mean()
    auroc = torch.full_like(error_share, torch.nan)
    if 0 < error_share < 1:
        auroc = functional.binary_auroc(probabilities, (~wrong).long())
    return {
        "steps": torch.tensor(len(labels)),
        "error_share": error_share,
        "majority_accuracy": torch.maximum(error_share, 1 - error_share),
        **judge_flags(probabilities < 0.5, wrong),
        "auroc": auroc,
        "error_ap": error_average_precision(probabilities, labels),
        "brier": (probabilities - labels).square().mean(),
        "ece": expected_calibration_error(probabilities, labels),
    }


def judge_flags(flagged: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """Accuracy, and precision, recall and F1 of errors, for ``(N,)`` bools; NaN where 0 / 0."""
    hits, misses = (flagged & wrong).sum().double(), (~flagged & wrong).sum()
    alarms, passes = (flagged & ~wrong).sum(), (~flagged & ~wrong).sum().double()
    recall = hits / (hits + misses)
    return {
        "accuracy": (hits + passes) / len(wrong),
        "balanced_accuracy": (recall + passes / (passes + alarms)) / 2,
        "error_precision": hits / (hits + alarms),
        "error_recall": recall,
        "error_f1": 2 * hits / (2 * hits + misses + alarms),
    }


def error_average_precision(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Average precision of finding the wrong ones of ``(N,)`` steps; NaN if none is wrong."""
    wrong = labels < 0.5
    if not wrong.any():
        return torch.tensor(torch.nan, device=labels.device)
    return functional.binary_average_precision(1 - probabilities.double(), wrong.long())


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean distance of P(correct) from the share of correct steps, in 15 equal bins of P(correct).

    In [0, 1] for ``(N,)`` steps, of which labels >= 0.5 count as correct; NaN if N = 0.

    Source: Guo et al. 2017, arXiv:1706.04599; here of P(correct), not of the likelier class.
    """
    probabilities = probabilities.double()
    if not len(probabilities):
        return probabilities.mean()
    # torchmetrics puts a probability of exactly 1 into a bin of its own.
    inside = probabilities.clamp(max=1 - torch.finfo(torch.float64).eps)
    correct = (labels >= 0.5).long()
    return functional.binary_calibration_error(inside, correct, n_bins=CALIBRATION_BINS, norm="l1")


def measure_solutions(
    probabilities: Tensor, step_counts: Tensor, first_errors: Tensor
) -> dict[str, Tensor]:
    """The metrics of `measure` that take solutions whole; arguments as for `fit_threshold`."""
    low, high, _ = first_error_windows(probabilities, step_counts, first_errors)
    lowest = _hide_padding(probabilities, step_counts).argmin(dim=1)
    at_half = processbench_at(probabilities, step_counts, first_errors, 0.5)
    return {
        "solutions": torch.tensor(len(step_counts)),
        "cut_before_error": (first_errors >= step_counts).sum(),
        "first_error_match": ((low < 0.5) & (high >= 0.5)).double().mean(),
        "lowest_at_last": (lowest == step_counts - 1).double().mean(),
        **{f"{name}_at_0.5": value for name, value in _name_processbench(at_half).items()},
    }


def pad_solutions(scores: StepScores) -> tuple[Tensor, Tensor, Tensor]:
    """``(B, S)`` probabilities, NaN behind a solution's end, ``(B,)`` step counts, first errors."""
    begins = scores.positions == 0
    row = begins.cumsum(0) - 1  # (N,)
    step_counts = torch.bincount(row)  # (B,)
    longest = int(step_counts.max()) if len(step_counts) else 1
    probabilities = scores.probabilities.new_full((len(step_counts), longest), torch.nan)
    probabilities[row, scores.positions] = scores.probabilities
    return probabilities, step_counts, scores.first_errors[begins]


def first_error_windows(
    probabilities: Tensor, step_counts: Tensor, first_errors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The thresholds at which each solution's first flagged step is its first error.

    With scores p and first error e these are ``p_e < t <= min(p_0 .. p_{e-1})``; for a right
    solution, in which nothing may be flagged, ``t <= min(p)``.

    Args:
        probabilities: ``(B, S)`` float in [0, 1]; anything behind a solution's steps.
        step_counts: ``(B,)`` int, at least 1.
        first_errors: ``(B,)`` int as in `StepBatch`.

    Returns:
        For the K <= B solutions whose first error is known and was not cut off: ``(K,)`` float64
        lower ends (excluded) and upper ends (included) of the windows, equal if no threshold does
        it; ``(K,)`` bool, whether the solution is wrong.
    """
    settled = (first_errors >= ALL_CORRECT) & (first_errors < step_counts)
    errors = first_errors[settled]
    probabilities, step_counts = probabilities[settled].double(), step_counts[settled]
    wrong = errors >= 0
    before = _hide_padding(probabilities, torch.where(wrong, errors, step_counts))
    high = before.amin(dim=1)
    at_error = probabilities.gather(1, errors.clamp(min=0)[:, None])[:, 0]
    low = torch.where(wrong, at_error, -torch.inf)
    return low, torch.maximum(low, high), wrong


def processbench_at(
    probabilities: Tensor, step_counts: Tensor, first_errors: Tensor, threshold: float
) -> ProcessBench:
    """ProcessBench F1 and its halves at a threshold; arguments as for `first_error_windows`."""
    low, high, wrong = first_error_windows(probabilities, step_counts, first_errors)
    match = ((low < threshold) & (high >= threshold)).double()
    halves = match[wrong].mean(), match[~wrong].mean()
    return ProcessBench(threshold, harmonic_mean(*halves).item(), *(half.item() for half in halves))


def fit_threshold(probabilities: Tensor, step_counts: Tensor, first_errors: Tensor) -> ProcessBench:
    """The threshold in (0, 1) with the best smoothed ProcessBench F1 on these solutions.

    F1 as a function of the threshold is a staircase, whose highest step is as often luck as not
    where solutions are few. So each half is averaged over thresholds nearby: over a normal
    distribution of the threshold's log-odds, whose width is Silverman's for the ends of
    `first_error_windows` and shrinks as solutions grow many. Tried are the midpoints between
    neighbouring ends, at most `CANDIDATES` of them, evenly taken. Of equally good ones the one
    nearest 0.5 is taken, of two as near the lower.

    Args:
        probabilities: as for `first_error_windows`, like the others.
        step_counts: the same.
        first_errors: the same.

    Returns:
        What `processbench_at` says at that threshold, not smoothed. Without right or without wrong
        solutions there is nothing to fit: the threshold is 0.5 and ``f1`` is NaN.

    Source: the width is Silverman 1986, "Density Estimation for Statistics and Data Analysis",
        eq. 3.31. On data that the threshold was not fitted on it was never worse than the highest
        step in simulations of 40, 90 and 400 solutions, see docs/experiments.md.
    """
    low, high, wrong = first_error_windows(probabilities, step_counts, first_errors)
    if wrong.all() or not wrong.any():
        return processbench_at(probabilities, step_counts, first_errors, 0.5)
    ends = torch.cat([low, high])[(low < high).repeat(2)]
    inner = ends[(ends > 0) & (ends < 1)]
    ends = torch.unique(torch.cat([inner, ends.new_tensor([0.0, 1.0])]))
    thresholds = (ends[1:] + ends[:-1]) / 2
    some = torch.linspace(0, len(thresholds) - 1, min(len(thresholds), CANDIDATES))
    thresholds = thresholds[some.round().long()]
    low, high = low.clamp(min=0).logit(), high.clamp(max=1).logit()
    width = _silverman_width(inner.logit(), len(low))
    f1 = torch.stack([_smoothed_f1(low, high, wrong, t, width) for t in thresholds.logit()])
    distance = torch.where(f1 >= f1.max() - 1e-9, (thresholds - 0.5).abs(), torch.inf)
    threshold = thresholds[distance.argmin()].item()
    return processbench_at(probabilities, step_counts, first_errors, threshold)


def _silverman_width(values: Tensor, count: int) -> float:
    """Of the kernel that smooths `count` observations with these values; above 0."""
    if len(values) < 2:
        return SMALLEST_WIDTH
    quarter, three = np.quantile(values.numpy(force=True), [0.25, 0.75])  # torch's has a limit
    spread = min(values.std().item(), (three - quarter) / 1.34)
    width: float = 0.9 * float(spread) * count**-0.2
    return max(width, SMALLEST_WIDTH)


def _smoothed_f1(low: Tensor, high: Tensor, wrong: Tensor, center: Tensor, width: float) -> Tensor:
    """ProcessBench F1 with both halves averaged over normal thresholds; all in log-odds."""
    inside = torch.special.ndtr((high - center) / width) - torch.special.ndtr(
        (low - center) / width
    )
    return harmonic_mean(inside[wrong].mean(), inside[~wrong].mean())


def harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """Of shares in [0, 1], elementwise; 0 if both are 0, NaN if either is NaN."""
    return torch.where(a + b == 0, 0.0, 2 * a * b / (a + b))


def _hide_padding(probabilities: Tensor, step_counts: Tensor) -> Tensor:
    """Put infinity behind the first `step_counts` of each row, where a minimum passes it by."""
    steps = torch.arange(probabilities.shape[1], device=probabilities.device)
    return torch.where(steps < step_counts[:, None], probabilities, torch.inf)


def _measure_source(scores: StepScores, threshold: float) -> dict[str, Tensor]:
    steps = _select(scores, scores.weights > 0)
    measured = measure_steps(steps.probabilities, steps.labels)
    found = processbench_at(*pad_solutions(scores), threshold)
    return {key: measured[key] for key in SOURCE_METRICS} | _name_processbench(found)


def _name_processbench(found: ProcessBench) -> dict[str, Tensor]:
    return {
        f"processbench_{key}": torch.tensor(value, dtype=torch.float64)
        for key, value in found._asdict().items()
        if key != "threshold"
    }


def _select(scores: StepScores, chosen: Tensor) -> StepScores:
    return StepScores(*(column[chosen] for column in scores))


def _refuse_nan(scores: StepScores) -> None:
    broken = scores.probabilities.isnan()
    if broken.any():
        where = int(broken.nonzero()[0])
        raise ValueError(
            f"measure: {int(broken.sum())} of {len(broken)} step scores are NaN, first at step "
            f"{int(scores.positions[where]) + 1} of solution {int(scores.solutions[where])}; "
            "lower the learning rate or train in higher precision."
        )
