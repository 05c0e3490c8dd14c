"""Verb `score`: the steps of solutions, each with its probability of being correct."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def main(args: Sequence[str] | None = None) -> None:
    """Score solutions of one problem and print them, step by step."""
    parser = argparse.ArgumentParser(
        prog="python -m prm_lightning score",
        description="Score the steps of one or several solutions of a problem.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="model folder, such as outputs/x/best_model")
    parser.add_argument("--problem", required=True, help="the question, as text")
    parser.add_argument(
        "--steps",
        action="append",
        nargs="+",
        required=True,
        metavar="STEP",
        help="the steps of a solution, each as text; repeat it for another solution",
    )
    options = parser.parse_args(args)
    from prm_lightning.libraries import quieten_libraries
    from prm_lightning.modeling.prm import PRM

    quieten_libraries()
    prm = PRM.from_pretrained(options.model)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(options.problem, style="bold", markup=False)
    for steps, scores in zip(options.steps, prm.score(options.problem, options.steps), strict=True):
        console.print()
        print_scores(console, steps, scores, prm.manifest.threshold)


def print_scores(
    console: Console, steps: Sequence[str], scores: Sequence[float], threshold: float
) -> None:
    """One line a step; those whose score lies below the threshold are marked.

    Args:
        console: to print to.
        steps: of the solution.
        scores: P(correct) of each step.
        threshold: in [0, 1].
    """
    from rich.text import Text

    flagged = [score < threshold for score in scores]
    for step, score, flag in zip(steps, scores, flagged, strict=True):
        line = Text(f"  {score:5.3f}  ", style="red" if flag else "green")
        line.append("x " if flag else "  ")
        console.print(line.append(step, style="default"))
    first = flagged.index(True) + 1 if any(flagged) else None
    verdict = f"first flagged step: {first}" if first else "no step flagged"
    console.print(f"  lowest {min(scores):.3f}; {verdict} (P(correct) < {threshold:.3f})")
