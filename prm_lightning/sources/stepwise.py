"""Rows with one label for each step: TRL's layout, and the two layouts that `format` writes.

In: rows of ``prompt, completions, labels``, or what `format` wrote. Out: `Solution`s.
Read next: `layouts.py`, the other layouts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from prm_lightning.sources.fields import (
    Marks,
    answer_in,
    is_text,
    label_in,
    labels_in,
    list_in,
    make_steps,
    problem_in,
    show,
    step_cleaner,
    text_in,
    texts_in,
)
from prm_lightning.sources.file_source import LAYOUTS, FileSource, RowError, finish, parse_rows
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import fold_newlines
from prm_lightning.types import Dropped, Solution, Step

# What is documented of ebony59/gsm8k-gen-stepwise. Its rows were not opened when this was
# written, so a difference is reported, not refused.
GSM8K_GEN = "gsm8k-gen-stepwise"
GSM8K_GEN_ROWS = "50916 rows"
GSM8K_GEN_COLUMNS = "completions list[str], labels list[bool], prompt str"
ANSWER_MARK = "####"

log = logging.getLogger(__name__)


class Prefix(NamedTuple):
    """One row of the layout `steps`: a solution up to one step, whose label is known.

    Args:
        solution: up to the labelled step.
        total: how many steps the whole solution has; None where the row does not say.
    """

    solution: Solution
    total: int | None


# {"prompt": "2 + 3?", "completions": ["2 + 3 = 5", "The answer is 6."], "labels": [true, false]}
# {"problem": "2 + 3?", "steps": ["2 + 3 = 5", "So 6."], "labels": [1.0, 0.0]}, of `format`:
# {"problem": "2 + 3?", "previous_steps": ["2 + 3 = 5"], "step": "So 6.", "label": 0}
@dataclass
class Stepwise(FileSource):
    """Solutions with one label for each step, in the stepwise-supervision layout of TRL.

    One row is one attempt: ``prompt`` is the question, as plain text or inside chat markup;
    ``completions`` are the steps of the attempt; ``labels`` holds one bool, number in [0, 1] or
    null (unlabelled) for each. Blank completions are no steps and go with their labels. An
    optional column ``answer`` holds the reference answer. Without one, an attempt that ends in a
    step ``#### n`` and whose every label is 1 gives it, also to the rows of that problem that
    come next.

    Both layouts that ``format`` writes are known by their columns and read back: rows of
    ``problem, steps, labels`` (and ``weights, source, id`` if they are there), and rows of
    ``problem, previous_steps, step, label``, one for each step, of which those of one solution
    that follow each other are joined. The name of such solutions is what the row says, unless
    `name` is given.

    Args:
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
        completions: ``steps`` of one attempt; or ``attempts``, each with one label, whose lines
            are the steps. Every line of an attempt with label 1 is right; any other label says
            nothing of single lines, so that only the last one is labelled.
        streaming: read a Hub data set as it is needed instead of fetching it first.
    """

    layouts = LAYOUTS["Stepwise"]
    calculator_marks: Marks = "remove"
    completions: Literal["steps", "attempts"] = "steps"
    streaming: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._renames = bool(self.name)
        super().__post_init__()
        self._clean = step_cleaner(self.calculator_marks)

    def rows(self) -> Iterator[Row | Dropped]:
        """The raw rows; those of gsm8k-gen-stepwise are compared with what is documented."""
        rows = read_rows(self.path, self.split, streaming=self.streaming)
        is_known = isinstance(self.path, str) and self.path.rstrip("/").endswith(GSM8K_GEN)
        return _compare_with_documented(rows, str(self.path)) if is_known else rows

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield solutions, with ids ``name:row index`` unless the row has one, or dropped rows.

        An attempt of a row of attempts has the id ``name:row index.position``.
        """
        items = parse_rows(self.rows(), self._parse, self.name, self.layouts)
        return finish(_carry_answers(_join_prefixes(items)), self.name)

    def _parse(self, row: dict[str, Any], id: str) -> Iterator[Solution | Prefix]:
        layout = next(layout for layout in self.layouts if row.keys() >= set(layout))
        if "previous_steps" in layout:
            yield self._prefix(row, id)
            return
        problem_column, steps_column, _ = layout
        problem, answer = (
            problem_in(row[problem_column], problem_column),
            answer_in(row.get("answer")),
        )
        labels = labels_in(row["labels"], "labels")
        texts = texts_in(row[steps_column], steps_column)
        if problem_column == "problem":
            yield self._formatted(row, id, problem, texts, labels, answer)
        elif self.completions == "steps":
            steps = make_steps(texts, labels, self._clean, "completions")
            yield Solution(problem, steps, self.name, id, answer=answer)
        else:
            make_steps(texts, labels, str, "completions")  # one label each, one that is not blank
            for position, (text, label) in enumerate(zip(texts, labels, strict=True)):
                if text.strip():
                    steps = self._steps_of_attempt(text, label)
                    yield Solution(problem, steps, self.name, f"{id}.{position}", answer=answer)

    def _steps_of_attempt(self, text: str, label: float | None) -> tuple[Step, ...]:
        lines = [line for line in fold_newlines(text).split("\n") if line.strip()]
        labels = [1.0 if label == 1 else None] * (len(lines) - 1) + [label]
        return make_steps(lines, labels, self._clean)

    def _formatted(
        self,
        row: dict[str, Any],
        id: str,
        problem: str,
        texts: list[str],
        labels: list[float | None],
        answer: str | None,
    ) -> Solution:
        """A row of the layout `solutions`; its weights, id, source and group may be missing."""
        weights = None
        if "weights" in row:
            weights = [_weight_in(w, k) for k, w in enumerate(list_in(row["weights"], "weights"))]
        source, own_id, group = (row.get(column) for column in ("source", "id", "group"))
        return Solution(
            problem=problem,
            steps=make_steps(texts, labels, self._clean, "steps", weights),
            source=source if not self._renames and source and is_text(source) else self.name,
            id=own_id if is_text(own_id) and own_id else id,
            group=group if is_text(group) else "",
            answer=answer,
        )

    def _prefix(self, row: dict[str, Any], id: str) -> Prefix:
        """A row of the layout `steps`; its three columns that repeat the others are checked."""
        previous, step = (
            texts_in(row["previous_steps"], "previous_steps"),
            text_in(row["step"], "step"),
        )
        path, index, total = (row.get(k) for k in ("reasoning_path", "step_index", "total_steps"))
        agrees = (
            path in (None, [*previous, step])
            and index in (None, len(previous))
            and (total is None or (isinstance(total, int) and total > len(previous)))
        )
        if not agrees:
            raise RowError(
                "columns contradict each other",
                f"step_index {show(index)}, total_steps {show(total)} and a reasoning_path of "
                f"{len(path) if isinstance(path, list) else show(path)} steps do not fit "
                f"{len(previous)} previous_steps and the step; write the row again.",
            )
        (last,) = make_steps([step], [label_in(row["label"], "label")], self._clean, "step")
        before = tuple(Step(self._clean(text)) for text in previous if text.strip())
        problem = problem_in(row["problem"], "problem")
        return Prefix(Solution(problem, (*before, last), self.name, id), total)


