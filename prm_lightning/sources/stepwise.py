"""Rows of ``prompt, completions, labels``: gsm8k-gen-stepwise, TRL sets, any Hub id or file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from prm_lightning.sources.fields import (
    Marks,
    answer_in,
    claim_id,
    is_text,
    labels_in,
    list_in,
    make_steps,
    parse_rows,
    problem_in,
    require_columns,
    step_cleaner,
    texts_in,
)
from prm_lightning.sources.formatted import (
    PREFIX_COLUMNS,
    SOLUTION_COLUMNS,
    Prefix,
    join_prefixes,
    prefix_in,
    solution_in,
)
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.text import fold_newlines
from prm_lightning.types import Dropped, Solution, Step

COLUMNS = ("prompt", "completions", "labels")
# What is documented of ebony59/gsm8k-gen-stepwise. Its rows were not opened when this was
# written, so a difference is reported, not refused.
GSM8K_GEN = "gsm8k-gen-stepwise"
GSM8K_GEN_ROWS = "50916 rows"
GSM8K_GEN_COLUMNS = "completions list[str], labels list[bool], prompt str"
ANSWER_MARK = "####"

Item = Solution | Prefix | Dropped

log = logging.getLogger(__name__)


class Stepwise:
    """Solutions with one label a step, in the stepwise-supervision layout of TRL.

    One row is one attempt: ``prompt`` is the question, as plain text or inside chat markup;
    ``completions`` are the steps of the attempt; ``labels`` holds one bool, number in [0, 1] or
    null (unlabelled) for each. Blank completions are no steps and go with their labels. An
    optional column ``answer`` holds the reference answer. Without one, an attempt that ends in a
    step ``#### n`` and whose every label is 1 gives it, also to the rows of that problem that
    come next.

    Both layouts that ``format`` writes are known by their columns and read back: rows of
    ``problem, steps, labels`` (and ``weights, source, id`` if they are there), and rows of
    ``problem, previous_steps, step, label``, one a step, of which those of one solution that
    follow each other are joined.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means what a row that `format` wrote says,
            else the file's stem, the folder's name or the last part of the Hub id.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
        completions: ``steps`` of one attempt; or ``attempts``, each with one label, whose lines
            are the steps. Every line of an attempt with label 1 is right; any other label says
            nothing of single lines, so that only the last one is labelled.
        streaming: read a Hub data set as it is needed instead of fetching it first.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        calculator_marks: Marks = "remove",
        completions: Literal["steps", "attempts"] = "steps",
        *,
        streaming: bool = False,
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.renames = bool(name)
        self.clean = step_cleaner(calculator_marks)
        self.completions = completions
        self.streaming = streaming

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``name:row index``, or why there is none.

        An attempt of a row of attempts has the id ``name:row index.position``. An id that stands
        in the row is kept, with a suffix such as ``#2`` where it is taken.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack needed columns altogether.
        """
        rows = read_rows(self.path, self.split, streaming=self.streaming)
        if self.path.rstrip("/").endswith(GSM8K_GEN):
            rows = _compare_with_documented(rows, self.path)
        return self.parse(rows)

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        taken: Counter[str] = Counter()

        def parse(values: dict[str, Any], id: str) -> Iterable[Solution | Prefix]:
            if values.keys() >= {*PREFIX_COLUMNS}:
                return [prefix_in(values, id)]
            if values.keys() >= {*SOLUTION_COLUMNS}:
                solution = solution_in(values, self._name_of_row(values), id, self.clean)
                return [replace(solution, id=claim_id(solution.id, taken))]
            return self._parse(values, id)

        layouts = (COLUMNS, SOLUTION_COLUMNS, PREFIX_COLUMNS)
        found = parse_rows(rows, parse, self.name, *layouts)
        found = _carry_answers(found)
        return join_prefixes(found, self.name, self.clean)

    def _parse(self, values: dict[str, Any], id: str) -> list[Solution]:
        require_columns(values, COLUMNS)
        problem, answer = problem_in(values["prompt"], "prompt"), answer_in(values.get("answer"))
        list_in(values["completions"], "completions")
        labels = labels_in(values["labels"], "labels")
        texts = texts_in(values["completions"], "completions")
        if self.completions == "steps":
            steps = make_steps(texts, labels, self.clean, "completions")
            return [Solution(problem, steps, self.name, id, answer=answer)]
        make_steps(texts, labels, str, "completions")  # one label an attempt, one not blank
        return [
            Solution(problem, steps, self.name, f"{id}.{position}", answer=answer)
            for position, (text, label) in enumerate(zip(texts, labels, strict=True))
            if text.strip() and (steps := self._steps_of_attempt(text, label))
        ]

    def _steps_of_attempt(self, text: str, label: float | None) -> tuple[Step, ...]:
        lines = [line for line in fold_newlines(text).split("\n") if line.strip()]
        labels = [1.0 if label == 1 else None] * (len(lines) - 1) + [label]
        return make_steps(lines, labels, self.clean)

    def _name_of_row(self, values: dict[str, Any]) -> str:
        source = values.get("source")
        return source if not self.renames and source and is_text(source) else self.name


def _carry_answers(items: Iterable[Item]) -> Iterator[Item]:
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


def _compare_with_documented(rows: Iterable[Row | Dropped], path: str) -> Iterator[Row | Dropped]:
    count, columns = 0, ""
    for row in rows:
        count += 1
        if isinstance(row, Row) and not columns:
            columns = _describe_columns(row.values)
            _compare(path, columns, GSM8K_GEN_COLUMNS)
        yield row
    _compare(path, f"{count} rows", GSM8K_GEN_ROWS)


def _describe_columns(values: dict[str, Any]) -> str:
    return ", ".join(f"{column} {_type_name(values[column])}" for column in sorted(values))


def _type_name(value: object) -> str:
    if isinstance(value, list):
        return f"list[{'|'.join(sorted({type(item).__name__ for item in value}))}]"
    return type(value).__name__


def _compare(path: str, found: str, documented: str) -> None:
    if found != documented:
        log.warning("%s: found %s, documented are %s; read all the same.", path, found, documented)
