"""GSM8K: rows of ``question, answer`` with the reference solution, all of it right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prm_lightning.sources.fields import (
    Marks,
    make_steps,
    parse_rows,
    problem_in,
    require_columns,
    step_cleaner,
    texts_in,
)
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.types import Dropped, Solution

COLUMNS = ("question", "answer")
ANSWER_MARK = "####"


class Gsm8k:
    """Reference solutions of GSM8K, each line a step with label 1.

    The last line, ``#### n``, is a step too, and n the answer. All steps are right, so that the
    rows are for `Corrupted` to break, or to train on beside wrong solutions.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the file's stem, the folder's name
            or the last part of the Hub id.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        calculator_marks: Marks = "remove",
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.clean = step_cleaner(calculator_marks)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``name:row index``, or why there is none.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack needed columns altogether.
        """
        return self.parse(read_rows(self.path, self.split))

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        return parse_rows(rows, self._parse, self.name, COLUMNS)

    def _parse(self, values: dict[str, Any], id: str) -> list[Solution]:
        require_columns(values, COLUMNS)
        problem = problem_in(values["question"], "question")
        (text,) = texts_in([values["answer"]], "answer")
        lines = text.replace("\r\n", "\n").split("\n")
        steps = make_steps(lines, [1.0] * len(lines), self.clean, "lines of answer")
        last = steps[-1].text
        answer = last.removeprefix(ANSWER_MARK).strip() if last.startswith(ANSWER_MARK) else ""
        return [Solution(problem, steps, self.name, id, answer=answer or None)]
