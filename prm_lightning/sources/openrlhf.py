"""OpenRLHF's process reward data: a text with placeholders and a list of values for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prm_lightning.sources.fields import (
    Marks,
    RowError,
    is_text,
    list_in,
    make_steps,
    parse_rows,
    problem_in,
    require_columns,
    show,
    sign_in,
    step_cleaner,
)
from prm_lightning.sources.marked_text import STEP_MARK, find_first_step
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.types import Dropped, Solution


class OpenRlhf:
    """Rows of ``input, value``, as OpenRLHF's trainer for process reward models read them.

    ``input`` runs from the question through the solution, with the placeholder behind every step;
    ``value`` holds ``+``, ``-``, a number in [0, 1] or null (unlabelled) for each placeholder.
    Placeholders inside the question may have values of their own or not. Text behind the last
    placeholder is an unlabelled step.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the name of the file or data set.
        placeholder_token: what stands behind every step.
        input_key: the column of the text.
        label_key: the column of the values.
        question_end: the text between question and first step; empty means that the first step
            begins with "Step 1:", or that the question ends in the only question mark before it.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.

    Raises:
        ValueError: the placeholder is empty.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        placeholder_token: str = STEP_MARK,
        input_key: str = "input",
        label_key: str = "value",
        question_end: str = "",
        calculator_marks: Marks = "remove",
        step_numbers: Marks = "remove",
    ) -> None:
        if not placeholder_token:
            raise ValueError(
                "OpenRlhf: placeholder_token is empty, expected the text behind every step; "
                f"leave it out for {STEP_MARK!r}."
            )
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.placeholder_token = placeholder_token
        self.columns = (input_key, label_key)
        self.question_end = question_end
        self.clean = step_cleaner(calculator_marks, step_numbers)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``name:row index``, or why there is none.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack a column altogether.
        """
        return self.parse(read_rows(self.path, self.split))

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        return parse_rows(rows, self._parse, self.name, self.columns)

    def _parse(self, values: dict[str, Any], id: str) -> list[Solution]:
        require_columns(values, self.columns)
        text, (text_column, label_column) = values[self.columns[0]], self.columns
        if not is_text(text):
            raise RowError(
                f"{text_column} is not text", f"{text_column} is {show(text)}, expected text."
            )
        labels = [
            sign_in(value, f"{label_column}[{number}]")
            for number, value in enumerate(list_in(values[label_column], label_column))
        ]
        pieces = text.split(self.placeholder_token)
        marks = len(pieces) - 1
        if not marks:
            raise RowError(
                "no placeholder",
                f"{text_column} has no {show(self.placeholder_token)}, expected one behind each "
                "step; set placeholder_token.",
            )
        question, first, step = find_first_step(pieces, self.question_end)
        if len(labels) not in (marks, marks - first):
            raise RowError(
                "steps and labels differ in number",
                f"{marks} placeholders {show(self.placeholder_token)} but {len(labels)} values, "
                "expected one each; check placeholder_token, or mend the row.",
            )
        labels = labels[first:] if len(labels) == marks else labels
        texts = [step, *pieces[first + 1 :]]
        steps = make_steps(texts, [*labels, None], self.clean, text_column)
        return [Solution(problem_in(question, text_column), steps, self.name, id)]
