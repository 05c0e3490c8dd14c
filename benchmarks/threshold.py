"""What a threshold fitted on few solutions is worth on others.

    python benchmarks/threshold.py [--scores scores.jsonl] [--sizes 40 90 400]

Fits on that many solutions drawn at random and takes ProcessBench F1 on all others, many times, for
four rules: 0.5; the highest step of F1 as a function of the threshold, as published evaluators take
it; `fit_threshold`; and the best threshold of the other solutions themselves, which nobody knows.
Solutions are simulated, of several skills and several shifts of the scores, or come from a file
that `evaluate` wrote. Prints JSON, mean F1 of each rule.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import numpy as np

from prm_lightning.modeling.metrics import (
    first_error_windows,
    fit_threshold,
    measure_first_errors,
)
from prm_lightning.modeling.scored_steps import (
    ScoredSolution,
    StepScores,
    to_step_scores,
    undrawn,
)
from prm_lightning.types import ALL_CORRECT

TIMES = 40


def simulated(count: int, skill: float, shift: float, seed: int = 0) -> list[ScoredSolution]:
    """Solutions of 2 to 7 steps, 55 % wrong; the wrong step's log-odds are lower by `2 * skill`."""
    rng = np.random.default_rng(seed)
    solutions = []
    for number in range(count):
        logits = rng.normal(skill + shift, 1, rng.integers(2, 8))
        error = int(rng.integers(len(logits))) if rng.random() < 0.55 else ALL_CORRECT
        if error >= 0:
            logits[error] -= 2 * skill
        scores = (1 / (1 + np.exp(-logits))).tolist()
        solutions.append(ScoredSolution(scores, [None] * len(scores), error, "", str(number)))
    return solutions


def read(file: Path) -> list[ScoredSolution]:
    """Of `evaluate`'s scores.jsonl; the first model in it."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        ScoredSolution(row["scores"], row["labels"], row["first_error"], "", row["problem"])
        for row in rows
        if row["model"] == rows[0]["model"] and row["scores"]
    ]


def f1_at(scores: StepScores, threshold: float) -> float:
    """ProcessBench F1."""
    return float(measure_first_errors(scores, threshold, undrawn(scores.problems))["f1"][0])


def highest_step(scores: StepScores) -> float:
    """A threshold with the best F1 on these solutions; of several the one nearest 0.5."""
    low, high, *_ = first_error_windows(scores)
    ends = np.unique(np.clip(np.concatenate([low, high]), 0, 1))
    middles = ((ends[1:] + ends[:-1]) / 2).tolist()
    return max(middles, key=lambda t: (f1_at(scores, t), -abs(t - 0.5)))


def compare(solutions: list[ScoredSolution], size: int) -> dict[str, float]:
    """Mean F1 of each rule on what it was not fitted on."""
    found: dict[str, list[float]] = {}
    for seed in range(TIMES):
        order = np.random.default_rng(seed).permutation(len(solutions))
        few, others = (
            to_step_scores([solutions[i] for i in part]) for part in (order[:size], order[size:])
        )
        thresholds = {
            "at_0.5": 0.5,
            "highest_step": highest_step(few),
            "smoothed": fit_threshold(few),
        }
        for name, threshold in thresholds.items():
            found.setdefault(name, []).append(f1_at(others, threshold))
    whole = to_step_scores(solutions)
    best = f1_at(whole, highest_step(whole))
    return {name: round(fmean(f1), 4) for name, f1 in found.items()} | {"best": round(best, 4)}


def main() -> None:
    """Compare and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scores", type=Path, help="scores.jsonl of evaluate")
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 90, 400])
    args = parser.parse_args()
    if args.scores:
        whole = read(args.scores)
        sizes = [size for size in args.sizes if 2 * size <= len(whole)]
        print(json.dumps({size: compare(whole, size) for size in sizes}, indent=2))
        return
    settings = [(skill, shift) for skill in (0.5, 1.0, 2.0) for shift in (-1.0, 0.0, 2.0)]
    table = {
        f"size {size}, skill {skill}, shift {shift}": compare(simulated(2000, skill, shift), size)
        for size in args.sizes
        for skill, shift in settings
    }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
