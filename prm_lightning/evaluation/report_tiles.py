"""The first lines of the report: four figures, each compared with the best baseline, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prm_lightning.evaluation.report_data import ScoredSet, ShownSolution
from prm_lightning.evaluation.results import draw_problems, summarise
from prm_lightning.modeling.metrics import majority_scores, measure, measure_part
from prm_lightning.modeling.scored_steps import ScoredSolution, StepScores, to_step_scores

RESAMPLES = 200
F1, WRONG, RIGHT, AUROC = (
    "processbench_f1", "processbench_wrong", "processbench_right", "auroc",
)  # fmt: skip
MAJORITY = "majority class"


class Tile(NamedTuple):
    """A figure of the first screen.

    Args:
        label: what it is.
        value: in [0, 1]; NaN where the data leave it undefined.
        change: its difference to a baseline, such as ``+0.120 over untrained head``.
        verdict: that in words.
        good: whether it is better than every baseline.
    """

    label: str
    value: float
    change: str
    verdict: str
    good: bool


def gather(solutions: Sequence[ShownSolution]) -> tuple[StepScores, list[str]]:
    """The solutions as columns, and the names of their sources."""
    return to_step_scores([ScoredSolution(*solution[2:]) for solution in solutions])


def baseline_metrics(scored: ScoredSet) -> dict[str, dict[str, float]]:
    """Metrics of constant answers to a set, by their names."""
    scores, _ = gather(scored.solutions)
    errors = scores.first_errors[scores.starts]
    commonest = int(np.bincount(errors[errors >= 0]).argmax()) if (errors >= 0).any() else 0
    flagged = (scores.positions != commonest).astype(np.float64)
    return {
        MAJORITY: measure(majority_scores(scores)),
        f"always step {commonest + 1}": measure(
            scores._replace(probabilities=flagged), threshold=0.5
        ),
    }


def make_tiles(scored: ScoredSet, baselines: Mapping[str, Mapping[str, float]]) -> list[Tile]:
    """ProcessBench F1, AUROC, errors found and right solutions passed, at the set's threshold.

    Args:
        scored: with labelled steps.
        baselines: metrics by name of the baseline.
    """
    scores, _ = gather(scored.solutions)
    problems = [solution.problem for solution in scored.solutions]
    counts = draw_problems(problems, RESAMPLES, seed=0).counts
    replicates = measure_part(scores, scored.threshold, counts)
    estimates = {name: summarise(replicates[name]) for name in (F1, AUROC, WRONG, RIGHT)}

    def best_by(metric: str) -> str:
        known = {name: b.get(metric, math.nan) for name, b in baselines.items()}
        defined = {name: value for name, value in known.items() if not math.isnan(value)}
        return max(defined, key=lambda name: defined[name], default="")

    tiles = []
    for metric, label in ((F1, "ProcessBench F1"), (AUROC, "AUROC of steps")):
        name, (value, low, _) = best_by(metric), estimates[metric]
        tiles.append(_tile(label, value, low, name, baselines.get(name, {}).get(metric)))
    name = best_by(F1)  # finding all errors is easy for what passes nothing, and the reverse
    for metric, label in ((WRONG, "Errors found"), (RIGHT, "Right solutions passed")):
        value, other = estimates[metric].value, baselines.get(name, {}).get(metric, math.nan)
        if math.isnan(value) or math.isnan(other):
            tiles.append(Tile(label, value, "", "no baseline to compare with", False))
            continue
        word = "more than" if value > other else "no more than"
        change = f"{_change(value, other)} to {name}"
        tiles.append(Tile(label, value, change, f"{word} {name}", value > other))
    return tiles


def pool_tiles(rows: Sequence[Mapping[str, Any]], model: str) -> list[Tile]:
    """Best of N and weighted vote of a model's chosen aggregation, next to vote and chance.

    Args:
        rows: of results.json, of a best-of-n evaluation.
        model: whose rows are shown.
    """
    sizes = [row["n"] for row in rows if type(row.get("n")) is int]
    last = [row for row in rows if sizes and row.get("n") == max(sizes)]
    values = {
        str(row.get("method")): _estimate(row, "accuracy")
        for row in last
        if row.get("kind") == "baseline" or (row.get("chosen") and row.get("model") == model)
    }
    labels = {"best": f"Best of {max(sizes, default=0)}", "weighted": "Weighted vote"}
    known = [name for name in ("pass@1", "majority") if name in values]
    name = max(known, key=lambda name: values[name][0], default="")
    tiles = [
        _tile(label, *values[method], name, values[name][0] if name else None)
        for method, label in labels.items()
        if method in values
    ]
    for row in rows:
        if row.get("method") == "pairs" and row.get("chosen") and row.get("model") == model:
            value, low = _estimate(row, "pair_accuracy")
            tiles.append(_tile("Pairs in order", value, low, "chance", 0.5))
            break
    return tiles


def _tile(label: str, value: float, low: float, name: str, other: float | None) -> Tile:
    if math.isnan(value):
        return Tile(label, value, "", "undefined: one kind of solution is missing", False)
    if other is None or math.isnan(other):
        return Tile(label, value, "", "no baseline to compare with", False)
    change = _change(value, other)
    if value <= other:
        return Tile(label, value, f"{change} to {name}", f"no better than {name}", False)
    if low <= other:
        verdict = f"perhaps better than {name}: the 95 % interval begins at {low:.3f}"
        return Tile(label, value, f"{change} to {name}", verdict, False)
    return Tile(label, value, f"{change} to {name}", "better than every baseline", True)


def _change(value: float, other: float) -> str:
    return f"{value - other:+.3f}".replace("-", "−")


def _estimate(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """Value and lower end of a figure of results.json."""
    estimate = (row.get("metrics") or {}).get(metric) or {}
    value, low = (estimate.get(name) for name in ("value", "low"))
    return (math.nan if value is None else value), (math.nan if low is None else low)
