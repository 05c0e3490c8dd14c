"""Verb `score`: the steps of one solution, each with its probability of being correct."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Score one solution and print it, step by step."""
    parser = argparse.ArgumentParser(
        prog="python -m prm_lightning score", description="Score the steps of one solution."
    )
    parser.add_argument("--model", required=True, help="model folder, such as outputs/x/best_model")
    parser.add_argument("--problem", required=True, help="the question, as text")
    parser.add_argument(
        "--step", action="append", required=True, help="one step, as text; repeat it, in order"
    )
    options = parser.parse_args(args)
    from prm_lightning.modeling.prm import PRM

    prm = PRM.from_pretrained(options.model)
    (scores,) = prm.score(options.problem, [options.step])
    print_scores(options.problem, options.step, scores, prm.manifest.threshold)


def print_scores(
    problem: str, steps: Sequence[str], scores: Sequence[float], threshold: float
) -> None:
    """A table of steps; those whose score lies below the threshold are marked.

    Args:
        problem: the question.
        steps: of the solution.
        scores: P(correct) of each step.
        threshold: in [0, 1].
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(problem, style="bold"))
    flagged = [score < threshold for score in scores]
    for step, score, flag in zip(steps, scores, flagged, strict=True):
        line = Text(f"  {score:5.3f}  ", style="red" if flag else "green")
        line.append("x " if flag else "  ")
        console.print(line.append(step, style="default"))
    first = flagged.index(True) + 1 if any(flagged) else None
    verdict = f"first flagged step: {first}" if first else "no step flagged"
    console.print(f"  lowest {min(scores):.3f}; {verdict} (P(correct) < {threshold:.3f})")
