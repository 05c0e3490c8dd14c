"""Rows with solutions in, the same rows with scores out, in a file that a kill cannot harm."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prm_lightning.files import ResumableRows, digest
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.sources.fields import Marks, is_text, step_cleaner
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import cut_chat_markup
from prm_lightning.types import ALL_CORRECT, Aggregation, Dropped, Unscorable

if TYPE_CHECKING:
    from prm_lightning.scoring.scorers import ModelScorer

Item = TypeVar("Item")
Found = TypeVar("Found")

SCORED = "scored"
PROBLEM_KEYS = ("problem", "prompt", "question")
STEPS_KEYS = ("steps", "completions")
ROWS_AT_A_TIME = 128  # scored together, and written before the next are begun


@dataclass(frozen=True, slots=True)
class SolutionRow:
    """One row of the input.

    Args:
        values: its fields, which the output repeats.
        problem: the question.
        steps: of the solution, cleaned; empty in a row that cannot be scored.
        outcome: ``scored``, or why it cannot be scored in a few words to count by.
        message: the same for a person, with the place of the row; empty for a good one.
    """

    values: dict[str, Any]
    problem: str = ""
    steps: tuple[str, ...] = ()
    outcome: str = SCORED
    message: str = ""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How rows are read and what is made of their scores.

    Args:
        aggregate: makes one score of a solution; None takes the model's own way.
        threshold: a step whose P(correct) is below it is flagged; None takes the model's own.
        calculator_marks: what happens to GSM8K's ``<<a*b=c>>`` in steps.
        step_numbers: what happens to "Step 3:" at the front of steps.
    """

    aggregate: Aggregation | None = None
    threshold: float | None = None
    calculator_marks: Marks = "remove"
    step_numbers: Marks = "keep"


def read_solutions(path: str, options: ScoreOptions) -> list[SolutionRow]:
    """The rows of a file, folder or Hub data set.

    Returns:
        All rows in order, each with ``problem`` (or ``prompt``, ``question``) and ``steps`` (or
        ``completions``), or with the reason why it cannot be scored. Of several such columns the
        first that is filled counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or no row can be scored.
    """
    rows = [parse_row(row, options) for row in read_rows(path)]
    if all(row.message for row in rows):
        raise ValueError(f"score: no row of {path} can be scored. The first: {rows[0].message}")
    return rows


def score_file(
    scorer: ModelScorer,
    model: str,
    rows: Sequence[SolutionRow],
    output: Path,
    options: ScoreOptions,
    *,
    overwrite: bool = False,
) -> Iterator[Counter[str]]:
    """Score rows into a JSON Lines file, which appears when all are done.

    Until then they are in ``.NAME.partial`` next to it, where a second call resumes. An output row
    has the fields of its input row and ``scores`` (P(correct) of every step), ``score`` (of the
    solution), ``first_error`` (the first step below the threshold, from 0; -1 if there is none)
    and ``outcome``. Where that is not ``scored``, the three are null and ``message`` says why.

    Args:
        scorer: what scores.
        model: identifies it, see `scorers.fingerprint`.
        rows: see `read_solutions`.
        output: the file to write.
        options: those that the rows were read with.
        overwrite: replace `output`, or what another job has begun to write there.

    Yields:
        Counts of all outcomes so far, each time that rows were written.

    Raises:
        FileExistsError: `output` exists.
        ValueError: another job began to write there, or the scorer fails.
        OSError: a server fails, or the disk.
    """
    content = digest(json.dumps([row.values, row.message]) for row in rows)
    job = {"model": model, "input": content[:32], **asdict(options)}
    written = ResumableRows(output, job)
    counts = Counter(record["outcome"] for record in written.begin(overwrite=overwrite))
    yield counts
    for start in range(counts.total(), len(rows), ROWS_AT_A_TIME):
        records = score_rows(scorer, rows[start : start + ROWS_AT_A_TIME], options)
        written.append(*records)
        counts.update(record["outcome"] for record in records)
        yield counts
    written.finish(len(rows))


def parse_row(row: Row | Dropped, options: ScoreOptions) -> SolutionRow:
    """What there is to score in a raw row."""
    if isinstance(row, Dropped):
        return SolutionRow({}, outcome=row.reason, message=row.message)
    place, values = row
    filled = {name: value for name, value in values.items() if value is not None}
    problem = next((filled[key] for key in PROBLEM_KEYS if key in filled), None)
    steps = next((filled[key] for key in STEPS_KEYS if key in filled), None)

    def refuse(outcome: str, expected: str) -> SolutionRow:
        message = f"{place}: {outcome}, expected {expected}."
        return SolutionRow(values, outcome=outcome, message=message)

    question = cut_chat_markup(problem).strip() if is_text(problem) else ""
    if not question:
        return refuse("no problem", f"valid text under one of {', '.join(PROBLEM_KEYS)}")
    if not isinstance(steps, list) or not steps:
        return refuse("no steps", f"a list of texts under one of {', '.join(STEPS_KEYS)}")
    for number, step in enumerate(steps, 1):
        if not is_text(step) or not step.strip():
            expected = f"valid text as step {number} of {len(steps)}"
            return refuse("a step is blank or no text", expected)
    clean = step_cleaner(options.calculator_marks, options.step_numbers)
    return SolutionRow(values, question, tuple(map(clean, steps)))


def score_rows(
    scorer: ModelScorer, rows: Sequence[SolutionRow], options: ScoreOptions
) -> list[dict[str, Any]]:
    """The output rows of some rows, see `score_file`."""
    good = [(row.problem, [row.steps]) for row in rows if not row.message]
    found = iter(score_each(lambda items: [scores for (scores,) in scorer.score_all(items)], good))
    records = []
    for row in rows:
        result = row.message or next(found)
        records.append(row.values | _outcome(row, result, scorer, options))
    return records


def _outcome(
    row: SolutionRow, result: list[float] | str, scorer: ModelScorer, options: ScoreOptions
) -> dict[str, Any]:
    if isinstance(result, str):
        outcome = row.outcome if row.message else "refused by the model"
        nothing = dict.fromkeys(("scores", "score", "first_error"))
        return nothing | {"outcome": outcome, "message": result}
    threshold = scorer.threshold if options.threshold is None else options.threshold
    flagged = (i for i, score in enumerate(result) if score < threshold)
    return {
        "scores": result,
        "score": aggregate(result, options.aggregate or scorer.aggregation),
        "first_error": next(flagged, ALL_CORRECT),
        "outcome": SCORED,
    }


def score_each(
    score: Callable[[Sequence[Item]], Sequence[Found]], items: Sequence[Item]
) -> list[Found | str]:
    """What a scorer finds of each item, or why it refuses that one alone.

    Args:
        score: of some items, in order; raises `Unscorable` if it cannot score one of them.
        items: any number; those that share a call with a refused one are asked again by halves.
    """
    if not items:
        return []
    try:
        return list(score(items))
    except Unscorable as error:
        if len(items) == 1:
            return [str(error)]
        middle = len(items) // 2
        return score_each(score, items[:middle]) + score_each(score, items[middle:])
