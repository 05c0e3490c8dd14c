"""ProcessBench: solutions whose first wrong step is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from prm_lightning.sources.fields import (
    RowError,
    claim_id,
    is_text,
    make_steps,
    parse_rows,
    problem_in,
    require_columns,
    show,
    texts_in,
)
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.text import fold_newlines
from prm_lightning.types import ALL_CORRECT, Dropped, Solution

COLUMNS = ("problem", "steps", "label")


class ProcessBench:
    """Rows of ``id, problem, steps, final_answer_correct, label``, as Qwen/ProcessBench has them.

    ``label`` is the 0-based index of the first wrong step, -1 if every step is right. Steps before
    it are right, steps behind it unlabelled. A solution may reach the right answer with a wrong
    step, and a wrong answer with every step right.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split. ProcessBench itself
            has ``gsm8k``, ``math``, ``olympiadbench`` and ``omnimath``.
        name: what to report the solutions under; empty means the name of the file or data set.
        final_answer: read the solutions with a ``correct`` or a ``wrong`` final answer alone; the
            others are dropped and counted.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        final_answer: Literal["any", "correct", "wrong"] = "any",
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.final_answer = final_answer

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with the row's id, or why there is none.

        An id that is taken gets a suffix such as ``#2``; a row without one is ``name:row index``.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack a column altogether.
        """
        return self.parse(read_rows(self.path, self.split))

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        taken: Counter[str] = Counter()

        def parse(values: dict[str, Any], id: str) -> list[Solution]:
            require_columns(values, COLUMNS)
            self._require_chosen(values.get("final_answer_correct"))
            texts = texts_in(values["steps"], "steps")
            labels = _labels(values["label"], texts)
            steps = make_steps(texts, labels, fold_newlines)
            problem = problem_in(values["problem"], "problem")
            own = values.get("id")
            id = own if own and is_text(own) else id
            id = claim_id(id, taken)
            return [Solution(problem, steps, self.name, id)]

        return parse_rows(rows, parse, self.name, COLUMNS)

    def _require_chosen(self, correct: object) -> None:
        if correct is not None and not isinstance(correct, bool):
            raise RowError(
                "final answer neither correct nor wrong",
                f"final_answer_correct is {show(correct)}, expected true or false; mend the row.",
            )
        if self.final_answer != "any" and correct is not (self.final_answer == "correct"):
            raise RowError(
                f"final answer not {self.final_answer}",
                f"final_answer_correct is {show(correct)}, and final_answer={self.final_answer} "
                "was asked for.",
            )


def _labels(label: Any, texts: list[str]) -> list[float | None]:
    first = label if type(label) in (int, float) else None
    if first is None or first != first // 1 or not ALL_CORRECT <= first < len(texts):
        raise RowError(
            "label is no step",
            f"label is {show(label)} and there are {len(texts)} steps, expected -1 or the 0-based "
            "index of the first wrong step; mend or remove the row.",
        )
    first = int(first)
    if first == ALL_CORRECT:
        return [1.0] * len(texts)
    if not texts[first].strip():
        raise RowError(
            "wrong step is blank",
            f"label is {first}, but steps[{first}] is {show(texts[first])}; remove the row.",
        )
    return [*[1.0] * first, 0.0, *[None] * (len(texts) - first - 1)]
