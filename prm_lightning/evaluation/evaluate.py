"""Verb `evaluate`: how good the scores of one or several PRMs are, next to baselines."""

from __future__ import annotations

from collections.abc import Sequence

from prm_lightning.command import run_verb
from prm_lightning.evaluation.options import EvaluateOptions


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    options: EvaluateOptions = run_verb("evaluate", EvaluateOptions, args)
    # It imports torch, which --help can do without.
    from prm_lightning.evaluation.benchmarks import evaluate

    evaluate(options)
