"""val_scores.jsonl: what the best model says of the validation data, solution by solution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prm_lightning.batching.data import EncodedSolutions
from prm_lightning.files import write_rows
from prm_lightning.modeling.scored_steps import StepScores


def write_validation_scores(path: Path, scores: StepScores, data: EncodedSolutions) -> None:
    """Write one line per solution, as ``scores.jsonl`` of the verb `evaluate` has them.

    Args:
        path: the file, which is replaced as a whole.
        scores: of all steps of all solutions of `data`, in any order of solutions.
        data: the validation side.
    """
    write_rows(path, [row for _, row in sorted(_rows(scores, data), key=lambda pair: pair[0])])


def _rows(scores: StepScores, data: EncodedSolutions) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index of each solution and its line."""
    begins = scores.starts.tolist()
    probabilities = scores.probabilities.tolist()
    for start, end in zip(begins, [*begins[1:], len(probabilities)], strict=True):
        i = int(scores.solutions[start])
        problem, texts = data.texts(i)
        steps = slice(data.step_offsets[i], data.step_offsets[i + 1])
        known = zip(data.labels[steps].tolist(), data.weights[steps].tolist(), strict=True)
        yield (
            i,
            {
                "model": "best_model",
                "id": data.solution_names[i],
                "source": data.source_names[data.sources[i]],
                "problem": problem,
                "steps": texts,
                "labels": [round(y, 6) if weight > 0 else None for y, weight in known],
                "scores": probabilities[start:end],
                "first_error": int(data.first_errors[i]),
            },
        )
