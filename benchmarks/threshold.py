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

import torch
from torch import Tensor

from prm_lightning.modeling.metrics import first_error_windows, fit_threshold, processbench_at
from prm_lightning.types import ALL_CORRECT

TIMES = 40
Solutions = tuple[Tensor, Tensor, Tensor]  # probabilities, step counts, first errors


def simulated(count: int, skill: float, shift: float, seed: int = 0) -> Solutions:
    """Solutions of 2 to 7 steps, 55 % wrong; the wrong step's log-odds are lower by `2 * skill`."""
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 8, (count,), generator=rng)
    errors = (torch.rand(count, generator=rng) * counts).long()
    wrong = torch.rand(count, generator=rng) < 0.55
    logits = torch.randn(count, 7, generator=rng, dtype=torch.float64) + skill + shift
    logits[wrong, errors[wrong]] -= 2 * skill
    return logits.sigmoid(), counts, torch.where(wrong, errors, ALL_CORRECT)


def read(file: Path) -> Solutions:
    """Of `evaluate`'s scores.jsonl; the first model in it."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["model"] == rows[0]["model"] and row["scores"]]
    scores = [torch.tensor(row["scores"], dtype=torch.float64) for row in rows]
    return (
        torch.nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=torch.nan),
        torch.tensor([len(row) for row in scores]),
        torch.tensor([row["first_error"] for row in rows]),
    )


def highest_step(solutions: Solutions) -> float:
    """A threshold with the best F1 on these solutions; of several the one nearest 0.5."""
    low, high, _ = first_error_windows(*solutions)
    ends = torch.unique(torch.cat([low, high]).clamp(0, 1))
    middles = ((ends[1:] + ends[:-1]) / 2).tolist()
    return max(middles, key=lambda t: (processbench_at(*solutions, t).f1, -abs(t - 0.5)))


def compare(solutions: Solutions, size: int) -> dict[str, float]:
    """Mean F1 of each rule on what it was not fitted on."""
    found: dict[str, list[float]] = {}
    for seed in range(TIMES):
        order = torch.randperm(len(solutions[1]), generator=torch.Generator().manual_seed(seed))
        few, others = (
            tuple(column[part] for column in solutions) for part in (order[:size], order[size:])
        )
        thresholds = {
            "at_0.5": 0.5,
            "highest_step": highest_step(few),  # type: ignore[arg-type]
            "smoothed": fit_threshold(*few).threshold,
        }
        for name, threshold in thresholds.items():
            found.setdefault(name, []).append(processbench_at(*others, threshold).f1)
    best = processbench_at(*solutions, highest_step(solutions)).f1
    return {name: round(fmean(f1), 4) for name, f1 in found.items()} | {"best": round(best, 4)}


def main() -> None:
    """Compare and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scores", type=Path, help="scores.jsonl of evaluate")
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 90, 400])
    args = parser.parse_args()
    if args.scores:
        whole = read(args.scores)
        sizes = [size for size in args.sizes if 2 * size <= len(whole[1])]
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
