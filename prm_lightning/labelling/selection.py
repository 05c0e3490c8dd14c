"""Which solutions are worth a verdict: those that a process reward model is least sure of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, islice

from prm_lightning.labelling.candidates import Candidate, Candidates
from prm_lightning.labelling.stored import Stored

AT_ONCE = 64  # solutions scored before their uncertainty is stored


def uncertainty(scores: Sequence[float], threshold: float = 0.5) -> float:
    """How unsure a model is of a solution's first error, in [0, 1].

    That of its least sure step, 1 - abs(2 p - 1), among those up to the first that it takes for
    wrong: what stands behind that step decides nothing.

    Args:
        scores: P(correct) of each step, at least one.
        threshold: below it a step is taken for wrong.

    Source: selection by confidence as in Duan et al. 2025, "Efficient Process Reward Model Training
    via Active Learning", arXiv:2504.10559, here with one model in place of an ensemble.
    """
    wrong = [i for i, p in enumerate(scores) if p < threshold]
    until = scores[: wrong[0] + 1] if wrong else scores
    return max(1 - abs(2 * p - 1) for p in until)


def least_sure(values: Sequence[float], fraction: float) -> list[int]:
    """Indices, in order, of the share of values that is highest, rounded up; the first of equals.

    Args:
        values: uncertainty of each.
        fraction: in (0, 1].
    """
    most = math.ceil(len(values) * fraction)
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(ranked[:most])


def score_uncertainty(
    candidates: Candidates, prm_folder: str, stored: Stored, done: Callable[[int], None]
) -> None:
    """Store the uncertainty of each candidate under the model in a folder.

    Args:
        candidates: in order.
        prm_folder: of a trained process reward model.
        stored: whose length says how many are scored already.
        done: called with how many more are.
    """
    rest = islice(iter(candidates), len(stored), None)
    prm = None
    while chunk := list(islice(rest, AT_ONCE)):
        if prm is None:
            from prm_lightning.modeling.prm import PRM

            prm = PRM.from_pretrained(prm_folder)
        threshold = prm.manifest.threshold
        scores: list[list[float]] = []
        for question, solutions in _by_question(chunk):
            scores += prm.score(question, [list(solution.steps) for solution in solutions])
        stored.append(uncertainty(found, threshold) for found in scores)
        done(len(chunk))
    stored.finish()


def _by_question(chunk: Iterable[Candidate]) -> list[tuple[str, list[Candidate]]]:
    return [(question, list(group)) for question, group in groupby(chunk, lambda c: c.question)]
