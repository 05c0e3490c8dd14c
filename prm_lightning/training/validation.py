"""val_scores.jsonl: what the best model says of the validation data, solution by solution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prm_lightning.batching.data import EncodedSolutions
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.tree import shared_prefix
from prm_lightning.files import written_file
from prm_lightning.modeling.scored_steps import StepScores

VALIDATION_SCORES = "val_scores.jsonl"
PROBLEM_MARK, STEP_MARK = "PROBLEM", "STEP"  # to see what a template puts around them


class ReadText(NamedTuple):
    """A solution as the model read it.

    Args:
        problem: the question, without the template around it.
        steps: those that were not cut off.
    """

    problem: str
    steps: list[str]


def read_texts(data: EncodedSolutions, encoder: Encoder) -> list[ReadText]:
    """The texts of some solutions, from their tokens.

    Data that come from the cache have no other text. Where a problem ends and its first step begins
    is certain for the templates `chat` and `guide`; for `plain` it is the last newline that all
    solutions of the problem share, so that the first lines of a step of several lines may be taken
    for lines of the problem.

    Args:
        data: encoded by `encoder`.
        encoder: see `Encoder`.

    Returns:
        One a solution, in order.
    """
    before, after = _around_the_problem(encoder)
    shared = _shared_tokens(data)
    texts = []
    for i in range(len(data)):
        ids, positions = data.solution(i)
        begins = [0, *(positions[:-1] + 1)]
        head, *steps = (
            _decode(encoder, ids[start:end]) for start, end in zip(begins, positions, strict=True)
        )
        common = _decode(encoder, ids[: min(shared[data.problems[i]], positions[0])])
        end = head.rfind(after, len(before), len(common))
        if end < 0:  # a text that does not decode to itself
            end = head.rfind(after, len(before))
        problem, first = head[len(before) : end], head[end + len(after) :]
        texts.append(ReadText(problem.strip(), [step.strip() for step in (first, *steps)]))
    return texts


def write_validation_scores(
    path: Path, scores: StepScores, data: EncodedSolutions, texts: list[ReadText]
) -> None:
    """Write one line a solution, as ``scores.jsonl`` of the verb `evaluate` has them.

    Args:
        path: of the file; replaced as a whole.
        scores: of all steps of all solutions of `data`, in any order of solutions.
        data: the validation side.
        texts: what `read_texts` says of it.
    """
    with (
        written_file(path) as beside,
        beside.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file,
    ):
        for row in sorted(_rows(scores, data, texts), key=lambda row: row[0]):
            file.write(json.dumps(row[1], ensure_ascii=False) + "\n")


def _rows(
    scores: StepScores, data: EncodedSolutions, texts: list[ReadText]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index of each solution and its line."""
    begins = scores.starts.tolist()
    probabilities = scores.probabilities.tolist()
    for start, end in zip(begins, [*begins[1:], len(probabilities)], strict=True):
        i = int(scores.solutions[start])
        steps = slice(data.step_offsets[i], data.step_offsets[i + 1])
        known = zip(data.labels[steps].tolist(), data.weights[steps].tolist(), strict=True)
        yield (
            i,
            {
                "model": "best_model",
                "id": data.solution_names[i],
                "source": data.source_names[data.sources[i]],
                "problem": texts[i].problem,
                "steps": texts[i].steps,
                "labels": [round(y, 6) if weight > 0 else None for y, weight in known],
                "scores": probabilities[start:end],
                "first_error": int(data.first_errors[i]),
            },
        )


def _around_the_problem(encoder: Encoder) -> tuple[str, str]:
    """What the template puts before a problem, and between it and the first step."""
    encoded = encoder.encode(PROBLEM_MARK, [STEP_MARK])
    head = _decode(encoder, encoded.input_ids[: encoded.step_positions[0]])
    before, _, rest = head.partition(PROBLEM_MARK)
    return before, rest.partition(STEP_MARK)[0]


def _shared_tokens(data: EncodedSolutions) -> dict[int, int]:
    """How many leading tokens all solutions of each problem have in common."""
    first: dict[int, int] = {}
    shared: dict[int, int] = {}
    for i, problem in enumerate(data.problems.tolist()):
        ids, _ = data.solution(i)
        other, _ = data.solution(first.setdefault(problem, i))
        shared[problem] = min(shared.get(problem, len(ids)), shared_prefix(other, ids))
    return shared


def _decode(encoder: Encoder, ids: Any) -> str:
    tokens = [int(token) for token in ids]
    return str(encoder.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