def _join_prefixes(
    items: Iterable[Solution | Dropped | Prefix],
) -> Iterator[Solution | Dropped]:
    """Join prefixes that follow each other and of which each continues the last one.

    A step of which no row speaks, since `format` balanced the classes, say, is unlabelled, and
    steps after the last row are unknown. Everything else is passed on.
    """
    pending: Prefix | None = None
    for item in items:
        if isinstance(item, Prefix) and pending and _continues(pending, item):
            known, new = pending.solution, item.solution
            steps = (*known.steps, *new.steps[len(known.steps) :])
            pending = Prefix(replace(known, steps=steps), item.total)
            continue
        if pending and not isinstance(item, Dropped):
            yield pending.solution
            pending = None
        if isinstance(item, Prefix):
            pending = item
        else:
            yield item
    if pending:
        yield pending.solution


def _continues(last: Prefix, next: Prefix) -> bool:
    old, new = ([step.text for step in prefix.solution.steps] for prefix in (last, next))
    same = (last.solution.problem, last.total) == (next.solution.problem, next.total)
    return same and len(new) > len(old) and new[: len(old)] == old


def _carry_answers(items: Iterable[Solution | Dropped]) -> Iterator[Solution | Dropped]:
    """Take the answer of a problem from an attempt that is right to the end."""
    problem, answer = "", None  # of the last such attempt
    for item in items:
        if isinstance(item, Solution) and item.answer is None:
            last = item.steps[-1].text
            if last.startswith(ANSWER_MARK) and all(step.label == 1 for step in item.steps):
                problem, answer = item.problem, last.removeprefix(ANSWER_MARK).strip() or None
            if item.problem == problem and answer is not None:
                item = replace(item, answer=answer)
        yield item


def _weight_in(value: object, number: int) -> float:
    if isinstance(value, (int, float)) and 0 <= value < math.inf:
        return float(value)
    raise RowError(
        "weight below 0",
        f"weights[{number}] is {show(value)}, expected a finite number >= 0; mend the row.",
    )


def _compare_with_documented(rows: Iterable[Row | Dropped], path: str) -> Iterator[Row | Dropped]:
    count, columns = 0, ""
    for row in rows:
        count += 1
        if isinstance(row, Row) and not columns:
            columns = ", ".join(f"{c} {_type_name(row.values[c])}" for c in sorted(row.values))
            _compare(path, columns, GSM8K_GEN_COLUMNS)
        yield row
    _compare(path, f"{count} rows", GSM8K_GEN_ROWS)


def _type_name(value: object) -> str:
    if isinstance(value, list):
        return f"list[{'|'.join(sorted({type(item).__name__ for item in value}))}]"
    return type(value).__name__


def _compare(path: str, found: str, documented: str) -> None:
    if found != documented:
        log.warning("%s: found %s, documented are %s; read anyway.", path, found, documented)
