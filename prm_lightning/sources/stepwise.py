"""Rows with one label for each step: TRL's layout, and the two layouts that `format` writes.

In: rows of ``prompt, completions, labels``, or what `format` wrote. Out: `Solution`s.
Read next: `layouts.py`, the other layouts.
"""

from __future__ import annotations

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
    step_cleaner,
    text_in,
    texts_in,
    unexpected,
)
from prm_lightning.sources.rows import FileSource, RowError, parse_rows, read_rows
from prm_lightning.text import fold_newlines
from prm_lightning.types import Dropped, Solution, Step


class Prefix(NamedTuple):
    """One row of the layout `steps`: a solution up to one step, whose label is known."""

    solution: Solution
    total: object  # how many steps the whole solution has; None where the row does not say


# {"prompt": "2 + 3?", "completions": ["2 + 3 = 5", "The answer is 6."], "labels": [true, false]}
# {"problem": "2 + 3?", "steps": ["2 + 3 = 5", "So 6."], "labels": [1.0, 0.0]}, of `format`:
# {"problem": "2 + 3?", "previous_steps": ["2 + 3 = 5"], "step": "So 6.", "label": 0}
@dataclass
class Stepwise(FileSource):
    """Solutions with one label for each step, in the stepwise-supervision layout of TRL.

    One row is one attempt: ``prompt`` is the question, as plain text or inside chat markup;
    ``completions`` are its steps; ``labels`` holds one bool, number in [0, 1] or null (unlabelled)
    for each. Blank completions are no steps and go with their labels. An optional column
    ``answer`` holds the reference answer. Without one, an attempt that ends in a step ``#### n``
    and whose every label is 1 gives it, also to the rows of that problem that come next.

    Both layouts that ``format`` writes are read back: rows of ``problem, steps, labels`` (and
    ``weights, source, id`` if they are there), and rows of ``problem, previous_steps, step,
    label``, one for each step, of which those of one solution that follow each other are joined.
    The name of such solutions is what the row says, unless `name` is given.

    Args:
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
        completions: ``steps`` of one attempt; or ``attempts``, each with one label, whose lines
            are the steps. Every line of an attempt with label 1 is right; any other label says
            nothing of single lines, so that only the last one is labelled.
        streaming: read a Hub data set as it is needed instead of fetching it first.
    """

    layouts = (
        ("prompt", "completions", "labels"),
        ("problem", "steps", "labels"),
        ("problem", "previous_steps", "step", "label"),
    )
    calculator_marks: Marks = "remove"
    completions: Literal["steps", "attempts"] = "steps"
    streaming: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._renames = bool(self.name)
        super().__post_init__()
        self._clean = step_cleaner(self.calculator_marks)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield solutions, with ids ``name:row index`` unless the row has one, or dropped rows; an
        attempt of a row of attempts has the id ``name:row index.position``.
        """
        rows = read_rows(self.path, self.split, streaming=self.streaming)
        items = parse_rows(rows, self._parse, self.name, self.layouts)
        return _carry_answers(_join_prefixes(items))

    def _parse(self, row: dict[str, Any], id: str) -> Iterator[Solution | Prefix]:
        if row.keys() >= {"prompt", "completions", "labels"}:
            yield from self._attempts(row, id)
        elif row.keys() >= {"steps", "labels"}:
            yield self._whole(row, id)
        else:
            previous = texts_in(row["previous_steps"], "previous_steps")
            step, label = text_in(row["step"], "step"), label_in(row["label"], "label")
            path, index = row.get("reasoning_path"), row.get("step_index")
            if path not in (None, [*previous, step]) or index not in (None, len(previous)):
                message = "reasoning_path or step_index does not fit previous_steps and step."
                raise RowError("columns contradict each other", message)
            before = tuple(Step(self._clean(text)) for text in previous if text.strip())
            steps = before + make_steps([step], [label], self._clean, "step")
            problem = problem_in(row["problem"], "problem")
            yield Prefix(Solution(problem, steps, self.name, id), row.get("total_steps"))

    def _attempts(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        problem, answer = problem_in(row["prompt"], "prompt"), answer_in(row.get("answer"))
        texts = texts_in(row["completions"], "completions")
        labels = labels_in(row["labels"], "labels")
        steps = make_steps(texts, labels, self._clean, "completions")
        if self.completions == "steps":
            yield Solution(problem, steps, self.name, id, answer=answer)
            return
        for position, (text, label) in enumerate(zip(texts, labels, strict=True)):
            if lines := [line for line in fold_newlines(text).split("\n") if line.strip()]:
                before = [1.0 if label == 1 else None] * (len(lines) - 1)
                steps = make_steps(lines, [*before, label], self._clean)
                yield Solution(problem, steps, self.name, f"{id}.{position}", answer=answer)

    def _whole(self, row: dict[str, Any], id: str) -> Solution:
        """A row of the layout `solutions`; its weights, id, source and group may be missing."""
        weights = None
        if "weights" in row:
            weights = [_weight_in(w, k) for k, w in enumerate(list_in(row["weights"], "weights"))]
        texts, labels = texts_in(row["steps"], "steps"), labels_in(row["labels"], "labels")
        source, own_id, group = (
            value if is_text(value := row.get(column)) else ""
            for column in ("source", "id", "group")
        )
        return Solution(
            problem=problem_in(row["problem"], "problem"),
            steps=make_steps(texts, labels, self._clean, "steps", weights),
            source=self.name if self._renames else source or self.name,
            id=own_id or id,
            group=group,
            answer=answer_in(row.get("answer")),
        )


def _join_prefixes(items: Iterable[Solution | Dropped | Prefix]) -> Iterator[Solution | Dropped]:
    """Join prefixes that follow each other and of which each continues the last one.

    A step of which no row speaks, since `format` balanced the classes, say, is unlabelled, and
    steps after the last row are unknown. Everything else is passed on.
    """
    known: Solution | None = None  # the last prefixes joined
    total: object = None
    for item in items:
        if known and not isinstance(item, Dropped):
            if isinstance(item, Prefix) and _continues(known, total, item):
                known = replace(known, steps=known.steps + item.solution.steps[len(known.steps) :])
                continue
            yield known
            known = None
        if isinstance(item, Prefix):
            known, total = item
        else:
            yield item
    if known:
        yield known


def _continues(known: Solution, total: object, next: Prefix) -> bool:
    old, new = ([step.text for step in solution.steps] for solution in (known, next.solution))
    same = (known.problem, total) == (next.solution.problem, next.total)
    return same and len(new) > len(old) and new[: len(old)] == old


def _carry_answers(items: Iterable[Solution | Dropped]) -> Iterator[Solution | Dropped]:
    """Take the answer of a problem from an attempt that is right to the end."""
    problem, answer = "", None  # of the last such attempt
    for item in items:
        if isinstance(item, Solution) and item.answer is None:
            stated = answer_of(item.steps[-1].text)
            if stated and all(step.label == 1 for step in item.steps):
                problem, answer = item.problem, stated
            if item.problem == problem:
                item = replace(item, answer=answer)
        yield item


def answer_of(step: str) -> str | None:
    """The answer that a step of the form ``#### n`` states."""
    return step.removeprefix("####").strip() or None if step.startswith("####") else None


def _weight_in(value: object, number: int) -> float:
    if isinstance(value, (int, float)) and 0 <= value < math.inf:
        return float(value)
    raise unexpected("weight below 0", f"weights[{number}]", value, "a finite number >= 0")
