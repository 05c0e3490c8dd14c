"""Math-Shepherd: one text with a mark behind every step, and the same text with labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prm_lightning.sources.fields import (
    Marks,
    RowError,
    is_text,
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

COLUMNS = ("input", "label")
_SIGN = re.compile(r"[+-]|\d{0,3}(?:\.\d{1,20})?(?:[eE]-\d{1,2})?")


class MathShepherd:
    """Rows of ``input, label, task``, as peiyi9979/Math-Shepherd has them.

    ``input`` is the question and, on the same line, "Step 1: … ки", then further steps, each with
    ``ки`` behind it; ``label`` is the same text with ``+`` or ``-`` in place of every ``ки``, or
    with a number in [0, 1], a soft label. The two are read side by side, so that signs inside the
    text are no labels. A mark inside the question belongs to no step and goes with its label; text
    behind the last mark is an unlabelled step. The labels come from rollouts: ``+`` says that the
    answer could still be reached from there.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the name of the file or data set.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        calculator_marks: Marks = "remove",
        step_numbers: Marks = "remove",
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
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
        return parse_rows(rows, self._parse, self.name, COLUMNS)

    def _parse(self, values: dict[str, Any], id: str) -> list[Solution]:
        require_columns(values, COLUMNS)
        for column in COLUMNS:
            if not is_text(values[column]):
                shown = show(values[column])
                raise RowError(f"{column} is not text", f"{column} is {shown}, expected text.")
        pieces = values["input"].split(STEP_MARK)
        if len(pieces) == 1:
            raise RowError("no steps", f"input has no {STEP_MARK}, expected one behind each step.")
        labels = _read_labels(pieces, values["label"])
        question, first, step = find_first_step(pieces)
        texts = [step, *pieces[first + 1 :]]
        steps = make_steps(texts, [*labels[first:], None], self.clean, "input")
        return [Solution(problem_in(question, "input"), steps, self.name, id)]


def _read_labels(pieces: Sequence[str], label: str) -> list[float | None]:
    """What stands in `label` in place of the marks between the pieces."""
    labels, at = [], 0
    for piece in pieces[:-1]:
        sign = _SIGN.match(label, at + len(piece)) if label.startswith(piece, at) else None
        if not sign or not sign.group():
            raise _mismatch(label[at:], piece)
        labels.append(sign_in(sign.group(), "label"))
        at = sign.end()
    if label[at:].strip() != pieces[-1].strip():
        raise _mismatch(label[at:], pieces[-1])
    return labels


def _mismatch(found: str, piece: str) -> RowError:
    return RowError(
        "input and label differ",
        f"label goes on with {show(found)} where input has {show(piece)}, expected the same text "
        "with +, - or a number in place of the mark; mend or remove the row.",
    )
