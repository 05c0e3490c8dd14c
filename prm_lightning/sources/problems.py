"""Problems with reference answers, for the verbs `label` and `search`; the questions of any rows.

In: rows with a question and an answer. Out: `Problem`s, each question once.
Read next: `labelling/stages.py` and `searching/verb.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.files import digest
from prm_lightning.sources.fields import flag_in, problem_in, show, unexpected
from prm_lightning.sources.rows import RowError, name_of, parse_rows, read_rows
from prm_lightning.text import cut_chat_markup, normalise_problem
from prm_lightning.types import Dropped

QUESTION_COLUMNS = ("question", "problem")
ANSWER_COLUMNS = ("expected_answer", "answer", "final_answer", "ground_truth_answer")
ANY_QUESTION_COLUMNS = ("prompt", "problem", "question", "input")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question whose answer is known.

    Args:
        id: 16 hexadecimal digits made from the normalised question.
        question: plain text.
        answer: the reference answer, such as ``18`` or ``\\frac{1}{2}``.
    """

    id: str
    question: str
    answer: str


def read_problems(path: str, limit: int | None = None) -> Iterator[Problem | Dropped]:
    """Problems of a data set in file order, each question once; unusable rows as `Dropped`.

    Reads rows with a question (``question`` or ``problem``) and an answer (``answer``,
    ``final_answer``, ``expected_answer`` or ``ground_truth_answer``: the answer itself, or a
    solution that states it), as GSM8K has them. Of OpenMathInstruct-1 it takes rows that are
    flagged correct and whose predicted answer is the expected one, since the flag alone is noisy.
    Questions are compared by `normalise_problem`.

    Args:
        path: a file, a folder or a Hub id, as for `read_rows`.
        limit: at most this many problems; None takes all.

    Raises:
        FileNotFoundError: there is no such file, and no such data set can be reached.
        ValueError: the data set is empty, or none of its rows is a problem.
    """
    seen: set[str] = set()  # ids of the problems
    columns = [(column,) for column in QUESTION_COLUMNS]
    last = ""
    rows = read_rows(path)
    for found in parse_rows(rows, lambda row, _: [_problem_of(row, seen)], name_of(path), columns):
        yield found
        last = last if isinstance(found, Problem) else found.message
        if len(seen) == limit:
            return
    if not seen:
        raise ValueError(f"problems: no row of {path} is a problem with an answer ({last})")


def read_questions(path: str) -> Iterator[tuple[str, str]]:
    """The question of every row of a data set, and the place of the row.

    A question is a text under ``prompt``, ``problem``, ``question`` or ``input`` (the last is cut
    at Math-Shepherd's "Step 1:"), or under ``question.problem`` as in PRM800K.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a row holds no question; what cannot be read cannot be compared.
    """
    for row in read_rows(path):
        if isinstance(row, Dropped):
            raise ValueError(row.message)
        nested = row.values.get("question")
        values = nested if isinstance(nested, dict) else row.values
        key = next((k for k in ANY_QUESTION_COLUMNS if isinstance(values.get(k), str)), None)
        if key is None:
            raise ValueError(
                f"{row.place}: has the columns {ascii(', '.join(row.values))[1:200]}, expected a "
                f"problem as text under one of {', '.join(ANY_QUESTION_COLUMNS)}; rename one."
            )
        text = cut_chat_markup(values[key])
        yield text.partition("Step 1:")[0] if key == "input" else text, row.place


def _problem_of(row: dict[str, Any], seen: set[str]) -> Problem:
    question, answer = (
        next((row[column] for column in columns if column in row), None)
        for columns in (QUESTION_COLUMNS, ANSWER_COLUMNS)
    )
    question = problem_in(question, "question")
    key = digest(normalise_problem(question))[:16]
    if key in seen:
        raise RowError("question seen before", "left out, each question is taken once.")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise unexpected("no answer", "the answer", answer, f"one in {', '.join(ANSWER_COLUMNS)}")
    is_correct = flag_in(row.get("is_correct"), "is_correct")
    if is_correct is False:
        raise RowError("not flagged correct", "left out, its is_correct is false.")
    text = str(answer).strip()
    is_solution = "####" in text or "\\boxed" in text or "\n" in text
    stated = extract_answer(str(answer)) if is_solution else text or None
    if stated is None:
        raise RowError("no answer", f"left out, its answer {show(answer)} states none.")
    predicted = row.get("predicted_answer")
    if is_correct and predicted is not None and not same_answer(stated, str(predicted)):
        reason = "flagged correct with another answer"
        raise unexpected(reason, "predicted_answer", predicted, show(stated))
    seen.add(key)
    return Problem(key, question, stated)
