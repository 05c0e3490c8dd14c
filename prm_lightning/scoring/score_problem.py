"""The scores of one problem's solutions, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.cache import CachedScorer
from prm_lightning.scoring.scorers import ModelScorer, fingerprint, load_scorer
from prm_lightning.terminal import quieten_libraries
from prm_lightning.types import Aggregation


def load(model: str, cache: str | None, device: str | None) -> ModelScorer:
    """A scorer that looks into a cache first, if there is one."""
    quieten_libraries()
    scorer = load_scorer(model, device)
    if cache is None:
        return scorer
    return CachedScorer(scorer, Path(cache), fingerprint(model))


def print_scores(
    console: Console,
    steps: Sequence[str],
    scores: Sequence[float],
    threshold: float,
    how: Aggregation = "min",
) -> None:
    """One line a step; those whose score lies below the threshold are marked.

    Args:
        console: to print to.
        steps: of the solution.
        scores: P(correct) of each step.
        threshold: in [0, 1].
        how: makes one score of the solution.
    """
    flagged = [score < threshold for score in scores]
    for step, score, flag in zip(steps, scores, flagged, strict=True):
        line = Text(f"  {score:5.3f}  ", style="red" if flag else "green")
        line.append("x " if flag else "  ")
        console.print(line.append(step, style="default"))
    first = flagged.index(True) + 1 if any(flagged) else None
    verdict = f"first flagged step: {first}" if first else "no step flagged"
    console.print(f"  {how} {aggregate(scores, how):.3f}; {verdict} (P(correct) < {threshold:.3f})")


def score_problem(
    scorer: ModelScorer,
    problem: str,
    solutions: Sequence[Sequence[str]],
    how: Aggregation | None,
    threshold: float | None,
) -> None:
    """Score solutions of one problem and print them, step by step.

    Args:
        scorer: scores.
        problem: the question.
        solutions: the steps of each.
        how: makes one score of a solution; None takes the scorer's own way.
        threshold: a step is flagged below it; None takes the scorer's own.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(problem, style="bold", markup=False)
    limit = scorer.threshold if threshold is None else threshold
    for steps, scores in zip(solutions, scorer.score(problem, solutions), strict=True):
        console.print()
        print_scores(console, steps, scores, limit, how or scorer.aggregation)
