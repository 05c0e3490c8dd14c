"""Score a file of solutions, row by row, in a way that a kill cannot harm."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm_lightning.files import ResumableRows
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.scoring.scorers import ModelScorer
from prm_lightning.sources.rows import Row as RawRow
from prm_lightning.sources.rows import read_rows
from prm_lightning.text import cut_chat_markup
from prm_lightning.types import ALL_CORRECT, Aggregation, Dropped

SCORED = "scored"
PROBLEM_KEYS = ("problem", "prompt", "question")
STEPS_KEYS = ("steps", "completions")
ROWS_AT_A_TIME = 128  # scored together, and written before the next are begun


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input.

    Args:
        values: its fields, which the output repeats.
        problem: the question.
        steps: of the solution; empty in a row that cannot be scored.
        outcome: ``scored``, or why it cannot be scored in a few words to count by.
        message: the same for a person, with the place of the row; empty for a good one.
    """

    values: dict[str, Any]
    problem: str = ""
    steps: tuple[str, ...] = ()
    outcome: str = SCORED
    message: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How scores are made into results.

    Args:
        aggregation: makes one score of a solution.
        threshold: a step whose P(correct) lies below it is flagged.
    """

    aggregation: Aggregation
    threshold: float


def read_solutions(path: str) -> list[Row]:
    """The rows of a file, folder or Hub data set.

    Returns:
        All rows in order, each with ``problem`` (or ``prompt``, ``question``) and ``steps`` (or
        ``completions``), or with the reason why it cannot be scored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or no row can be scored.
    """
    rows = [parse_row(row) for row in read_rows(path)]
    if all(row.message for row in rows):
        raise ValueError(f"score: no row of {path} can be scored. The first: {rows[0].message}")
    return rows


def score_file(
    scorer: ModelScorer,
    model: str,
    rows: Sequence[Row],
    output: Path,
    reading: Reading,
    *,
    overwrite: bool = False,
) -> Iterator[Counter[str]]:
    """Score rows into a JSON Lines file, which appears when all are done.

    Until then they stand in ``.NAME.partial`` beside it, where a second call goes on. An output row
    has the fields of its input row and ``scores`` (P(correct) of every step), ``score`` (of the
    solution), ``first_error`` (the first step below the threshold, from 0; -1 if there is none)
    and ``outcome``. Where that is not ``scored``, the three are null and ``message`` says why.

    Args:
        scorer: what scores.
        model: identifies it, see `scorers.fingerprint`.
        rows: see `read_solutions`.
        output: the file to write.
        reading: how scores are read.
        overwrite: replace `output`, or what another job has begun to write there.

    Yields:
        Counts of all outcomes so far, each time that rows were written.

    Raises:
        FileExistsError: `output` exists.
        ValueError: another job began to write there, or the scorer fails.
        OSError: a server fails, or the disk.
    """
    written = ResumableRows(output, _describe(model, rows, reading))
    counts = Counter(record["outcome"] for record in written.begin(overwrite=overwrite))
    yield counts
    for start in range(counts.total(), len(rows), ROWS_AT_A_TIME):
        window = rows[start : start + ROWS_AT_A_TIME]
        records = score_rows(scorer, window, reading)
        written.append(*records)
        counts.update(record["outcome"] for record in records)
        yield counts
    written.finish()


def parse_row(row: RawRow | Dropped) -> Row:
    """What there is to score in a raw row."""
    if isinstance(row, Dropped):
        return Row({}, outcome=row.reason, message=row.message)
    place, values = row
    problem = next((values[key] for key in PROBLEM_KEYS if key in values), None)
    steps = next((values[key] for key in STEPS_KEYS if key in values), None)

    def refuse(outcome: str, expected: str) -> Row:
        return Row(values, outcome=outcome, message=f"{place}: {outcome}, expected {expected}.")

    if not isinstance(problem, str) or not problem.strip():
        return refuse("no problem", f"text under one of {', '.join(PROBLEM_KEYS)}")
    if not isinstance(steps, list) or not steps:
        return refuse("no steps", f"a list of texts under one of {', '.join(STEPS_KEYS)}")
    for number, step in enumerate(steps, 1):
        if not isinstance(step, str) or not step.strip():
            return refuse("a step is blank or no text", f"text as step {number} of {len(steps)}")
    return Row(values, cut_chat_markup(problem), tuple(steps))


def score_rows(scorer: ModelScorer, rows: Sequence[Row], reading: Reading) -> list[dict[str, Any]]:
    """The output rows of some rows, see `score_file`."""
    good = [row for row in rows if not row.message]
    scored = iter(_score_good(scorer, [(row.problem, [row.steps]) for row in good]))
    return [_record(row, row.message or next(scored), reading) for row in rows]


def _score_good(
    scorer: ModelScorer, items: Sequence[tuple[str, Sequence[Sequence[str]]]]
) -> list[list[float] | str]:
    """Scores of each item, or why it alone cannot be scored."""
    try:
        return [scores for (scores,) in scorer.score_all(items)]
    except Unscorable as error:
        if len(items) == 1:
            return [str(error)]
        middle = len(items) // 2
        return _score_good(scorer, items[:middle]) + _score_good(scorer, items[middle:])


def _record(row: Row, result: list[float] | str, reading: Reading) -> dict[str, Any]:
    if isinstance(result, str):
        outcome = row.outcome if row.message else "refused by the model"
        nothing = dict.fromkeys(("scores", "score", "first_error"))
        return row.values | nothing | {"outcome": outcome, "message": result}
    flagged = (i for i, score in enumerate(result) if score < reading.threshold)
    return row.values | {
        "scores": result,
        "score": aggregate(result, reading.aggregation),
        "first_error": next(flagged, ALL_CORRECT),
        "outcome": SCORED,
    }


def _describe(model: str, rows: Sequence[Row], reading: Reading) -> dict[str, Any]:
    """What a job is, so that only the same one is gone on with."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.values, row.message]).encode())
    how = {"aggregation": reading.aggregation, "threshold": reading.threshold}
    return {"model": model, "input": digest.hexdigest()[:32], **how}
